"""What goes wrong in one seed: fault classes are switched on and off, and sizes varied, swarm style.

Ref: Groce et al. 2012 (swarm testing: leaving features out finds more than using all of them always).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from typing import Any, Final

from synod.base import MILLISECOND, Micros
from synod.paxos import PaxosOptions
from synod.replica import ReplicaOptions

FAULTS: Final[dict[str, tuple[str, ...]]] = {
    "builds": ("another build",),
    "client_crashes": ("client crash",),
    "client_cuts": ("client cut",),
    "client_pauses": ("client pause",),
    "crashes": ("crash", "crash with unsynced writes"),
    "disk_errors": ("disk error",),
    "disk_full": ("disk full",),
    "drift": ("clock drifts",),
    "hand_overs": ("hand-over",),
    "long_cuts": ("long cut",),
    "loss": ("packet lost",),
    "members": ("member added", "member promoted", "member removed", "member replaced"),
    "misdirected": ("write misdirected",),
    "one_way": ("one-way cut",),
    "partitions": ("partition",),
    "pauses": ("pause",),
    "read_errors": ("read error",),
    "replay": ("message replayed",),
    "resets": ("reset",),
    "rot": ("rot in a log", "rot in a snapshot"),
    "slow_disks": ("slow sync", "disk hangs"),
    "slow_ways": ("slow way",),
    "snapshots": ("snapshot",),
    "suspends": ("suspend",),
    "versions": ("upgrade", "roll-back"),
    "wall_jumps": ("wall jump",),
    "wipes": ("disk wiped",),
    "write_errors": ("write error",),
}
"""Every class of faults, and what is counted when one of it has really happened."""

DISK_SHARES: Final = (0.005, 0.02, 0.1)
"""How many of a disk's operations fail while they do. TigerBeetle's simulator goes up to a tenth as well."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of one seed; a class that is off is False or 0. Times in microseconds.

    Args:
        crashes: processes die.
        power_cuts: this share of crashes takes the power along: unsynced sectors are torn, lost and reordered.
        pauses: a process stands still, its clock does not.
        suspends: a whole machine stands still, its monotonic clock with it, and does not know when it wakes.
        partitions: replicas cut off from each other, both ways.
        long_cuts: partitions outlast sessions.
        one_way: partitions that let one direction through.
        resets: connections close and open again.
        slow_disks: syncs take up to a second, or do not come back for seconds.
        disk_errors: for a while this share of a machine's syncs fails; each time its process stops and starts again.
        write_errors: for a while this share of writes fails; the same.
        disk_full: no room for a segment for a while.
        drift: clocks run at different speeds, up to this many parts per million.
        wall_jumps: wall clocks jump by minutes.
        client_crashes: clients die and begin anew; nobody ends their sessions for them.
        client_cuts: clients lose their connections, or are cut off without being told.
        client_pauses: clients fall silent, long enough to lose their sessions.
        snapshots: snapshots are taken all the time, and logs trimmed behind them.
        hand_overs: leaders are asked to hand over.
        loss: for a while, up to this share of packets is lost. A stream does not lose a message: its packet is
            sent again, everything behind it waits, and when it is lost too often the connection breaks.
        replay: this share of messages between replicas arrives a second time, later, in the same connection.
            No stream does that; a replica that begins anew after every doubt does.
        slow_ways: one direction of some links is many times slower than the other.
        read_errors: for a while this share of reads fails, or all of them; the same.
        rot: bits flip in what was durable, in the logs and snapshots of a minority.
        misdirected: on a minority, for a while, this share of writes lands somewhere else in their files.
        wipes: the disks of a minority are replaced by new ones, and formatted as if nothing had been.
        versions: machines begin with an old version and are upgraded one by one, some of them rolled back first;
            the new version applies the log by other rules once the cell's feature level allows it.
        members: replicas are added, promoted, removed, and replaced on an empty disk, by whoever thinks that it leads.
        builds: replicas are stopped cleanly, and come back as builds with other bounds and sizes than their peers.
        heartbeat: of the leader; the election timeout is `election_beats` of it.
        small: batches, caches and files are so small that every bound is met.
    """

    replicas: int
    clients: int
    keys: int
    crashes: bool
    power_cuts: float
    pauses: bool
    suspends: bool
    partitions: bool
    one_way: bool
    long_cuts: bool
    resets: bool
    slow_disks: bool
    disk_errors: float
    write_errors: float
    disk_full: bool
    drift: int
    wall_jumps: bool
    client_crashes: bool
    client_cuts: bool
    client_pauses: bool
    snapshots: bool
    hand_overs: bool
    loss: float
    replay: float
    slow_ways: bool
    read_errors: float
    rot: bool
    misdirected: float
    wipes: bool
    versions: bool
    members: bool
    builds: bool
    heartbeat: Micros
    election_beats: int
    small: bool
    in_flight: int
    sequential: bool
    delay: Micros
    session_timeout_ms: int
    fault_every: Micros

    @classmethod
    def draw(cls, rng: random.Random) -> Plan:
        """A plan from chance."""

        def on(share: float = 0.5) -> bool:
            return rng.random() < share

        def rate(share: float) -> float:
            drawn = rng.random() / share
            return DISK_SHARES[int(drawn * len(DISK_SHARES))] if drawn < 1 else 0.0

        delay = rng.choice((100, 500, 5_000, 20_000))
        return cls(
            replicas=rng.choice((1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 7)),
            clients=rng.randrange(2, 6),
            keys=rng.randrange(1, 4),
            crashes=on(),
            power_cuts=rng.choice((0.5, 0.8, 1.0)),
            pauses=on(),
            suspends=on(0.25),
            partitions=on(),
            one_way=on(0.3),
            long_cuts=on(0.4),
            resets=on(),
            slow_disks=on(0.3),
            disk_errors=rate(0.2),
            write_errors=rate(0.2),
            disk_full=on(0.15),
            drift=rng.choice((0, 0, 100, 1_000)),
            wall_jumps=on(0.3),
            client_crashes=on(0.3),
            client_cuts=on(),
            client_pauses=on(),
            snapshots=on(0.4),
            hand_overs=on(0.3),
            in_flight=rng.choice((1, 1, 1, 2, 4)),
            sequential=on(0.15),
            delay=delay,
            session_timeout_ms=rng.choice((1_500, 4_000)),
            fault_every=rng.choice((150, 500, 1_500)) * MILLISECOND,
            loss=rng.choice((0.0, 0.0, 0.02, 0.1, 0.3)),
            replay=rng.choice((0.0, 0.0, 0.02, 0.1, 0.5)),
            slow_ways=on(0.3),
            read_errors=rate(0.2),
            rot=on(0.25),
            misdirected=rate(0.15),
            wipes=on(0.2),
            versions=on(0.3),
            members=on(0.3),
            builds=on(0.25),
            # A cell whose messages take longer than its patience elects for ever: nobody runs one so.
            heartbeat=max(rng.choice((30, 100, 100, 250)) * MILLISECOND, 5 * delay),
            election_beats=rng.choice((4, 5, 5, 8)),
            small=on(),
        )

    def options(self, build: int = 0) -> ReplicaOptions:
        """The core's settings under this plan.

        Args:
            build: replicas of other builds differ in what need not be the same everywhere.
        """
        tight = self.small ^ bool(build & 1)
        return ReplicaOptions(
            paxos=PaxosOptions(
                heartbeat=self.heartbeat,
                election_timeout=self.election_beats * self.heartbeat,
                probe_timeout=self.heartbeat * 3 // 2,
                in_flight_slots_max=self.in_flight + build % 3,
                cache_bytes_max=2_000 if tight else 20_000,
                fetch_bytes_max=600 if tight else 4_000,
                promise_chunk_bytes_max=500 if tight else 1 << 20,
                send_window_bytes=3_000 if tight else 1 << 20,
            ),
            reads="sequential" if self.sequential else "linearizable",
            session_timeout_ms_min=1_000,
            batch_bytes_max=300 if tight else 1 << 20,
            snapshot_log_bytes=(1_500 if tight else 6_000) if self.snapshots else 1 << 30,
            log_block_bytes=0,
            snapshot_step_bytes=500 + 300 * build,
            transfer_chunk_bytes=700 + 400 * build,
        )

    @classmethod
    def calm(cls, *, replicas: int = 3, clients: int = 3, keys: int = 2) -> Plan:
        """Nothing goes wrong; `dataclasses.replace` switches classes on."""
        nothing: dict[str, Any] = {f.name: False if f.type in ("bool", bool) else 0 for f in fields(cls)}
        sizes = {"replicas": replicas, "clients": clients, "keys": keys, "in_flight": 1, "election_beats": 5}
        times = {"delay": 500, "session_timeout_ms": 4_000, "fault_every": 500 * MILLISECOND}
        return cls(**{**nothing, **sizes, **times, "heartbeat": 100 * MILLISECOND, "power_cuts": 0.7})

    def switched_on(self) -> list[str]:
        """The names of the fault classes that are on."""
        return [name for name in FAULTS if getattr(self, name)]
