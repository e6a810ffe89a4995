"""Opcode 900: synod's envelope around another operation.

    version     u8                  1
    options     u8                  how many follow
      tag       u8                  TAG_*, rising; a tag from 128 on must be understood, others may be skipped
      length    u16
      value     `length` bytes
    op          i32                 the operation inside
    record      the rest            its record, as without the envelope

The outer request header's xid answers for the inner operation, and the reply is the inner operation's own.
Ref: TLV with a critical bit as in RFC 5246 s7.4.1.4 and later, so that old replicas refuse what they cannot honour.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from synod.base import LocalProtocolError, RemoteProtocolError

from ._codes import OP_EXTENSION
from ._jute import Reader, pack_int

ENVELOPE_VERSION: Final = 1

TAG_TRACE: Final = 1  # opaque bytes of the caller
TAG_REQUEST_ID: Final = 2  # 16 bytes, the same when a request is repeated
TAG_DEADLINE: Final = 3  # i64: milliseconds that the answer is still of use for
TAG_READ_MODE: Final = 4  # u8: 0 linearizable, 1 sequential
TAG_SEQUENCER: Final = 128  # a lock's path and token that must hold; critical
TAG_CRITICAL: Final = 128

_HEAD: Final = struct.Struct(">BB")
_OPTION: Final = struct.Struct(">BH")


class Envelope(NamedTuple):
    """An operation with options around it. Invariant: tags rise strictly."""

    inner_op: int
    record: bytes
    options: tuple[tuple[int, bytes], ...] = ()

    @property
    def op(self) -> int:
        """Its own operation code."""
        return OP_EXTENSION

    def encode(self) -> bytes:
        """The record of opcode 900.

        Raises:
            LocalProtocolError: the tags do not rise, or a value is too long; nothing was sent.
        """
        parts = [_HEAD.pack(ENVELOPE_VERSION, len(self.options))]
        last = -1
        for tag, value in self.options:
            if not last < tag <= 255 or len(value) > 0xFFFF:
                raise LocalProtocolError("an envelope's tags must rise and its values fit 65,535 bytes")
            last = tag
            parts.append(_OPTION.pack(tag, len(value)) + value)
        return b"".join((*parts, pack_int(self.inner_op), self.record))

    @classmethod
    def take(cls, reader: Reader) -> Envelope:
        """Read one.

        Raises:
            RemoteProtocolError: another version, or malformed.
        """
        version, count = _HEAD.unpack(reader.take_bytes(_HEAD.size))
        if version != ENVELOPE_VERSION:
            raise RemoteProtocolError(f"an envelope of version {version}; this side knows {ENVELOPE_VERSION}")
        options: list[tuple[int, bytes]] = []
        last = -1
        for _ in range(count):
            tag, length = _OPTION.unpack(reader.take_bytes(_OPTION.size))
            if tag <= last:
                raise RemoteProtocolError("an envelope's tags do not rise")
            last = tag
            options.append((tag, reader.take_bytes(length)))
        return cls(reader.take_int(), reader.take_rest(), tuple(options))
