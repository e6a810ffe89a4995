"""What a replica measures of itself, at a cost of next to nothing, and what each measure is called.

`FAMILIES` is the list that Prometheus gets and docs/OPERATING.md explains; `Measures` is what the host counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from synod.base import SECOND, Ballot, Micros, ReplicaId
from synod.replica import Note

Kind = Literal["gauge", "counter", "histogram"]

FAMILIES: Final[dict[str, tuple[Kind, str]]] = {
    "synod_info": ("gauge", "1; version and core of this replica, and the cell, are its labels"),
    "synod_leader": ("gauge", "1 when this replica leads"),
    "synod_ready": ("gauge", "1 when linearizable reads can be served"),
    "synod_read_only": ("gauge", "1 while a majority has no room to write, so that the cell only reads"),
    "synod_abstaining": (
        "gauge",
        "1 while this replica takes no part in ballots: no room, or a disk that holds nothing",
    ),
    "synod_applied_slot": ("gauge", "the last slot of the log that is applied here"),
    "synod_chosen_slot": ("gauge", "the last slot that is known here to be chosen"),
    "synod_digest_slot": ("gauge", "the slot of the last digest that was compared with the peers'"),
    "synod_snapshot_slot": ("gauge", "the slot of the latest snapshot on the disk"),
    "synod_feature_level": ("gauge", "the rules that are in force in the cell"),
    "synod_supported_level": ("gauge", "the highest feature level that this version knows"),
    "synod_zxid": ("gauge", "the zxid of the last write that is applied here"),
    "synod_sessions": ("gauge", "sessions of the cell"),
    "synod_connections": ("gauge", "connections of clients to this replica"),
    "synod_outstanding_requests": ("gauge", "requests of this replica's clients without an answer yet"),
    "synod_znodes": ("gauge", "znodes of the cell"),
    "synod_watches": ("gauge", "watches of this replica's clients"),
    "synod_data_bytes": ("gauge", "paths and values of the cell"),
    "synod_log_bytes": ("gauge", "what the log takes on this replica's disk"),
    "synod_peer_connected": ("gauge", "1 when the peer is connected to this replica"),
    "synod_peer_lag_slots": ("gauge", "chosen slots that the peer does not know yet, as the leader sees it"),
    "synod_peer_silence_seconds": ("gauge", "how long the connected peer has not answered, as the leader sees it"),
    "synod_elections": ("counter", "elections that this replica began or took part in, by what began them"),
    "synod_ballots": ("counter", "ballots that this replica raised, by what became of them"),
    "synod_leader_changes": ("counter", "how often this replica began to follow another leader, or to lead"),
    "synod_stalls": ("counter", "how often this replica stood still for long: its loop, or its disk"),
    "synod_snapshots": ("counter", "snapshots that this replica has finished"),
    "synod_refusals": ("counter", "what was refused: connections of clients and peers, and frames"),
    "synod_requests": ("counter", "requests of this replica's clients"),
    "synod_request_seconds": ("histogram", "how long a request took, of one request at a time and not of each"),
    "synod_sync_seconds": ("histogram", "how long a write and its sync of the log took"),
    "synod_sync_writes": ("histogram", "writes that shared a sync"),
    "synod_batch_bytes": ("histogram", "bytes of a write of the log"),
    "synod_loop_lag_seconds": ("histogram", "how late a timer of the event loop fired"),
    "synod_heartbeat_gap_seconds": ("histogram", "how long the leader was not heard, until it was heard again"),
}
"""Name (a counter's without `_total`), type and help."""

LOOP_STALL: Final[Micros] = SECOND // 10
"""A timer so late is a stall: a heartbeat's period, so that peers may begin to notice."""

DISK_STALL_S: Final = 0.5
"""A sync that takes so long is a stall: the election timeout, after which a leader with such a disk stands down."""

BEGINNINGS: Final = frozenset({"connection closed", "silence", "hand-over", "stands down"})
"""Reasons of notes with which an election begins."""


SUMMARISED: Final = (
    "request_seconds",
    "sync_seconds",
    "sync_writes",
    "batch_bytes",
    "loop_lag_seconds",
    "heartbeat_gap_seconds",
)


class Histogram:
    """Counts of observations up to each bound, their sum, and the largest."""

    __slots__ = ("bounds", "counts", "max", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.max = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        bucket = 0
        for bound in self.bounds:  # few, and most values are low: cheaper than a call
            if value <= bound:
                break
            bucket += 1
        self.counts[bucket] += 1
        self.sum += value
        if value > self.max:
            self.max = value

    def summary(self) -> dict[str, float]:
        """What fits into a status: how many, their mean, the largest, and a bound that 99 of 100 keep."""
        count = sum(self.counts)
        if not count:
            return {"count": 0, "mean": 0.0, "p99": 0.0, "max": 0.0}
        seen, p99 = 0, self.max
        for bound, of_bucket in zip(self.bounds, self.counts, strict=False):
            seen += of_bucket
            if 100 * seen >= 99 * count:
                p99 = min(bound, self.max)
                break
        return {"count": count, "mean": self.sum / count, "p99": p99, "max": self.max}

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, how many were at most that) as Prometheus wants it."""
        total = 0.0
        rows = []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, total))
        return rows


class Latency:
    """How long clients waited for an answer, in microseconds; of one request at a time, not of each."""

    __slots__ = ("count", "max", "min", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0
        self.min = 0
        self.max = 0

    def observe(self, micros: int) -> None:
        """Count one request."""
        self.min = min(self.min, micros) if self.count else micros
        self.max = max(self.max, micros)
        self.count += 1
        self.sum += micros

    @property
    def mean(self) -> float:
        """Of all that were timed; 0 when none was."""
        return self.sum / self.count if self.count else 0.0


class Measures:
    """Everything that a host counts.

    Args:
        now: when the process began.
    """

    def __init__(self, now: Micros) -> None:
        self.request_seconds = Histogram((0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0))
        self.sync_seconds = Histogram((0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 0.5, 1.0))
        self.sync_writes = Histogram((1, 2, 4, 8, 16, 64))
        self.batch_bytes = Histogram((256, 1024, 4096, 16384, 65536, 262144, 1048576))
        self.loop_lag_seconds = Histogram((0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0))
        self.heartbeat_gap_seconds = Histogram((0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 5.0))
        self.elections = dict.fromkeys((*sorted(BEGINNINGS), "start"), 0)
        self.ballots = dict.fromkeys(("raised", "leads", "given up"), 0)
        self.stalls = {"loop": 0, "disk": 0}
        self.refusals = {"frames": 0, "connections": 0, "slow reader": 0, "peer": 0}
        self.leader_changes = 0
        self.snapshots = 0
        self.last_election: dict[str, object] | None = None
        self._cause = ("start", "this replica has just started")
        self._caused_at = now
        self._leader: ReplicaId | None = None
        self._ballot: Ballot | None = None

    def summary(self) -> dict[str, object]:
        """What `/status` tells of all this."""
        return {
            "elections": self.elections,
            "ballots": self.ballots,
            "leader_changes": self.leader_changes,
            "stalls": self.stalls,
            "refusals": self.refusals,
            "snapshots": self.snapshots,
            **{name: getattr(self, name).summary() for name in SUMMARISED},
        }

    def noted(self, note: Note, now: Micros) -> None:
        """The core has reported something."""
        if note.kind != "election":
            if note.reason == "hangs":
                self.stalls["disk"] += 1
            return
        if note.reason in BEGINNINGS:
            self.elections[note.reason] += 1
            self._cause = (note.reason, note.text)
            self._caused_at = now
        elif note.reason in self.ballots:
            self.ballots[note.reason] += 1

    def follows(self, leader: ReplicaId | None, ballot: Ballot, now: Micros, wall_ms: Callable[[], int]) -> None:
        """Whom this replica follows, itself perhaps; whoever is new has been elected, and this is why."""
        if leader is None or (leader == self._leader and ballot == self._ballot):
            return
        if self._leader is None:
            self.elections["start"] += 1
        self._leader, self._ballot = leader, ballot
        self.leader_changes += 1
        reason, text = self._cause
        self.last_election = {
            "leader": leader,
            "ballot": [ballot.round, ballot.replica],
            "reason": reason,
            "text": text,
            "at_ms": wall_ms(),
            "took_ms": (now - self._caused_at) // 1000,
        }
        self._cause = ("called", "another replica called an election")
        self._caused_at = now
