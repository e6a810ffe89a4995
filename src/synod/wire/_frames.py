"""Cutting a stream of bytes into frames: a 4-byte length, then that many bytes."""

from __future__ import annotations

import struct
from typing import Final

from synod.base import RemoteProtocolError

from ._codes import FRAME_BYTES_MAX

_LENGTH: Final = struct.Struct(">i")


class FrameSplitter:
    """Collects what the network delivers and hands out whole frames, without their lengths.

    The length is checked before anything is gathered for it.
    """

    __slots__ = ("_bytes_max", "_data")

    def __init__(self, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._data = b""
        self._bytes_max = bytes_max

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now.

        Raises:
            RemoteProtocolError: a length is negative or over the limit: the connection is to be closed.
        """
        data = self._data + data if self._data else data
        frames = []
        at, size = 0, len(data)
        while size - at >= 4:
            (length,) = _LENGTH.unpack_from(data, at)
            if not 0 <= length <= self._bytes_max:
                raise RemoteProtocolError(f"a frame claims {length} bytes, the limit is {self._bytes_max}")
            if size - at < 4 + length:
                break
            frames.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        self._data = data[at:]
        return frames


def framed(record: bytes) -> bytes:
    """A record behind its length."""
    return _LENGTH.pack(len(record)) + record
