"""Jute, the encoding of the protocol: big-endian, strings and buffers behind their length, -1 for null.

A `Reader` never looks past the end of its bytes, and raises RemoteProtocolError for whatever is malformed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from synod.base import LocalProtocolError, RemoteProtocolError

_INT: Final = struct.Struct(">i")
_LONG: Final = struct.Struct(">q")

NULL: Final = _INT.pack(-1)
"""The length of a buffer, string or vector that is not there."""


def pack_int(value: int) -> bytes:
    """A signed 32-bit integer.

    Raises:
        LocalProtocolError: it does not fit; nothing was sent.
    """
    try:
        return _INT.pack(value)
    except struct.error as broken:
        raise LocalProtocolError(f"{value} does not fit the protocol's 32 bits; nothing was sent") from broken


def pack_long(value: int) -> bytes:
    """A signed 64-bit integer.

    Raises:
        LocalProtocolError: it does not fit; nothing was sent.
    """
    try:
        return _LONG.pack(value)
    except struct.error as broken:
        raise LocalProtocolError(f"{value} does not fit the protocol's 64 bits; nothing was sent") from broken


def pack_bool(value: bool) -> bytes:
    """One byte."""
    return b"\x01" if value else b"\x00"


def pack_buffer(value: bytes | None) -> bytes:
    """A buffer behind its length; None is null."""
    return NULL if value is None else _INT.pack(len(value)) + value


def pack_string(value: str | None) -> bytes:
    """A string in UTF-8 behind its length; None is null.

    Raises:
        LocalProtocolError: it holds half a surrogate pair; nothing was sent.
    """
    if value is None:
        return NULL
    try:
        data = value.encode()
    except UnicodeEncodeError as broken:
        raise LocalProtocolError(f"a string cannot be encoded: {broken}; nothing was sent") from broken
    return _INT.pack(len(data)) + data


def pack_strings(values: Sequence[str]) -> bytes:
    """A vector of strings."""
    return _INT.pack(len(values)) + b"".join([pack_string(value) for value in values])


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

    def take_bytes(self, count: int) -> bytes:
        """Exactly so many bytes, without a length before them."""
        if count < 0 or count > len(self.data) - self.at:
            raise RemoteProtocolError(f"a record ends within {count} bytes")
        self.at += count
        return self.data[self.at - count : self.at]

    def take_rest(self) -> bytes:
        """Everything up to the end."""
        return self.take_bytes(self.left)

    def take_string(self) -> str:
        """The next string; a null one is empty."""
        return self.take_string_or_null() or ""

    def take_string_or_null(self) -> str | None:
        """The next string; None when it is null."""
        value = self.take_buffer()
        if value is None:
            return None
        try:
            return value.decode()
        except UnicodeDecodeError as broken:
            raise RemoteProtocolError(f"a string is not UTF-8: {broken}") from broken

    def take_strings(self) -> tuple[str, ...]:
        """The next vector of strings; a null one is empty."""
        return tuple([self.take_string() for _ in range(self.take_count(4))])

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
