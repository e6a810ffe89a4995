"""Every message between the Paxos parts of two replicas.

| message      | Lamport | from      | to        | when                                         | durable first                |
|--------------|---------|-----------|-----------|----------------------------------------------|------------------------------|
| Probe        |         | voter     | voters    | the leader seems gone                        | nothing                      |
| ProbeAnswer  |         | voter     | prober    | at once                                      | nothing                      |
| Prepare      | 1a      | candidate | voters    | a quorum agrees that the leader is gone      | the candidate's own promise  |
| Promise      | 1b      | acceptor  | candidate | no higher ballot was promised                | the promise                  |
| Accept       | 2a      | leader    | all peers | a slot is proposed                           | nothing: its own acceptance counts once durable |
| Accepted     | 2b      | acceptor  | leader    | no higher ballot was promised                | the promise and the entry    |
| Preempted    |         | acceptor  | proposer  | Prepare, Accept or Heartbeat of a lower ballot | the higher promise         |
| Chosen       |         | leader    | all peers | a slot was chosen and no Accept tells it     | at a quorum: the entry       |
| Heartbeat    |         | leader    | all peers | each heartbeat period, and to confirm reads  | nothing                      |
| HeartbeatAck |         | all peers | leader    | at once                                      | nothing                      |
| Fetch        |         | behind    | holder    | chosen slots are missing                     | nothing                      |
| Slots        |         | holder    | behind    | answer to Fetch                              | nothing: chosen is chosen    |
| ReadAsk      |         | follower  | leader    | reads arrived                                | nothing                      |
| ReadGrant    |         | leader    | follower  | a quorum showed that the leader still leads  | nothing                      |
| TakeOver     |         | leader    | follower  | clean hand-over, nothing is open any more    | nothing                      |

A message is valid from birth: one that cannot mean anything cannot be made, here or from a peer's bytes.

Nothing changes a message. Those of every write and read have an `__init__` of their own, since it is compiled where a
generated one is not; their fields are `Final` instead of frozen, which every assignment in `__init__` would pay for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synod.base import BALLOT_ZERO, Ballot, Entry, LocalProtocolError, Slot


def _require(holds: bool, fact: str) -> None:
    if not holds:
        raise LocalProtocolError(fact)


@dataclass(frozen=True, slots=True)
class Probe:
    """Is the leader gone for you too? Raises no ballot, disturbs nobody."""

    round: int


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What a voter thinks of the leader, what it has promised, and how far it knows what is chosen."""

    round: int
    gone: bool
    promised: Ballot
    mark: Slot


@dataclass(frozen=True, slots=True)
class Prepare:
    """1a: promise to ignore lower ballots, and say what you accepted from `from_slot` on."""

    ballot: Ballot
    from_slot: Slot

    def __post_init__(self) -> None:
        _require(self.ballot > BALLOT_ZERO, "a Prepare needs a ballot that somebody raised")
        _require(self.from_slot > 0, "slots begin at 1")


@dataclass(frozen=True, slots=True)
class Promise:
    """1b: what the acceptor holds from max(`from_slot`, `mark` + 1) on, in chunks of bounded size.

    Args:
        from_slot: as in the Prepare that this answers.
        mark: the acceptor knows everything up to here to be chosen, and reports nothing of it.
        next_slot: this chunk ends before it, ask again from there; 0 when nothing is left to report.
        entries: accepted and not known chosen, slots rising.
        unknown: slots at which something may have been accepted whose record cannot be read, rising.
    """

    ballot: Ballot
    from_slot: Slot
    mark: Slot
    next_slot: Slot
    entries: tuple[Entry, ...]
    unknown: tuple[Slot, ...]

    def __post_init__(self) -> None:
        _require(self.ballot > BALLOT_ZERO, "a Promise needs a ballot that somebody raised")
        _require(self.from_slot > 0, "slots begin at 1")
        first = max(self.from_slot, self.mark + 1)
        _require(self.next_slot == 0 or self.next_slot > first, "a chunk of a Promise covers at least one slot")
        for slots in ([entry.slot for entry in self.entries], self.unknown):
            last = first - 1
            for slot in slots:
                _require(slot > last, "a Promise reports rising slots past its mark")
                last = slot
            _require(self.next_slot == 0 or last < self.next_slot, "a chunk of a Promise ends before the next one")


