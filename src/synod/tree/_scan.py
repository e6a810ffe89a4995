"""Reading fields out of one client frame without ever reading past its end, and without exceptions.

A `Scanner` that ran out of bytes says so in `bad`, once, at the end: what it returned meanwhile is harmless.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    # Compiled, an `i64` is a machine's integer: a sum or a shift of it is one instruction, and no call. To the
    # interpreter it is an integer as any other, and this name is never imported.
    from mypy_extensions import i64

INT: Final = struct.Struct(">i")


def int32_at(data: bytes, at: i64) -> i64:
    """The signed 32-bit integer at `data[at:at + 4]`, which the caller knows to be there.

    Byte by byte: compiled, that is a tenth of what a call of struct costs, and every request has some of these.
    Interpreted, it costs more than that call.
    """
    a: i64 = data[at]
    b: i64 = data[at + 1]
    c: i64 = data[at + 2]
    value = a << 24 | b << 16 | c << 8 | data[at + 3]
    return value if a < 0x80 else value - 0x1_0000_0000


def uint32_at(data: bytes, at: i64) -> i64:
    """The same without a sign."""
    return int32_at(data, at) & 0xFFFF_FFFF


def int64_at(data: bytes, at: i64) -> i64:
    """The signed 64-bit integer at `data[at:at + 8]`, which the caller knows to be there."""
    return int32_at(data, at) << 32 | uint32_at(data, at + 4)


_SHORT: Final = [number.to_bytes(4, "big") for number in range(4096)]
"""Lengths, counts and versions are mostly small. A look into this list costs a tenth of what `to_bytes` does."""


def int32_bytes(number: int) -> bytes:
    """A signed 32-bit integer as the protocol writes it: four bytes."""
    return _SHORT[number] if 0 <= number < 4096 else number.to_bytes(4, "big", signed=True)


class Scanner:
    """A cursor over `data[at:end]`.

    Invariant: `at <= end`; after `bad` is set nothing more is read.
    """

    __slots__ = ("at", "bad", "data", "end")

    def __init__(self, data: bytes, at: i64, end: i64) -> None:
        self.data = data
        self.at: i64 = at
        self.end: i64 = end
        self.bad = False

    def int32(self) -> int:
        """The next signed 32-bit integer, or 0 when there is none."""
        at = self.at
        if self.bad or at + 4 > self.end:
            self.bad = True
            return 0
        self.at = at + 4
        return int32_at(self.data, at)

    def int64(self) -> int:
        """The next signed 64-bit integer, or 0 when there is none."""
        at = self.at
        if self.bad or at + 8 > self.end:
            self.bad = True
            return 0
        self.at = at + 8
        return int64_at(self.data, at)

    def boolean(self) -> bool:
        """The next byte as a truth value, or False when there is none."""
        at = self.at
        if self.bad or at + 1 > self.end:
            self.bad = True
            return False
        self.at = at + 1
        return self.data[at] != 0

    def field(self) -> bytes | None:
        """The next string or buffer as bytes; None when it is null (length -1) or there is none."""
        begin = self.at + 4
        if self.bad or begin > self.end:
            self.bad = True
            return None
        size = int32_at(self.data, self.at)
        self.at = begin
        if size == -1:
            return None
        end = begin + size
        if size < 0 or end > self.end:
            self.bad = True
            return None
        self.at = end
        return self.data[begin:end]

    def fields(self) -> list[bytes]:
        """A vector of strings; null counts as empty, null members are malformed."""
        count = self.int32()
        found: list[bytes] = []
        # Every member takes at least its length of 4 bytes: a huge count is refused before it costs anything.
        if count > (self.end - self.at) // 4:
            self.bad = True
            return found
        for _ in range(count):
            member = self.field()
            if member is None:
                self.bad = True
                return found
            found.append(member)
        return found
