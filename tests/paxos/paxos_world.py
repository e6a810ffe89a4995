"""A small seeded world for Paxos alone: lossy links, disks that forget what was not synced, crashes.

The large simulator in `synod.sim` runs whole replicas; this one runs only consensus, so that a failing seed
is small and quick to read.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from paxos_cell import configuration_of

from synod.base import BALLOT_ZERO, MILLISECOND, SECOND, Ballot, Entry
from synod.paxos import Accepted, Durable, Paxos, PaxosOptions, Promise, decode, encode

OPTIONS = PaxosOptions(cache_bytes_max=2_000, promise_chunk_bytes_max=200, fetch_bytes_max=200)


@dataclass
class Disk:
    """What is durable, and what was written and not synced yet."""

    promised: Ballot = BALLOT_ZERO
    mark: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)
    unsynced: list = field(default_factory=list)

    def sync(self, upto: int) -> None:
        for write in [w for w in self.unsynced if w.id <= upto]:
            self.promised = max(self.promised, write.promised)
            self.mark = max(self.mark, write.chosen_mark)
            for entry in write.entries:
                held = self.entries.get(entry.slot)
                if held is None or entry.ballot >= held.ballot:
                    self.entries[entry.slot] = entry
        self.unsynced = [w for w in self.unsynced if w.id > upto]


@dataclass
class Faults:
    """How bad this world is."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: bool = False
    crashes: bool = False
    partitions: bool = False
    resets: bool = False
    pauses: bool = False


