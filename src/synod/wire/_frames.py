"""Cutting a stream of bytes into frames: a 4-byte length, then that many bytes."""

from __future__ import annotations

import struct
from typing import Final

from synod.base import LocalProtocolError, RemoteProtocolError

from ._codes import FRAME_BYTES_MAX

_LENGTH: Final = struct.Struct(">i")


class FrameSplitter:
    """Collects what the network delivers and hands out whole frames, without their lengths.

    A length is checked before anything is gathered for it, and pieces are joined only when a frame is whole,
    so that a large frame in small pieces costs one copy.

    Invariant: `_held` is the number of bytes in `_parts`, and less than `_wanted`.
    """

    __slots__ = ("_bytes_max", "_held", "_parts", "_wanted")

    def __init__(self, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._held = 0
        self._wanted = 4

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return self._held

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now.

        Raises:
            RemoteProtocolError: a length is negative or over the limit: the connection is to be closed.
        """
        if self._held + len(data) < self._wanted:
            if data:
                self._parts.append(data)
                self._held += len(data)
            return []
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
        return self._cut(data)

    def _cut(self, data: bytes) -> list[bytes]:
        frames: list[bytes] = []
        at, size, wanted = 0, len(data), 4
        while size - at >= 4:
            length: int = _LENGTH.unpack_from(data, at)[0]
            if not 0 <= length <= self._bytes_max:
                raise RemoteProtocolError(f"a frame claims {length} bytes, the limit is {self._bytes_max}")
            if size - at < 4 + length:
                wanted = 4 + length
                break
            frames.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        self._parts = [data[at:]] if at < size else []
        self._held = size - at
        self._wanted = wanted
        return frames


def framed(record: bytes) -> bytes:
    """A record behind its length.

    Raises:
        LocalProtocolError: it is larger than what a peer takes; nothing was sent.
    """
    if len(record) > FRAME_BYTES_MAX:
        raise LocalProtocolError(
            f"a frame of {len(record)} bytes is over the limit of {FRAME_BYTES_MAX}; nothing was sent"
        )
    return _LENGTH.pack(len(record)) + record
