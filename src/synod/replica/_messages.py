"""What replicas tell each other besides Paxos itself.

| message        | from     | to          | when                                   | durable first                    |
|----------------|----------|-------------|----------------------------------------|----------------------------------|
| Hello          | both     | both        | first on every connection              | boot count, promise, last slot   |
| Forward        | origin   | leader      | clients wrote, or the leader changed   | nothing: an origin forgets       |
| Touch          | origin   | leader      | sessions were heard, pings wait        | nothing                          |
| TouchAck       | leader   | origin      | a quorum showed that it still leads    | nothing                          |
| DigestReport   | all      | all         | a digest was computed                  | nothing: it is a function of the log |
| DigestAsk      | any      | leader      | a backup needs a slot with a digest    | nothing                          |
| SnapshotAsk    | behind   | holder      | the log no longer reaches back         | nothing                          |
| SnapshotChunk  | holder   | behind      | answer to each ask, on the bulk connection | the snapshot                 |

The first byte is the kind: Paxos owns 1 to 63, this room 64 to 127. A message of a lower kind is handed to
Paxos unread.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from synod.base import Ballot, RemoteProtocolError, ReplicaId, Slot

PEER_PROTOCOL_OLDEST: Final = 1
PEER_PROTOCOL_VERSION: Final = 1
"""The oldest and the newest peer protocol that this version speaks; two replicas speak the newest that both know."""

KIND_FIRST: Final = 64
"""Kinds from here on are this room's; lower ones are Paxos's."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks, of which cell, and what its disk remembers.

    `promised` and `last_slot` let peers notice a disk that was wiped or rolled back: it would show less
    than the peer has already been told.

    Args:
        oldest: the oldest peer protocol that the sender speaks.
        newest: the newest one.
        feature_level: the highest level whose rules the sender knows.
        cell_level: the level that is in force, as far as the sender has applied the log.
        disk: the number that was drawn for the sender's disk when it was formatted.
        changes: how many changes of the members are known there, chosen or at least accepted.
    """

    oldest: int
    newest: int
    cell_id: bytes
    configuration: bytes
    id: ReplicaId
    incarnation: int
    boot: int
    feature_level: int
    cell_level: int
    promised: Ballot
    last_slot: Slot
    disk: int = 0
    changes: int = 0


@dataclass(init=False, slots=True)
class Forward:
    """Groups of client frames in the order of their origin's stream.

    Its `__init__` is written out as those of Paxos's messages are: it is compiled where a generated one is not.
    """

    groups: Final[tuple[bytes, ...]]

    def __init__(self, groups: tuple[bytes, ...]) -> None:
        self.groups = groups


@dataclass(frozen=True, slots=True)
class Touch:
    """Sessions that this origin has heard since the last touch."""

    round: int
    sessions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TouchAck:
    """The leader has taken a round of touches, but for those refused.

    A session is refused while an expiry of it is under way, and while its long silence stands in the log.
    """

    round: int
    refused: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DigestReport:
    """The digest of the whole state after `slot`."""

    slot: Slot
    digest: bytes


@dataclass(frozen=True, slots=True)
class DigestAsk:
    """Have everybody take the digest of the state at a slot of its own."""


@dataclass(frozen=True, slots=True)
class SnapshotAsk:
    """Send the bytes of your snapshot of `slot` from `offset`; slot 0 means your latest."""

    slot: Slot
    offset: int


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """A piece of a snapshot file of `total` bytes; no data and total 0 means: not here, ask anew."""

    slot: Slot
    offset: int
    total: int
    data: bytes


ReplicaMessage = Hello | Forward | Touch | TouchAck | DigestReport | DigestAsk | SnapshotAsk | SnapshotChunk

_HELLO: Final = struct.Struct(">BHH16s16sBIQHHQBQQI")
_FORWARD: Final = struct.Struct(">BI")
_U32: Final = struct.Struct(">I")
_ROUND_COUNT: Final = struct.Struct(">BQI")
_DIGEST: Final = struct.Struct(">BQ16s")
_ASK: Final = struct.Struct(">BQQ")
_CHUNK: Final = struct.Struct(">BQQQ")

_KIND_HELLO: Final = 64
_KIND_FORWARD: Final = 65
_KIND_TOUCH: Final = 66
_KIND_TOUCH_ACK: Final = 67
_KIND_DIGEST: Final = 68
_KIND_ASK: Final = 69
_KIND_CHUNK: Final = 70
_KIND_DIGEST_ASK: Final = 71


def encode_message(message: ReplicaMessage) -> bytes:
    """The bytes of one message, without the length that frames it."""
    if isinstance(message, Forward):
        parts = [_FORWARD.pack(_KIND_FORWARD, len(message.groups))]
        for group in message.groups:
            parts.append(_U32.pack(len(group)))
            parts.append(group)
        return b"".join(parts)
    match message:
        case Touch(round_, sessions):
            return _ROUND_COUNT.pack(_KIND_TOUCH, round_, len(sessions)) + struct.pack(f">{len(sessions)}q", *sessions)
        case TouchAck(round_, refused):
            return _ROUND_COUNT.pack(_KIND_TOUCH_ACK, round_, len(refused)) + struct.pack(f">{len(refused)}q", *refused)
        case DigestReport(slot, digest):
            return _DIGEST.pack(_KIND_DIGEST, slot, digest)
        case DigestAsk():
            return bytes((_KIND_DIGEST_ASK,))
        case SnapshotAsk(slot, offset):
            return _ASK.pack(_KIND_ASK, slot, offset)
        case SnapshotChunk(slot, offset, total, data):
            return _CHUNK.pack(_KIND_CHUNK, slot, offset, total) + data
        case Hello():
            return _HELLO.pack(
                _KIND_HELLO,
                message.oldest,
                message.newest,
                message.cell_id,
                message.configuration,
                message.id,
                message.incarnation,
                message.boot,
                message.feature_level,
                message.cell_level,
                message.promised.round,
                message.promised.replica,
                message.last_slot,
                message.disk,
                message.changes,
            )


def decode_message(data: bytes) -> ReplicaMessage:
    """The inverse of `encode_message`.

    Raises:
        RemoteProtocolError: the bytes are no message of this room; the connection is to be closed.
    """
    try:
        return _decode(data)
    except (struct.error, IndexError) as broken:
        raise RemoteProtocolError(f"a peer sent a message that cannot be read: {broken}") from broken


def _decode(data: bytes) -> ReplicaMessage:
    kind = data[0]
    if kind == _KIND_FORWARD:
        return Forward(_decode_groups(data))
    if kind in (_KIND_TOUCH, _KIND_TOUCH_ACK):
        _, round_, count = _ROUND_COUNT.unpack_from(data)
        if len(data) != _ROUND_COUNT.size + 8 * count:
            raise RemoteProtocolError("a touch is not as long as its count says")
        sessions = struct.unpack_from(f">{count}q", data, _ROUND_COUNT.size)
        return Touch(round_, sessions) if kind == _KIND_TOUCH else TouchAck(round_, sessions)
    if kind == _KIND_DIGEST:
        _, slot, digest = _DIGEST.unpack(data)
        return DigestReport(slot, digest)
    if kind == _KIND_DIGEST_ASK:
        if len(data) != 1:
            raise RemoteProtocolError("an ask for a digest has bytes after its kind")
        return DigestAsk()
    if kind == _KIND_ASK:
        _, slot, offset = _ASK.unpack(data)
        return SnapshotAsk(slot, offset)
    if kind == _KIND_CHUNK:
        _, slot, offset, total = _CHUNK.unpack_from(data)
        return SnapshotChunk(slot, offset, total, data[_CHUNK.size :])
    if kind == _KIND_HELLO:
        return _decode_hello(data)
    raise RemoteProtocolError(f"a peer sent a message of the unknown kind {kind}")


def _decode_hello(data: bytes) -> Hello:
    # The versions come first, and a later version adds to the end: every version reads this much of every hello.
    _, oldest, newest, cell, configuration, id_, incarnation, boot, known, level, round_, replica, last, *rest = (
        _HELLO.unpack_from(data)
    )
    if oldest > PEER_PROTOCOL_VERSION or newest < PEER_PROTOCOL_OLDEST:
        raise RemoteProtocolError(
            f"replica {id_} speaks the versions {oldest} to {newest} of the peer protocol, and this replica "
            f"{PEER_PROTOCOL_OLDEST} to {PEER_PROTOCOL_VERSION}: upgrade the cell by way of a version between the two"
        )
    return Hello(
        oldest, newest, cell, configuration, id_, incarnation, boot, known, level, Ballot(round_, replica), last, *rest
    )


def _decode_groups(data: bytes) -> tuple[bytes, ...]:
    _, count = _FORWARD.unpack_from(data)
    at = _FORWARD.size
    groups = []
    for _ in range(count):
        (length,) = _U32.unpack_from(data, at)
        at += _U32.size
        if at + length > len(data):
            raise RemoteProtocolError("a forwarded group ends past its message")
        groups.append(data[at : at + length])
        at += length
    if at != len(data):
        raise RemoteProtocolError("a forward has bytes after its last group")
    return tuple(groups)
