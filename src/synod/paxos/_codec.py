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


def encode(message: PaxosMessage) -> bytes:
    """The bytes of one message, without the length that frames it."""
    match message:
        case Accept((round_, replica), slot, mark, seq, value):
            return _ACCEPT.pack(5, round_, replica, slot, mark, seq) + value
        case Accepted((round_, replica), slot, mark, seq):
            return _ACCEPTED.pack(6, round_, replica, slot, mark, seq)
        case Chosen(ballot, mark):
            return _CHOSEN.pack(8, *ballot, mark)
        case Heartbeat(ballot, mark, seq, quorum_connected, read_only):
            return _HEARTBEAT.pack(9, *ballot, mark, seq, quorum_connected, read_only)
        case HeartbeatAck(ballot, seq, mark, accepts):
            return _HEARTBEAT_ACK.pack(10, *ballot, seq, mark, accepts)
        case ReadAsk(ballot, id_, counts):
            return _READ_ASK.pack(13, *ballot, id_, counts)
        case ReadGrant(id_, mark):
            return _READ_GRANT.pack(14, id_, mark)
        case Probe(round_):
            return _PROBE.pack(1, round_)
        case ProbeAnswer(round_, gone, promised, mark):
            return _PROBE_ANSWER.pack(2, round_, gone, *promised, mark)
        case Prepare(ballot, from_slot):
            return _PREPARE.pack(3, *ballot, from_slot)
        case Promise(ballot, from_slot, mark, next_slot, entries, unknown):
            head = _PROMISE.pack(4, *ballot, from_slot, mark, next_slot, len(entries), len(unknown))
            return b"".join((head, *_pack_entries(entries), *(_SLOT.pack(slot) for slot in unknown)))
        case Preempted(ballot):
            return _BALLOT.pack(7, *ballot)
        case Fetch(slot):
            return _FETCH.pack(11, slot)
        case Slots(slot, mark, snapshot, entries):
            return b"".join((_SLOTS.pack(12, slot, mark, snapshot, len(entries)), *_pack_entries(entries)))
        case TakeOver(ballot):
            return _BALLOT.pack(15, *ballot)


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
            return Accept(Ballot(r, i), slot, mark, seq, data[_ACCEPT.size :])
        case 6:
            _, r, i, slot, mark, seq = _ACCEPTED.unpack(data)
            return Accepted(Ballot(r, i), slot, mark, seq)
        case 8:
            _, r, i, mark = _CHOSEN.unpack(data)
            return Chosen(Ballot(r, i), mark)
        case 9:
            _, r, i, mark, seq, connected, read_only = _HEARTBEAT.unpack(data)
            return Heartbeat(Ballot(r, i), mark, seq, _flag(connected), _flag(read_only))
        case 10:
            _, r, i, seq, mark, accepts = _HEARTBEAT_ACK.unpack(data)
            return HeartbeatAck(Ballot(r, i), seq, mark, _flag(accepts))
        case 13:
            _, r, i, id_, counts = _READ_ASK.unpack(data)
            return ReadAsk(Ballot(r, i), id_, _flag(counts))
        case 14:
            _, id_, mark = _READ_GRANT.unpack(data)
            return ReadGrant(id_, mark)
        case 1:
            return Probe(_PROBE.unpack(data)[1])
        case 2:
            _, round_, gone, r, i, mark = _PROBE_ANSWER.unpack(data)
            return ProbeAnswer(round_, _flag(gone), Ballot(r, i), mark)
        case 3:
            _, r, i, from_slot = _PREPARE.unpack(data)
            return Prepare(Ballot(r, i), from_slot)
        case 4:
            _, r, i, from_slot, mark, next_slot, count, holes = _PROMISE.unpack_from(data)
            entries, at = _unpack_entries(data, _PROMISE.size, count)
            _end(data, at + 8 * holes)
            unknown = tuple(_SLOT.unpack_from(data, at + 8 * k)[0] for k in range(holes))
            return Promise(Ballot(r, i), from_slot, mark, next_slot, entries, unknown)
        case 7:
            _, r, i = _BALLOT.unpack(data)
            return Preempted(Ballot(r, i))
        case 11:
            return Fetch(_FETCH.unpack(data)[1])
        case 12:
            _, slot, mark, snapshot, count = _SLOTS.unpack_from(data)
            entries, at = _unpack_entries(data, _SLOTS.size, count)
            _end(data, at)
            return Slots(slot, mark, _flag(snapshot), entries)
        case 15:
            _, r, i = _BALLOT.unpack(data)
            return TakeOver(Ballot(r, i))
        case kind:
            raise RemoteProtocolError(f"a peer sent a Paxos message of the unknown kind {kind}")


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
        entries.append(Entry(slot, Ballot(r, i), data[at : at + length]))
        at += length
    return tuple(entries), at


def _end(data: bytes, at: int) -> None:
    if at != len(data):
        raise RemoteProtocolError("a Paxos message has another length than its counts say")
