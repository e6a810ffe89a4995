"""Jute, the encoding of the protocol: big-endian, strings and buffers behind their length, -1 for null.

A `Reader` never looks past the end of its bytes, and raises RemoteProtocolError for whatever is malformed.
"""

from __future__ import annotations

import struct
from typing import Final

from synod.base import RemoteProtocolError

_INT: Final = struct.Struct(">i")
_LONG: Final = struct.Struct(">q")

STRINGS_MAX: Final = 1_048_576
"""A vector cannot have more members than a frame has bytes."""


def pack_int(value: int) -> bytes:
    """A signed 32-bit integer."""
    return _INT.pack(value)


def pack_long(value: int) -> bytes:
    """A signed 64-bit integer."""
    return _LONG.pack(value)


def pack_bool(value: bool) -> bytes:
    """One byte."""
    return b"\x01" if value else b"\x00"


def pack_buffer(value: bytes | None) -> bytes:
    """A buffer behind its length; None is null."""
    return _INT.pack(-1) if value is None else _INT.pack(len(value)) + value


def pack_string(value: str | None) -> bytes:
    """A string in UTF-8 behind its length; None is null."""
    return pack_buffer(None if value is None else value.encode())


def pack_strings(values: list[str] | tuple[str, ...]) -> bytes:
    """A vector of strings."""
    return _INT.pack(len(values)) + b"".join(pack_string(value) for value in values)


class Reader:
    """A cursor over one frame.

    Invariant: `at` never passes the end.

    Raises:
        RemoteProtocolError: from every method, when the bytes do not hold what is asked for.
    """

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def take_int(self) -> int:
        """The next signed 32-bit integer."""
        value: int = self._take(_INT)
        return value

    def take_long(self) -> int:
        """The next signed 64-bit integer."""
        value: int = self._take(_LONG)
        return value

    def _take(self, layout: struct.Struct) -> int:
        if len(self.data) - self.at < layout.size:
            raise RemoteProtocolError("a record ends within a number")
        value: int = layout.unpack_from(self.data, self.at)[0]
        self.at += layout.size
        return value

    def take_bool(self) -> bool:
        """The next byte as a truth value."""
        if self.at >= len(self.data):
            raise RemoteProtocolError("a record ends before a boolean")
        self.at += 1
        return self.data[self.at - 1] != 0

    def take_buffer(self) -> bytes | None:
        """The next buffer; None when it is null."""
        length = self.take_int()
        if length == -1:
            return None
        if length < 0 or length > len(self.data) - self.at:
            raise RemoteProtocolError(f"a buffer claims {length} bytes")
        self.at += length
        return self.data[self.at - length : self.at]

    def take_string(self) -> str:
        """The next string; a null one is empty."""
        value = self.take_buffer() or b""
        try:
            return value.decode()
        except UnicodeDecodeError as broken:
            raise RemoteProtocolError(f"a string is not UTF-8: {broken}") from broken

    def take_strings(self) -> tuple[str, ...]:
        """The next vector of strings; a null one is empty."""
        return tuple(self.take_string() for _ in range(self.take_count(4)))

    def take_count(self, member_bytes_min: int) -> int:
        """The length of the next vector, which its members must be able to fill."""
        count = self.take_int()
        if count < -1 or count > (len(self.data) - self.at) // member_bytes_min:
            raise RemoteProtocolError(f"a vector claims {count} members")
        return max(count, 0)

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self.data) - self.at