class World:
    """Replicas, links and disks under one seed."""

    def __init__(self, seed: int, size: int, faults: Faults, options: PaxosOptions = OPTIONS) -> None:
        self.rng = random.Random(seed)
        self.options = options
        self.faults = faults
        self.now = SECOND
        self.ids = tuple(range(1, size + 1))
        self.disks = {i: Disk() for i in self.ids}
        self.up: dict[int, Paxos] = {}
        self.life = dict.fromkeys(self.ids, 0)
        self.events: list = []
        self.count = 0
        self.cut: set[tuple[int, int]] = set()
        self.link_free = {(a, b): 0 for a in self.ids for b in self.ids}
        self.link_life = {(min(a, b), max(a, b)): 0 for a in self.ids for b in self.ids if a != b}
        self.paused: dict[int, int] = {}
        # Oracles.
        self.chosen: dict[int, bytes] = {}
        self.leaders: dict[Ballot, int] = {}
        self.acknowledged: dict[bytes, int] = {}
        self.asked: dict[tuple[int, int, int], int] = {}
        self.granted = 0
        self.applied = dict.fromkeys(self.ids, 0)
        self.value = 0
        self.durable_checks = 0
        for i in self.ids:
            self.start(i)

    # -- processes

    def start(self, i: int) -> None:
        disk = self.disks[i]
        self.life[i] += 1
        self.applied[i] = 0
        durable = Durable(disk.promised, tuple(disk.entries[s] for s in sorted(disk.entries)), disk.mark, 0)
        self.up[i] = Paxos(
            me=i,
            configuration=configuration_of(self.ids),
            options=self.options,
            durable=durable,
            applied=0,
            rng=random.Random(self.rng.getrandbits(32)),
            now=self.now,
        )
        for j in self.ids:
            if j != i and j in self.up:
                self.connect(i, j)
        self.drain(i)

    def crash(self, i: int) -> None:
        del self.up[i]
        disk = self.disks[i]
        for write in disk.unsynced:  # some of what was not synced may have reached the disk, in order
            if self.rng.random() < 0.5:
                break
            disk.sync(write.id)
        disk.unsynced.clear()
        for j in self.ids:
            if j != i:
                self.disconnect(i, j)

    def connect(self, i: int, j: int) -> None:
        if (i, j) in self.cut or (j, i) in self.cut:
            return
        for a, b in ((i, j), (j, i)):
            if a in self.up:
                self.up[a].connected(b, self.now)
        for a in (i, j):
            if a in self.up:
                self.drain(a)

    def disconnect(self, i: int, j: int) -> None:
        self.link_life[min(i, j), max(i, j)] += 1
        for a, b in ((i, j), (j, i)):
            if a in self.up:
                self.up[a].disconnected(b, self.now)
                self.drain(a)

    # -- events

    def at(self, when: int, kind: str, *what) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, kind, what))

    def drain(self, i: int) -> None:
        paxos = self.up[i]
        for _ in range(50):
            if paxos.needs_opening:
                paxos.propose_opening(b"open %d.%d" % paxos.ballot, self.now)
            if paxos.role == "leader":
                owner = self.leaders.setdefault(paxos.ballot, i)
                assert owner == i, f"two leaders of ballot {paxos.ballot}"
            ready = paxos.ready()
            for write in ready.writes:
                self.disks[i].unsynced.append(write)
                self.at(self.now + self.rng.randrange(50, 3_000), "synced", i, self.life[i], write.id)
            for peer, message in ready.messages:
                self.check_durable(i, message)
                self.post(i, peer, encode(message))
            for entry in ready.chosen:
                self.applied[i] += 1
                assert entry.slot == self.applied[i], "applied slots are contiguous"
                known = self.chosen.setdefault(entry.slot, entry.value)
                assert known == entry.value, f"slot {entry.slot} has two values"
                self.acknowledged.setdefault(entry.value, entry.slot)
            for ask, slot in ready.grants:
                before = self.asked.pop((i, self.life[i], ask))
                assert slot >= before, "a read was granted a state older than its ask"
                self.granted += 1
            for read in ready.log_reads:
                entries = []
                size = 0
                slot = read.from_slot
                while slot in self.disks[i].entries and size < read.bytes_max:
                    entries.append(self.disks[i].entries[slot])
                    size += len(entries[-1].value)
                    slot += 1
                paxos.log_read(read.id, entries, self.now)
            if not (ready.writes or ready.messages or ready.chosen or ready.grants or ready.log_reads):
                break

    def check_durable(self, i: int, message) -> None:
        disk = self.disks[i]
        if isinstance(message, (Promise, Accepted)):
            assert disk.promised >= message.ballot, "a promise left before it was durable"
            self.durable_checks += 1
        if isinstance(message, Accepted) and message.slot > disk.mark:
            held = disk.entries.get(message.slot)
            assert held is not None, "an Accepted left before its entry was durable"
            assert held.ballot >= message.ballot or message.slot <= self.up[i].chosen_mark

    def post(self, i: int, j: int, data: bytes) -> None:
        if (i, j) in self.cut:
            return
        if self.rng.random() < self.faults.loss:
            return
        copies = 2 if self.rng.random() < self.faults.duplicate else 1
        for _ in range(copies):
            arrive = self.now + self.rng.randrange(100, 2_000) * (10 if self.rng.random() < 0.02 else 1)
            if not self.faults.reorder:
                arrive = max(arrive, self.link_free[i, j])
                self.link_free[i, j] = arrive
            self.at(arrive, "message", i, j, self.link_life[min(i, j), max(i, j)], data)

    def run(self, until: int) -> None:
        while self.events and self.events[0][0] <= until:
            when, _, kind, what = heapq.heappop(self.events)
            self.now = max(self.now, when)
            getattr(self, f"do_{kind}")(*what)
        self.now = until

    def do_message(self, i: int, j: int, life: int, data: bytes) -> None:
        if j not in self.up or (i, j) in self.cut or life != self.link_life[min(i, j), max(i, j)]:
            return
        if j in self.paused:
            self.at(self.paused[j] + 1, "message", i, j, life, data)
            return
        self.up[j].step(i, decode(data), self.now)
        self.drain(j)

    def do_synced(self, i: int, life: int, write_id: int) -> None:
        if self.life[i] != life or i not in self.up:
            return
        if i in self.paused:
            self.at(self.paused[i] + 1, "synced", i, life, write_id)
            return
        self.disks[i].sync(write_id)
        self.up[i].persisted(write_id, self.now)
        self.drain(i)

    def do_tick(self, i: int) -> None:
        if i in self.up and i not in self.paused and self.now >= self.up[i].next_deadline():
            self.up[i].tick(self.now)
            self.drain(i)
        self.at(self.now + 10 * MILLISECOND, "tick", i)

    def do_work(self) -> None:
        for i, paxos in list(self.up.items()):
            if i in self.paused:
                continue
            if paxos.can_propose:
                self.value += 1
                paxos.propose(b"value %d" % self.value, self.now)
                self.drain(i)
            if self.rng.random() < 0.3 and len(self.asked) < 200:
                before = len(self.chosen)  # everything up to here was chosen somewhere before the ask
                ask = paxos.ask(self.now)
                self.asked[i, self.life[i], ask] = before
                self.drain(i)
        self.at(self.now + self.rng.randrange(1, 20) * MILLISECOND, "work")

    def do_fault(self) -> None:
        rng, faults = self.rng, self.faults
        i = rng.choice(self.ids)
        roll = rng.random()
        if faults.crashes and roll < 0.4 and i in self.up and i not in self.paused:
            self.crash(i)
            self.at(self.now + rng.randrange(10, 1_500) * MILLISECOND, "restart", i)
        elif faults.partitions and roll < 0.7:
            self.heal()
            side = {j for j in self.ids if rng.random() < 0.5}
            one_way = rng.random() < 0.3
            for a in self.ids:
                for b in self.ids:
                    if a in side and b not in side:
                        self.cut.add((a, b))
                        if not one_way:
                            self.cut.add((b, a))
            for a, b in list(self.cut):
                if a in self.up and b in self.up and a < b and not one_way:
                    self.disconnect(a, b)
            self.at(self.now + rng.randrange(200, 2_500) * MILLISECOND, "heal")
        elif faults.resets and roll < 0.85:
            j = rng.choice(self.ids)
            if i != j and i in self.up and j in self.up:
                self.disconnect(i, j)
                self.connect(i, j)
        elif faults.pauses and i not in self.paused:
            self.paused[i] = self.now + rng.randrange(100, 3_000) * MILLISECOND
            self.at(self.paused[i], "wake", i)
        self.at(self.now + rng.randrange(50, 800) * MILLISECOND, "fault")

    def do_restart(self, i: int) -> None:
        if i not in self.up:
            self.start(i)

    def do_wake(self, i: int) -> None:
        self.paused.pop(i, None)

    def do_heal(self) -> None:
        self.heal()

    def heal(self) -> None:
        self.cut.clear()
        for a in self.ids:
            for b in self.ids:
                if a < b and a in self.up and b in self.up:
                    self.connect(a, b)

    # -- the whole test

    def begin(self) -> None:
        for i in self.ids:
            self.at(self.now, "tick", i)
        self.at(self.now, "work")

    def stop_faults(self) -> None:
        self.events = [e for e in self.events if e[2] not in ("fault", "heal")]
        heapq.heapify(self.events)
        self.faults = Faults()
        self.cut.clear()
        self.paused.clear()
        for i in self.ids:
            if i not in self.up:
                self.start(i)
        self.heal()


def run_seed(seed: int, size: int, faults: Faults, options: PaxosOptions = OPTIONS) -> World:
    """Faults for ten seconds, then health: the world must make progress and agree."""
    world = World(seed, size, faults, options)
    world.begin()
    world.at(world.now + SECOND, "fault")
    world.run(world.now + 10 * SECOND)
    world.stop_faults()
    before = len(world.chosen)
    world.run(world.now + 6 * SECOND)
    assert len(world.chosen) > before + 10, "no progress after healing"
    world.events = [e for e in world.events if e[2] != "work"]
    heapq.heapify(world.events)
    world.run(world.now + 2 * SECOND)
    marks = {paxos.chosen_mark for paxos in world.up.values()}
    assert len(marks) == 1, f"replicas did not converge: {marks}"
    assert set(world.applied.values()) == marks
    return world
