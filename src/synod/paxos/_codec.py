"""The bytes of every Paxos message. The first byte is the kind, 1 to 15; the rest is of fixed layout.

Integers are big-endian and unsigned. Malformed bytes raise RemoteProtocolError and nothing else: a peer's
mistake must not look like ours.
"""

from __future__ import annotations

import struct
from typing import Final

from synod.base import Ballot, Entry, LocalProtocolError, RemoteProtocolError

from ._messages import (
    Accept,
    Accepted,
    Chosen,
    Fetch,
    Heartbeat,
    HeartbeatAck,
    PaxosMessage,
    Preempted,
    Prepare,
    Probe,
    ProbeAnswer,
    Promise,
    ReadAsk,
    ReadGrant,
    Slots,
    TakeOver,
)

# A ballot is QB everywhere: round, replica.
_PROBE: Final = struct.Struct(">BQ")
_PROBE_ANSWER: Final = struct.Struct(">BQBQBQ")
_PREPARE: Final = struct.Struct(">BQBQ")
_PROMISE: Final = struct.Struct(">BQBQQQII")
_ACCEPT: Final = struct.Struct(">BQBQQQ")
_VALUE_AT: Final = _ACCEPT.size
_ACCEPTED: Final = struct.Struct(">BQBQQQ")
_BALLOT: Final = struct.Struct(">BQB")
_CHOSEN: Final = struct.Struct(">BQBQ")
_HEARTBEAT: Final = struct.Struct(">BQBQQBB")
_HEARTBEAT_ACK: Final = struct.Struct(">BQBQQB")
_FETCH: Final = struct.Struct(">BQ")
_SLOTS: Final = struct.Struct(">BQQBI")
_READ_ASK: Final = struct.Struct(">BQBQB")
_READ_GRANT: Final = struct.Struct(">BQQ")
_ENTRY: Final = struct.Struct(">QQBI")
_SLOT: Final = struct.Struct(">Q")

_latest: Final = [Ballot(0, replica) for replica in range(256)]
"""Of each replica the ballot that was read last: it comes in one message after another, and is made once."""


def encode(message: PaxosMessage) -> bytes:
    """The bytes of one message, without the length that frames it."""
    # No `match`: compiled, it looks up every class and attribute by its name. What every write sends comes first.
    if isinstance(message, Accept):
        round_, replica = message.ballot
        return _ACCEPT.pack(5, round_, replica, message.slot, message.mark, message.seq) + message.value
    if isinstance(message, Accepted):
        round_, replica = message.ballot
        return _ACCEPTED.pack(6, round_, replica, message.slot, message.mark, message.seq)
    if isinstance(message, Chosen):
        round_, replica = message.ballot
        return _CHOSEN.pack(8, round_, replica, message.mark)
    if isinstance(message, ReadAsk):
        round_, replica = message.ballot
        return _READ_ASK.pack(13, round_, replica, message.id, message.counts)
    if isinstance(message, ReadGrant):
        return _READ_GRANT.pack(14, message.id, message.mark)
    if isinstance(message, Heartbeat):
        round_, replica = message.ballot
        connected, read_only = message.quorum_connected, message.read_only
        return _HEARTBEAT.pack(9, round_, replica, message.mark, message.seq, connected, read_only)
    if isinstance(message, HeartbeatAck):
        round_, replica = message.ballot
        return _HEARTBEAT_ACK.pack(10, round_, replica, message.seq, message.mark, message.accepts)
    if isinstance(message, Probe):
        return _PROBE.pack(1, message.round)
    if isinstance(message, ProbeAnswer):
        return _PROBE_ANSWER.pack(2, message.round, message.gone, *message.promised, message.mark)
    if isinstance(message, Prepare):
        return _PREPARE.pack(3, *message.ballot, message.from_slot)
    if isinstance(message, Promise):
        entries, unknown = message.entries, message.unknown
        marks = (message.from_slot, message.mark, message.next_slot)
        head = _PROMISE.pack(4, *message.ballot, *marks, len(entries), len(unknown))
        return b"".join((head, *_pack_entries(entries), *(_SLOT.pack(slot) for slot in unknown)))
    if isinstance(message, Preempted):
        return _BALLOT.pack(7, *message.ballot)
    if isinstance(message, Fetch):
        return _FETCH.pack(11, message.slot)
    if isinstance(message, Slots):
        head = _SLOTS.pack(12, message.slot, message.mark, message.snapshot, len(message.entries))
        return b"".join((head, *_pack_entries(message.entries)))
    return _BALLOT.pack(15, *message.ballot)