@dataclass(init=False, slots=True)
class Accept:
    """2a: accept this value at `slot`; everything up to `mark` is chosen; `seq` is the confirm round."""

    ballot: Final[Ballot]
    slot: Final[Slot]
    mark: Final[Slot]
    seq: Final[int]
    value: Final[bytes]

    def __init__(self, ballot: Ballot, slot: Slot, mark: Slot, seq: int, value: bytes) -> None:
        _require(ballot > BALLOT_ZERO, "an Accept needs a ballot that somebody raised")
        _require(slot > mark >= 0, "an Accept is for a slot past the mark")
        self.ballot = ballot
        self.slot = slot
        self.mark = mark
        self.seq = seq
        self.value = value


@dataclass(init=False, slots=True)
class Accepted:
    """2b: the acceptor holds `slot` at `ballot`, durably, or knows it chosen.

    Args:
        mark: how far this replica knows what is chosen.
        seq: the confirm round of the Accept that this answers; 0 from one that may not confirm reads.
    """

    ballot: Final[Ballot]
    slot: Final[Slot]
    mark: Final[Slot]
    seq: Final[int]

    def __init__(self, ballot: Ballot, slot: Slot, mark: Slot, seq: int) -> None:
        self.ballot = ballot
        self.slot = slot
        self.mark = mark
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Preempted:
    """A refusal: `ballot`, a higher one, was promised."""

    ballot: Ballot


@dataclass(init=False, slots=True)
class Chosen:
    """The leader of `ballot` says: everything up to `mark` is chosen."""

    ballot: Final[Ballot]
    mark: Final[Slot]

    def __init__(self, ballot: Ballot, mark: Slot) -> None:
        self.ballot = ballot
        self.mark = mark


@dataclass(init=False, slots=True)
class Heartbeat:
    """The leader lives.

    Args:
        seq: the confirm round.
        quorum_connected: whether a quorum answers it and is able to accept.
        read_only: whether a quorum answers it and for a while no quorum has been able to accept: reads only.
    """

    ballot: Final[Ballot]
    mark: Final[Slot]
    seq: Final[int]
    quorum_connected: Final[bool]
    read_only: Final[bool]

    def __init__(self, ballot: Ballot, mark: Slot, seq: int, quorum_connected: bool, read_only: bool) -> None:
        self.ballot = ballot
        self.mark = mark
        self.seq = seq
        self.quorum_connected = quorum_connected
        self.read_only = read_only


@dataclass(init=False, slots=True)
class HeartbeatAck:
    """No higher ballot than `ballot` is promised here.

    Args:
        seq: the confirm round that this answers; 0 from one that may not confirm reads.
        mark: how far this replica knows what is chosen.
        accepts: whether it is able to accept: neither abstaining nor waiting for a disk that hangs.
    """

    ballot: Final[Ballot]
    seq: Final[int]
    mark: Final[Slot]
    accepts: Final[bool]

    def __init__(self, ballot: Ballot, seq: int, mark: Slot, accepts: bool) -> None:
        self.ballot = ballot
        self.seq = seq
        self.mark = mark
        self.accepts = accepts


@dataclass(frozen=True, slots=True)
class Fetch:
    """Send chosen entries from `slot` on."""

    slot: Slot

    def __post_init__(self) -> None:
        _require(self.slot > 0, "slots begin at 1")


@dataclass(frozen=True, slots=True)
class Slots:
    """Chosen entries from `slot` on, without a gap; `snapshot` says that only the holder's snapshot has them.

    Neither entries nor `snapshot`: the holder does not know that slot to be chosen. `mark` is how far it knows.
    """

    slot: Slot
    mark: Slot
    snapshot: bool
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        _require(self.slot > 0, "slots begin at 1")
        _require(not (self.snapshot and self.entries), "either entries or a snapshot")
        for at, entry in enumerate(self.entries):
            _require(entry.slot == self.slot + at, "fetched slots are contiguous")
        _require(self.slot + len(self.entries) <= self.mark + 1 or not self.entries, "fetched slots are chosen")


@dataclass(init=False, slots=True)
class ReadAsk:
    """Reads arrived here, where `ballot` is promised: what is chosen? `counts`: may this confirm by itself."""

    ballot: Final[Ballot]
    id: Final[int]
    counts: Final[bool]

    def __init__(self, ballot: Ballot, id: int, counts: bool) -> None:  # noqa: A002 -- the word of the protocol
        self.ballot = ballot
        self.id = id
        self.counts = counts


@dataclass(init=False, slots=True)
class ReadGrant:
    """The reads of the ask `id`, and of those before it, may be served once `mark` is applied."""

    id: Final[int]
    mark: Final[Slot]

    def __init__(self, id: int, mark: Slot) -> None:  # noqa: A002 -- the word of the protocol
        self.id = id
        self.mark = mark


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
