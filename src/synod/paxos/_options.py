"""The settings of Paxos, what its log gave back, and what it asks of its host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synod.base import MILLISECOND, Ballot, Entry, Micros, ReplicaId, Slot, invariant

from ._messages import PaxosMessage


@dataclass(frozen=True, slots=True)
class PaxosOptions:
    """Periods in microseconds, sizes in bytes.

    Args:
        heartbeat: the leader speaks at least so often; a fifth of the election timeout, so that one lost or
            late heartbeat starts nothing.
        election_timeout: silence of the leader after which it may be gone. Each replica waits up to half of
            it longer, drawn anew each time, so that a silent leader is replaced within a second.
        probe_timeout: how long a round of probes waits, or a Prepare before it is sent again.
        in_flight_slots_max: proposed and not chosen; 1 gathers the largest batches and was fastest on loopback.
        unsynced_writes_max: writes of this replica that its disk has not finished; a leader whose followers
            are faster than its own disk proposes no more than this ahead of it.
        promise_chunk_bytes_max: entries in one Promise.
        fetch_bytes_max: entries in one Slots.
        cache_bytes_max: chosen entries kept in memory for peers that lag a little.
        ahead_bytes_max: entries accepted past the chosen mark; who misses a slot below lets further ones go by
            until it has fetched it. Twice the cache: more would only wait.
        send_window_bytes: unacknowledged values to one peer; a slower one catches up by Fetch.
        candidate_lag_slots_max: who is further behind raises no ballot, it would only delay a better one;
            about one Slots full of ordinary batches.
        checks: assert the invariants around every step.
    """

    heartbeat: Micros = 100 * MILLISECOND
    election_timeout: Micros = 500 * MILLISECOND
    probe_timeout: Micros = 150 * MILLISECOND
    in_flight_slots_max: int = 1
    unsynced_writes_max: int = 64
    promise_chunk_bytes_max: int = 1 << 20
    fetch_bytes_max: int = 1 << 20
    cache_bytes_max: int = 32 << 20
    ahead_bytes_max: int = 64 << 20
    send_window_bytes: int = 16 << 20
    candidate_lag_slots_max: int = 64
    checks: bool = True

    def __post_init__(self) -> None:
        invariant(0 < 2 * self.heartbeat <= self.election_timeout, "two heartbeats fit into an election timeout")
        invariant(self.probe_timeout > 0, "a probe needs time")
        invariant(self.in_flight_slots_max > 0, "a leader needs a slot")
        invariant(self.unsynced_writes_max >= self.in_flight_slots_max, "every slot in flight needs a write")


@dataclass(frozen=True, slots=True)
class Durable:
    """What the log gave back at start.

    Args:
        promised: the highest ballot promised.
        entries: the highest ballot per slot, for every slot past `log_start` that could be read.
        chosen_mark: everything up to here was known chosen.
        log_start: everything up to here is only in the snapshot.
        unknown: slots whose record is rotten: something may have been accepted there.
        lost_upto: everything up to here was chosen and applied here, and part of it is lost with a damaged
            snapshot: until it is learned again this replica does not vote.
    """

    promised: Ballot
    entries: tuple[Entry, ...]
    chosen_mark: Slot
    log_start: Slot
    unknown: frozenset[Slot] = frozenset()
    lost_upto: Slot = 0


class Write:
    """To be made durable. In order: when one is durable, so are all before it."""

    __slots__ = ("chosen_mark", "entries", "id", "promised")

    def __init__(
        self,
        id: int,  # noqa: A002 -- the word of `persisted`
        promised: Ballot,
        chosen_mark: Slot,
        entries: tuple[Entry, ...],
    ) -> None:
        self.id = id
        self.promised = promised
        self.chosen_mark = chosen_mark
        self.entries = entries


@dataclass(frozen=True, slots=True)
class LogRead:
    """Entries to be read from the log, from a slot on; answered by `Paxos.log_read`."""

    id: int
    from_slot: Slot
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something that an operator may want to know. Kinds: election, disk, catch-up.

    Args:
        reason: one of few words, for counters: why an election begins, or why a leader is one no more.
    """

    kind: str
    text: str
    reason: str = ""


class PaxosReady:
    """What should happen now; the lists are independent of each other, each is in order.

    No dataclass: one is made in every turn, and a method of its own is compiled where a generated one is not.

    Args:
        writes: to be made durable, in order; `Paxos.persisted` says when.
        messages: to be sent; what rests on a write is here only after that write is durable.
        chosen: to be applied, without a gap, each slot once in the life of a process.
        grants: (ask, slot): the reads of the ask may be served once the slot is applied.
        log_reads: to be read from the log.
        snapshot_wanted: a peer whose snapshot this replica needs.
        notes: for the operator.
    """

    __slots__ = ("chosen", "grants", "log_reads", "messages", "notes", "snapshot_wanted", "writes")

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.messages: list[tuple[ReplicaId, PaxosMessage]] = []
        self.chosen: list[Entry] = []
        self.grants: list[tuple[int, Slot]] = []
        self.log_reads: list[LogRead] = []
        self.snapshot_wanted: ReplicaId | None = None
        self.notes: list[Note] = []

    @property
    def empty(self) -> bool:
        """Whether nothing should happen."""
        return not (
            self.writes
            or self.messages
            or self.chosen
            or self.grants
            or self.log_reads
            or self.snapshot_wanted is not None
            or self.notes
        )


NOTHING: Final = PaxosReady()
"""What every turn without any news gives its host, who only reads it: most turns are such."""
