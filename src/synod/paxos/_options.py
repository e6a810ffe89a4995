"""The settings and the outputs of Paxos."""

from __future__ import annotations

from dataclasses import dataclass, field

from synod.base import MILLISECOND, Ballot, Entry, Micros, ReplicaId, Slot

from ._messages import PaxosMessage


@dataclass(frozen=True, slots=True)
class PaxosOptions:
    """Periods in microseconds, sizes in bytes.

    Args:
        heartbeat: the leader speaks at least so often; a fifth of the election timeout, so that one lost or
            late heartbeat starts nothing.
        election_timeout: silence of the leader after which it may be gone; randomised up to twice.
        probe_timeout: how long a round of probes or of phase 1's first answers may take.
        in_flight_slots_max: proposed and not chosen; 1 gathers the largest batches and was fastest on loopback.
        promise_bytes_max: entries in one part of a Promise.
        fetch_bytes_max: entries in one Slots.
        cache_bytes_max: chosen entries kept in memory for peers that lag a little.
        send_window_bytes: unacknowledged values to one peer; a slower one catches up by Fetch.
        candidate_lag_slots_max: who is further behind raises no ballot, it would only delay a better one.
        checks: assert the invariants around every step.
    """

    heartbeat: Micros = 100 * MILLISECOND
    election_timeout: Micros = 500 * MILLISECOND
    probe_timeout: Micros = 150 * MILLISECOND
    in_flight_slots_max: int = 1
    promise_bytes_max: int = 1 << 20
    fetch_bytes_max: int = 1 << 20
    cache_bytes_max: int = 32 << 20
    send_window_bytes: int = 16 << 20
    candidate_lag_slots_max: int = 64
    checks: bool = True


@dataclass(frozen=True, slots=True)
class Durable:
    """What the log gave back at start.

    Args:
        promised: the highest ballot promised.
        entries: the highest ballot per slot, for every slot past `log_start` that could be read.
        chosen_mark: everything up to here was known chosen.
        log_start: everything up to here is only in the snapshot.
        unknown: slots whose record is rotten: something may have been accepted there.
    """

    promised: Ballot
    entries: tuple[Entry, ...]
    chosen_mark: Slot
    log_start: Slot
    unknown: frozenset[Slot] = frozenset()


@dataclass(frozen=True, slots=True)
class Write:
    """To be made durable. In order: when one is durable, so are all before it."""

    id: int
    promised: Ballot
    chosen_mark: Slot
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class LogRead:
    """Entries to be read from the log, from a slot on."""

    id: int
    from_slot: Slot
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something that an operator may want to know."""

    kind: str
    text: str


@dataclass(slots=True)
class PaxosReady:
    """What should happen now."""

    writes: list[Write] = field(default_factory=list)
    messages: list[tuple[ReplicaId, PaxosMessage]] = field(default_factory=list)
    chosen: list[Entry] = field(default_factory=list)
    grants: list[tuple[int, Slot]] = field(default_factory=list)
    log_reads: list[LogRead] = field(default_factory=list)
    snapshot_wanted: ReplicaId | None = None
    notes: list[Note] = field(default_factory=list)