def _pack_entries(entries: tuple[Entry, ...]) -> list[bytes]:
    parts = []
    for slot, ballot, value in entries:
        parts.append(_ENTRY.pack(slot, ballot[0], ballot[1], len(value)))
        parts.append(value)
    return parts


def decode(data: bytes) -> PaxosMessage:
    """The inverse of `encode`.

    Raises:
        RemoteProtocolError: the bytes are no message; the connection is to be closed.
    """
    try:
        return _decode(data)
    except (struct.error, IndexError, LocalProtocolError) as broken:
        raise RemoteProtocolError(f"a peer sent a Paxos message that cannot be read: {broken}") from broken


def _decode(data: bytes) -> PaxosMessage:
    match data[0]:
        case 5:
            _, r, i, slot, mark, seq = _ACCEPT.unpack_from(data)
            return Accept(_ballot(r, i), slot, mark, seq, data[_VALUE_AT:])
        case 6:
            _, r, i, slot, mark, seq = _ACCEPTED.unpack(data)
            return Accepted(_ballot(r, i), slot, mark, seq)
        case 8:
            _, r, i, mark = _CHOSEN.unpack(data)
            return Chosen(_ballot(r, i), mark)
        case 9:
            _, r, i, mark, seq, connected, read_only = _HEARTBEAT.unpack(data)
            return Heartbeat(_ballot(r, i), mark, seq, _flag(connected), _flag(read_only))
        case 10:
            _, r, i, seq, mark, accepts = _HEARTBEAT_ACK.unpack(data)
            return HeartbeatAck(_ballot(r, i), seq, mark, _flag(accepts))
        case 13:
            _, r, i, id_, counts = _READ_ASK.unpack(data)
            return ReadAsk(_ballot(r, i), id_, _flag(counts))
        case 14:
            _, id_, mark = _READ_GRANT.unpack(data)
            return ReadGrant(id_, mark)
        case 1:
            return Probe(_PROBE.unpack(data)[1])
        case 2:
            _, round_, gone, r, i, mark = _PROBE_ANSWER.unpack(data)
            return ProbeAnswer(round_, _flag(gone), _ballot(r, i), mark)
        case 3:
            _, r, i, from_slot = _PREPARE.unpack(data)
            return Prepare(_ballot(r, i), from_slot)
        case 4:
            _, r, i, from_slot, mark, next_slot, count, holes = _PROMISE.unpack_from(data)
            entries, at = _unpack_entries(data, _PROMISE.size, count)
            _end(data, at + 8 * holes)
            unknown = tuple(_SLOT.unpack_from(data, at + 8 * k)[0] for k in range(holes))
            return Promise(_ballot(r, i), from_slot, mark, next_slot, entries, unknown)
        case 7:
            _, r, i = _BALLOT.unpack(data)
            return Preempted(_ballot(r, i))
        case 11:
            return Fetch(_FETCH.unpack(data)[1])
        case 12:
            _, slot, mark, snapshot, count = _SLOTS.unpack_from(data)
            entries, at = _unpack_entries(data, _SLOTS.size, count)
            _end(data, at)
            return Slots(slot, mark, _flag(snapshot), entries)
        case 15:
            _, r, i = _BALLOT.unpack(data)
            return TakeOver(_ballot(r, i))
        case kind:
            raise RemoteProtocolError(f"a peer sent a Paxos message of the unknown kind {kind}")


def _ballot(round_: int, replica: int) -> Ballot:
    ballot = _latest[replica]
    if ballot.round != round_:
        ballot = _latest[replica] = Ballot(round_, replica)
    return ballot


def _flag(byte: int) -> bool:
    """A flag has one encoding for each value, so that equal messages have equal bytes."""
    if byte > 1:
        raise RemoteProtocolError(f"a flag of a Paxos message is 0 or 1, not {byte}")
    return byte == 1


def _unpack_entries(data: bytes, at: int, count: int) -> tuple[tuple[Entry, ...], int]:
    entries = []
    for _ in range(count):
        slot, r, i, length = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if at + length > len(data):
            raise RemoteProtocolError("an entry ends past its message")
        entries.append(Entry(slot, _ballot(r, i), data[at : at + length]))
        at += length
    return tuple(entries), at


def _end(data: bytes, at: int) -> None:
    if at != len(data):
        raise RemoteProtocolError("a Paxos message has another length than its counts say")
