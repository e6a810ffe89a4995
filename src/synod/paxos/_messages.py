"""Every message between the Paxos parts of two replicas.

| message      | Lamport | from      | to        | when                                        | durable first              |
|--------------|---------|-----------|-----------|---------------------------------------------|----------------------------|
| Probe        |         | anybody   | voters    | the leader seems gone                       | nothing                    |
| ProbeAnswer  |         | voter     | prober    | at once                                     | nothing                    |
| Prepare      | 1a      | candidate | voters    | a quorum agrees that the leader is gone     | its own promise            |
| Promise      | 1b      | acceptor  | candidate | the ballot is the highest it has seen       | the promise                |
| Accept       | 2a      | leader    | voters    | a slot is proposed                          | nothing (its own accept counts when durable) |
| Accepted     | 2b      | acceptor  | leader    | the ballot is the one promised              | the entries and the promise |
| Preempted    |         | acceptor  | proposer  | a higher ballot was promised                | that promise               |
| Chosen       |         | leader    | everybody | a slot was chosen                           | at a quorum: the entry     |
| Heartbeat    |         | leader    | everybody | every heartbeat period, and to confirm reads | nothing                   |
| HeartbeatAck |         | everybody | leader    | at once                                     | nothing                    |
| Fetch        |         | behind    | holder    | slots are missing below a mark              | nothing                    |
| Slots        |         | holder    | behind    | answer to Fetch                             | nothing: chosen is chosen  |
| ReadAsk      |         | follower  | leader    | reads arrived                               | nothing                    |
| ReadGrant    |         | leader    | follower  | a quorum showed that the leader still leads | nothing                    |
| TakeOver     |         | leader    | follower  | clean hand-over                             | nothing                    |
"""

from __future__ import annotations

from dataclasses import dataclass

from synod.base import Ballot, Entry, Slot


@dataclass(frozen=True, slots=True)
class Probe:
    """Is the leader gone for you too? Raises no ballot, disturbs nobody."""

    round: int


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What a voter thinks of the leader, and how far it is itself."""

    round: int
    gone: bool
    promised: Ballot
    mark: Slot


@dataclass(frozen=True, slots=True)
class Prepare:
    """1a: promise to ignore lower ballots, and say what you accepted from `from_slot` on."""

    ballot: Ballot
    from_slot: Slot


@dataclass(frozen=True, slots=True)
class Promise:
    """1b: accepted entries past the acceptor's chosen mark, in parts; `unknown` are slots it cannot read."""

    ballot: Ballot
    mark: Slot
    part: int
    last: bool
    entries: tuple[Entry, ...]
    unknown: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Accept:
    """2a: accept these values in consecutive slots from `slot` on; everything up to `mark` is chosen."""

    ballot: Ballot
    mark: Slot
    slot: Slot
    value: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """2b: the acceptor holds `slot` at `ballot`, durably. `seen` is the last heartbeat that it had received."""

    ballot: Ballot
    slot: Slot
    seen: int


@dataclass(frozen=True, slots=True)
class Preempted:
    """A refusal: a higher ballot was promised."""

    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Chosen:
    """The leader of `ballot` says: everything up to `mark` is chosen."""

    ballot: Ballot
    mark: Slot


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The leader lives; `seq` rises with every one; `quorum_connected` says whether it hears a quorum."""

    ballot: Ballot
    mark: Slot
    seq: int
    quorum_connected: bool


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """The answer to heartbeat `seq`: the acceptor's promise is still `ballot`; `mark` is how far it knows."""

    ballot: Ballot
    seq: int
    mark: Slot
    votes: bool


@dataclass(frozen=True, slots=True)
class Fetch:
    """Send chosen entries from `slot` on."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Slots:
    """Chosen entries from `slot` on, contiguous; none with `snapshot` means: only my snapshot has it."""

    slot: Slot
    snapshot: bool
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class ReadAsk:
    """Reads arrived here, whose promised ballot is `ballot`: what is chosen?"""

    ballot: Ballot
    id: int
    votes: bool


@dataclass(frozen=True, slots=True)
class ReadGrant:
    """The reads of the ask `id` may be served once `mark` is applied."""

    id: int
    mark: Slot


@dataclass(frozen=True, slots=True)
class TakeOver:
    """The leader of `ballot` goes: elect yourself at once, without a probe."""

    ballot: Ballot


PaxosMessage = (
    Probe
    | ProbeAnswer
    | Prepare
    | Promise
    | Accept
    | Accepted
    | Preempted
    | Chosen
    | Heartbeat
    | HeartbeatAck
    | Fetch
    | Slots
    | ReadAsk
    | ReadGrant
    | TakeOver
)
