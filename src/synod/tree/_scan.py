"""Reading fields out of one client frame without ever reading past its end, and without exceptions.

A `Scanner` that ran out of bytes says so in `bad`, once, at the end: what it returned meanwhile is harmless.
"""

from __future__ import annotations

import struct
from typing import Final

INT: Final = struct.Struct(">i")
LONG: Final = struct.Struct(">q")


class Scanner:
    """A cursor over `data[at:end]`.

    Invariant: `at <= end`; after `bad` is set nothing more is read.
    """

    __slots__ = ("at", "bad", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end
        self.bad = False

    def int32(self) -> int:
        """The next signed 32-bit integer, or 0 when there is none."""
        at = self.at
        if self.bad or at + 4 > self.end:
            self.bad = True
            return 0
        self.at = at + 4
        value: int = INT.unpack_from(self.data, at)[0]
        return value

    def int64(self) -> int:
        """The next signed 64-bit integer, or 0 when there is none."""
        at = self.at
        if self.bad or at + 8 > self.end:
            self.bad = True
            return 0
        self.at = at + 8
        value: int = LONG.unpack_from(self.data, at)[0]
        return value

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
        size = self.int32()
        at = self.at
        if size == -1 and not self.bad:
            return None
        if self.bad or size < 0 or at + size > self.end:
            self.bad = True
            return None
        self.at = at + size
        return self.data[at : at + size]

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
