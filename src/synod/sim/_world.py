"""A whole cell with its clients under one virtual clock, from one seed.

Safety first: faults of the plan's classes, with every step judged. Then liveness: everything heals, and all
replicas and clients must get on within a bounded time. The same seed gives the same run, and the same trace
hash, in every process on every machine.

Read `run_seed`, then `World.run`.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from zlib import crc32

from synod.base import (
    MILLISECOND,
    SECOND,
    Change,
    ConfigError,
    Configuration,
    InvariantViolation,
    Member,
    Micros,
    Role,
    Slot,
    is_change,
)
from synod.tree import Tree
from synod.wire import STATE_EXPIRED

from ._access import Access, admitted
from ._checkers import Event, Holding, Seen, Span, exclusive, watches_complete, watches_ordered
from ._clients import Client
from ._linear import Attempt, explain, witnessed
from ._loads import HIDDEN
from ._machine import LEVEL_NEW, Machine
from ._network import Network
from ._oracles import Oracles
from ._outcome import Outcome, Violation
from ._plan import FAULTS, Plan
from ._processes import Process
from ._transactions import Transaction, serializable

SAFETY_TIME: Final = 15 * SECOND
MEMBERS_MAX: Final = 7

LIVENESS_TIME: Final = 30 * SECOND
"""Healed, a cell must elect, catch up and serve everybody within this: many times an election timeout."""

_FAULTY: Final = frozenset({"fault", "operator", "heal", "fast_again", "rebuild", "crash", "client_heal"})
"""Events that belong to the first phase only."""

CLIENT_PORT: Final = 2181

TRACED_AT_ONCE: Final = 64
"""Events are hashed by the dozen: a call for each would cost more than the hash."""

CELL_ID: Final = "5e" * 16


class Endpoint(Protocol):
    """A client's end of its connection."""

    id: int
    conn: int
    machine: int
    paused_until: Micros

    def receive(self, data: bytes) -> None:
        """Bytes of the replica."""

    def lost(self) -> None:
        """The connection is gone."""


class World:
    """Machines, links, clients, faults and judges of one seed."""

    def __init__(self, seed: int, plan: Plan | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.plan = plan if plan is not None else Plan.draw(self.stream("plan"))
        self.now: Micros = SECOND
        self.quiet = False
        self._healed = False
        self.counts: dict[str, int] = {}
        self._events: list[tuple[Micros, int, str, tuple[object, ...]]] = []
        self._count = 0
        self._trace = hashlib.blake2b(digest_size=16)
        self._untraced: list[str] = []
        self._handlers: dict[str, Callable[..., None]] = {}
        self._wakes: dict[int, Micros] = {}
        self._faults = self.stream("faults")
        # Judges.
        self.oracles = Oracles(self.violated)
        self.holdings: list[Holding] = []
        self._seen_done: list[list[Seen]] = []
        self.transactions: list[Transaction] = []
        self.accesses: list[Access] = []
        self.spans: list[Span] = []
        self.changes: set[Event] = set()
        # The cell.
        self.network = Network(self)
        members = tuple(Member(i, f"127.0.0.1:{7000 + i}") for i in range(1, self.plan.replicas + 1))
        self.first = self.members = Configuration(CELL_ID, members)
        self.promoted = {(member.id, member.incarnation) for member in members}
        self.machines = {member.id: Machine(self, member.id, self.first) for member in members}
        self.clients = {i: Client(self, i) for i in range(1, self.plan.clients + 1)}
        self.processes: dict[int, Process] = {}
        self.scenario: Callable[[], None] | None = None
        self.checks: list[Callable[[], None]] = []
        self.patience = LIVENESS_TIME
        self._reported: str | None = None
        self._conns: dict[tuple[int, int], Endpoint] = {}
        self._next_conn = 0
        self.client_cuts: dict[tuple[int, int], Micros] = {}
        self._swallowed: dict[tuple[int, int, int], int] = {}  # (client, machine, connection): the machine's life
        self._order_of: dict[tuple[str, int], Micros] = {}

    def stream(self, name: str) -> random.Random:
        """Chance of its own for one concern, so that one more draw here changes nothing there."""
        return random.Random(f"{self.seed}/{name}")

    # -- events --------------------------------------------------------------------------------------------

    def at(self, when: Micros, kind: str, *what: object) -> None:
        """Have something happen at a time."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, kind, what))

    def after(self, delay: Micros, kind: str, *what: object) -> None:
        """Have something happen after a while."""
        self.at(self.now + delay, kind, *what)

    def wake_at(self, machine: Machine, when: Micros) -> None:
        """Wake a machine for its timers; one pending wake a machine, the earliest."""
        pending = self._wakes.get(machine.id)
        if pending is None or when < pending or pending <= self.now:
            self._wakes[machine.id] = when
            self.at(when, "wake", machine.id, machine.life)

    def count(self, what: str) -> None:
        """Count a fault that fired, or something that must have happened at all."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def note(self, machine: Machine, kind: str, text: str) -> None:
        """What a core reports."""
        self._mark("note", machine.id, kind, text)

    def violated(self, text: str) -> None:
        """An oracle speaks.

        Raises:
            Violation: always.
        """
        raise Violation(text)

    def report(self, text: str) -> None:
        """A process found something: the run ends after its turn."""
        if self._reported is None:
            self._reported = text

    def _mark(self, *what: object) -> None:
        self._untraced.append(repr((self.now, *what)))
        if len(self._untraced) >= TRACED_AT_ONCE:
            self._hash_on()

    def _hash_on(self) -> None:
        self._trace.update("".join(self._untraced).encode())
        self._untraced.clear()

    def run(self, until: Micros) -> None:
        """Let time pass."""
        events, handlers = self._events, self._handlers
        while events and events[0][0] <= until:
            when, _, kind, what = heapq.heappop(events)
            if when > self.now:
                self.now = when
            # Bytes are the last thing of an event, where there are any.
            if what and isinstance(what[-1], bytes):
                self._mark(kind, *what[:-1], crc32(what[-1]))
            else:
                self._mark(kind, *what)
            handler = handlers.get(kind)
            if handler is None:
                handler = handlers[kind] = getattr(self, f"_on_{kind}")
            handler(*what)
        self.now = until

    def _on_wake(self, id_: int, life: int) -> None:
        machine = self.machines[id_]
        if machine.life == life and self._wakes.get(id_, 0) <= self.now:
            self._wakes.pop(id_, None)
            machine.wake()

    def _on_message(self, a: int, b: int, life: int, data: bytes) -> None:
        self.network.deliver(a, b, life, data)

    def _on_again(self, a: int, b: int, life: int, data: bytes) -> None:
        self.network.deliver(a, b, life, data, again=True)

    def _on_late_hello(self, host: int, guest: int, hello: bytes) -> None:
        self.network.hear_late(host, guest, hello)

    def _on_closed(self, id_: int, life: int, peer: int) -> None:
        machine = self.machines[id_]
        if machine.life != life or machine.replica is None:
            return
        if not machine.running:
            self.at(machine.paused_until + 1, "closed", id_, life, peer)
            return
        self.network.tell_closed(id_, peer)
        self.after(self._faults.randrange(20_000, 100_000), "connect", id_, peer)

    def _on_connect(self, a: int, b: int) -> None:
        pair = (min(a, b), max(a, b))
        if pair in self.network.open:
            return
        refused = self.network.connect(a, b)
        if pair not in self.network.open:
            self.after(SECOND if refused else 100_000, "connect", a, b)

    def _on_disk(self, id_: int, life: int) -> None:
        machine = self.machines[id_]
        if machine.life == life:
            until = max(machine.paused_until, machine.hangs_until)
            if self.now < until:
                self.at(until + 1, "disk", id_, life)
            else:
                machine.disk_done()

    def _on_retry(self, id_: int, life: int) -> None:
        machine = self.machines[id_]
        if machine.life == life:
            if self.now < machine.paused_until:
                self.at(machine.paused_until + 1, "retry", id_, life)
            else:
                machine.retry()

    def _on_room(self, id_: int, life: int) -> None:
        machine = self.machines[id_]
        if machine.life == life:
            if self.now < machine.paused_until:
                self.at(machine.paused_until + 1, "room", id_, life)
            else:
                machine.look_for_room()

    def _on_restart(self, id_: int) -> None:
        if self.machines[id_].replica is None:
            self.machines[id_].start()

    def _on_client(self, id_: int) -> None:
        self.clients[id_].tick()

    def _on_turn(self, id_: int, life: int) -> None:
        process = self.processes[id_]
        if process.life != life:
            return
        if self.now < process.paused_until:
            self.at(process.paused_until + 1, "turn", id_, life)
            return
        process.turn()
        if self._reported is not None:
            self.violated(self._reported)

    def _on_process(self, id_: int) -> None:
        self.processes[id_].start()

    def _on_bytes_up(self, machine_id: int, life: int, conn: int, data: bytes) -> None:
        machine = self.machines[machine_id]
        if machine.life != life or machine.replica is None or (machine_id, conn) not in self._conns:
            return
        if not machine.running:
            self.at(machine.paused_until + 1, "bytes_up", machine_id, life, conn, data)
            return
        machine.replica.client_data(conn, data, machine.now())
        machine.drain()

    def _on_bytes_down(self, machine_id: int, conn: int, data: bytes) -> None:
        client = self._conns.get((machine_id, conn))
        if client is None or client.conn != conn:
            return
        if self.now < client.paused_until:
            self.at(client.paused_until + 1, "bytes_down", machine_id, conn, data)
            return
        client.receive(data)

    def _on_hung_up(self, machine_id: int, conn: int) -> None:
        client = self._conns.pop((machine_id, conn), None)
        if client is not None and client.conn == conn:
            client.lost()

    def _on_conn_gone(self, machine_id: int, life: int, conn: int) -> None:
        machine = self.machines[machine_id]
        if machine.life != life or machine.replica is None:
            return
        if not machine.running:
            self.at(machine.paused_until + 1, "conn_gone", machine_id, life, conn)
            return
        machine.replica.client_closed(conn, machine.now())
        machine.drain()

    # -- machines ------------------------------------------------------------------------------------------

    def machine_started(self, machine: Machine) -> None:
        """A process runs: its peers will find it."""
        self._wakes.pop(machine.id, None)  # that wake was for an earlier life
        for other in self.machines:
            if other != machine.id:
                self.after(self._faults.randrange(5_000, 40_000), "connect", machine.id, other)

    def machine_stopped(self, machine: Machine) -> None:
        """A process is gone, and its connections with it."""
        for other in self.machines:
            if other != machine.id:
                self.network.disconnect(machine.id, other)
        self.network.forget(machine.id)
        for id_, conn in list(self._conns):
            if id_ == machine.id:
                self.after(self._faults.randrange(100, 5_000), "hung_up", id_, conn)

    def value_applied(self, machine: int, slot: Slot, batch: bytes, *, first: bool) -> None:
        """A replica applies a slot; the first to do so shows what was chosen."""
        if first and is_change(batch):
            self._members_changed(self.members.after(batch))
        self._mark("applied", machine, slot)

    # -- clients' connections ------------------------------------------------------------------------------

    def open_client(self, client: Endpoint, machine_id: int) -> int:
        """A client connects to a machine."""
        machine = self.machines[machine_id]
        self._next_conn += 1
        self._conns[machine_id, self._next_conn] = client
        if machine.replica is not None:
            machine.replica.client_opened(self._next_conn, machine.now())
        return self._next_conn

    def machine_at(self, host: str, port: int) -> Machine:
        """The machine of an address.

        Raises:
            OSError: there is none.
        """
        name, _, id_ = host.rpartition("-")
        if name != "replica" or not id_.isdecimal() or int(id_) not in self.machines or port != CLIENT_PORT:
            raise OSError(f"{host}:{port} is no address of this simulated cell")
        return self.machines[int(id_)]

    def cut_client(self, client: int, machine: int, length: Micros) -> None:
        """Let nothing through between a client and a machine for a while; nobody is told."""
        until = max(self.client_cuts.get((client, machine), 0), self.now + length)
        self.client_cuts[client, machine] = until
        self.at(until, "client_heal", client, machine)

    def _on_client_heal(self, client: int, machine: int) -> None:
        """What was swallowed is missed now: such connections break."""
        if self.client_cuts.get((client, machine), 0) > self.now:
            return
        self.client_cuts.pop((client, machine), None)
        for swallowed in [key for key in self._swallowed if key[:2] == (client, machine)]:
            life, conn = self._swallowed.pop(swallowed), swallowed[2]
            self.at(self.now, "hung_up", machine, conn)
            self.at(self.now, "conn_gone", machine, life, conn)

    def _swallows(self, client: Endpoint, machine: Machine, conn: int) -> bool:
        """Whether what is sent between them is lost: on a connection, from the first loss on."""
        key = (client.id, machine.id, conn)
        if key in self._swallowed:
            return True
        if (client.id, machine.id) not in self.client_cuts:
            return False
        self._swallowed[key] = machine.life
        self.count("client's message cut")
        return True

    def from_client(self, client: Endpoint, data: bytes) -> None:
        """Bytes on their way up."""
        if client.conn and not self._swallows(client, self.machines[client.machine], client.conn):
            machine = self.machines[client.machine]
            delay = self._order(("up", client.conn))
            self.at(delay, "bytes_up", client.machine, machine.life, client.conn, data)

    def to_client(self, machine: Machine, conn: int, data: bytes) -> None:
        """Bytes on their way down."""
        client = self._conns.get((machine.id, conn))
        if client is None or not self._swallows(client, machine, conn):
            self.at(self._order(("down", conn)), "bytes_down", machine.id, conn, data)

    def close_client(self, machine: Machine, conn: int) -> None:
        """A replica closes a client's connection, after what it had sent."""
        client = self._conns.get((machine.id, conn))
        if client is None or not self._swallows(client, machine, conn):
            self.at(self._order(("down", conn)), "hung_up", machine.id, conn)
        self.after(1, "conn_gone", machine.id, machine.life, conn)

    def hang_up(self, client: Endpoint) -> None:
        """A client closes its connection."""
        machine = self.machines[client.machine]
        self._conns.pop((client.machine, client.conn), None)
        if not self._swallows(client, machine, client.conn):
            self.at(self._order(("up", client.conn)), "conn_gone", client.machine, machine.life, client.conn)

    def _order(self, key: tuple[str, int]) -> Micros:
        when = max(self._order_of.get(key, 0) + 1, self.now + self.network.delay() // 2)
        self._order_of[key] = when
        return when

    def refused(self, client: Client, err: int) -> None:
        """A write was refused for a reason that this workload never gives."""
        if err != STATE_EXPIRED:
            self.violated(f"client {client.id} got the error {err}")

    def watch_break(self, client: Client) -> None:
        """A client's session ended: what it watched is forgotten, and its order starts anew."""
        self._seen_done.append(client.seen)
        client.seen = []

    # -- faults --------------------------------------------------------------------------------------------

    def _on_fault(self) -> None:
        plan, rng = self.plan, self._faults
        machine = self.machines[rng.choice(list(self.machines))]
        choices = [
            name
            for name in (
                "crashes",
                "pauses",
                "suspends",
                "partitions",
                "one_way",
                "resets",
                "slow_disks",
                "disk_errors",
                "write_errors",
                "disk_full",
                "wall_jumps",
                "client_cuts",
                "client_pauses",
                "client_crashes",
                "hand_overs",
                "loss",
                "slow_ways",
                "read_errors",
                "rot",
                "misdirected",
                "wipes",
                "versions",
                "builds",
            )
            if getattr(plan, name)
        ]
        if choices:
            getattr(self, f"_fault_{rng.choice(choices)}")(machine)
        self.after(rng.randrange(plan.fault_every // 2, plan.fault_every * 2), "fault")

    def _fault_crashes(self, machine: Machine) -> None:
        if machine.replica is None or not machine.running:
            return
        if self._faults.random() < 0.6:
            machine.doomed = True  # while it writes next: there is more to lose
        else:
            self._on_crash(machine.id, machine.life)

    def _on_crash(self, id_: int, life: int) -> None:
        machine = self.machines[id_]
        if machine.life != life or machine.replica is None:
            return
        self.count("crash")
        power_cut = self._faults.random() < self.plan.power_cuts
        if power_cut and machine.fs.unsynced_sectors():
            self.count("crash with unsynced writes")
        machine.kill(power_cut=power_cut)
        self.after(self._faults.randrange(20_000, (2 if self._faults.random() < 0.8 else 9) * SECOND), "restart", id_)

    def _fault_pauses(self, machine: Machine) -> None:
        if machine.running:
            self.count("pause")
            machine.paused_until = self.now + self._faults.randrange(50_000, 4 * SECOND)
            self.wake_at(machine, machine.paused_until + 1)

    def _fault_suspends(self, machine: Machine) -> None:
        if machine.running:
            self.count("suspend")
            machine.suspend(self._faults.randrange(50_000, 6 * SECOND))
            self.wake_at(machine, machine.paused_until + 1)

    def _fault_partitions(self, _machine: Machine) -> None:
        self._cut_off(one_way=False)

    def _fault_one_way(self, _machine: Machine) -> None:
        self._cut_off(one_way=True)

    def _cut_off(self, *, one_way: bool) -> None:
        rng = self._faults
        self.network.heal()
        shape = rng.choice(("split", "split", "chain", "star"))
        ids = list(self.machines)
        rng.shuffle(ids)
        for at, a in enumerate(ids):
            for b in ids[at + 1 :]:
                joined = {
                    "split": (at < len(ids) // 2) == (ids.index(b) < len(ids) // 2),
                    "chain": ids.index(b) == at + 1,
                    "star": at == 0,
                }[shape]
                if not joined:
                    self.network.cut[a, b] = None
                    if not one_way:
                        self.network.cut[b, a] = None
                        if rng.random() < 0.5:
                            self.network.disconnect(a, b)
        self.count("one-way cut" if one_way else "partition")
        length = rng.randrange(200_000, 9 * SECOND if self.plan.long_cuts else 3 * SECOND)
        if length > 4 * SECOND:
            self.count("long cut")
        self.after(length, "heal")

    def _on_heal(self) -> None:
        self.network.heal()

    def _fault_resets(self, machine: Machine) -> None:
        other = self._faults.choice(list(self.machines))
        if other != machine.id:
            self.count("reset")
            self.network.disconnect(machine.id, other)

    def _fault_slow_disks(self, machine: Machine) -> None:
        if self._faults.random() < 0.3:
            self.count("disk hangs")
            machine.hangs_until = self.now + self._faults.randrange(500_000, 6 * SECOND)
        else:
            machine.slow_until = self.now + self._faults.randrange(200_000, 3 * SECOND)

    def _fault_disk_errors(self, machine: Machine) -> None:
        self._spoil(machine, "sync")

    def _fault_write_errors(self, machine: Machine) -> None:
        self._spoil(machine, "write")

    def _spoil(self, machine: Machine, operation: str) -> None:
        """A disk, or every one, is bad for a while; each error is a crash, and yet somebody must get something done."""
        everywhere = self._faults.random() < 0.5
        until = self.now + self._faults.randrange(500_000, 6 * SECOND)
        for spoilt in list(self.machines.values()) if everywhere else [machine]:
            spoilt.bad_until[operation] = until

    def _fault_disk_full(self, machine: Machine) -> None:
        machine.full_until = self.now + self._faults.randrange(200_000, 3 * SECOND)

    def _fault_wall_jumps(self, machine: Machine) -> None:
        self.count("wall jump")
        machine.wall_offset_ms = self._faults.randrange(-600_000, 600_000)

    def _fault_client_cuts(self, _machine: Machine) -> None:
        client = self._anybody()
        if client is None:
            return
        self.count("client cut")
        if isinstance(client, Process) or self._faults.random() < 0.5:
            for machine in self.machines:
                self.cut_client(client.id, machine, self._faults.randrange(100_000, 6 * SECOND))
        else:
            client.hang_up()

    def _fault_client_pauses(self, _machine: Machine) -> None:
        client = self._anybody()
        if client is None or client.paused_until > self.now:
            return  # a longer pause would let what arrives later overtake what waits for the end of this one
        self.count("client pause")
        client.paused_until = self.now + self._faults.randrange(100_000, 6 * SECOND)

    def _fault_client_crashes(self, _machine: Machine) -> None:
        client = self._anybody()
        if isinstance(client, Client):
            self.count("client crash")
            client.crash()
        elif client is not None and client.alive:
            self.count("client crash")
            client.kill()

    def _anybody(self) -> Client | Process | None:
        """Some client, or some process of a scenario that has something left to do."""
        everybody: list[Client | Process] = [
            *self.clients.values(),
            *(p for p in self.processes.values() if not p.finished),
        ]
        return self._faults.choice(everybody) if everybody else None

    def _fault_hand_overs(self, machine: Machine) -> None:
        if machine.replica is not None and machine.running and machine.replica.paxos.role == "leader":
            self.count("hand-over")
            machine.replica.hand_over(machine.now())
            machine.drain()

    def _fault_loss(self, _machine: Machine) -> None:
        self.network.loss_until = self.now + self._faults.randrange(200_000, 4 * SECOND)

    def _fault_slow_ways(self, machine: Machine) -> None:
        other = self._faults.choice(list(self.machines))
        if other != machine.id:
            self.count("slow way")
            self.network.slow_ways[machine.id, other] = self._faults.randrange(2, 30)
            self.after(self._faults.randrange(500_000, 4 * SECOND), "fast_again", machine.id, other)

    def _on_fast_again(self, a: int, b: int) -> None:
        self.network.slow_ways.pop((a, b), None)

    def _fault_read_errors(self, machine: Machine) -> None:
        if self._faults.random() < 0.5:
            machine.unreadable_until = self.now + self._faults.randrange(100_000, 2 * SECOND)
        else:
            self._spoil(machine, "read")

    def _hurt(self, configuration: Configuration) -> int:
        """How many of these members have a disk that was damaged."""
        return sum(1 for member in configuration.members if self.machines[member.id].hurt)

    def _may_hurt(self, machine: Machine) -> bool:
        """Damage is for a minority: the same one for the whole run, unless replicas are replaced."""
        if self.plan.members:  # one at a time, as long as one voter more may be removed
            if machine.hurt or self._hurt(self.members) or len(self.members.voters) < 4:
                return machine.hurt
            machine.hurt = True
            return True
        hurt = sum(1 for other in self.machines.values() if other.hurt)
        if not machine.hurt and 2 * (hurt + 1) >= len(self.machines):
            return False
        machine.hurt = True
        return True

    def _fault_rot(self, machine: Machine) -> None:
        if self._may_hurt(machine):
            where = machine.rot()
            if where is not None:
                self.count(f"rot in a {where}")
                if machine.running and self._faults.random() < 0.6:  # most damage is found at the next start
                    self._fault_crashes(machine)

    def _fault_misdirected(self, machine: Machine) -> None:
        if self._may_hurt(machine):
            machine.misdirects_until = self.now + self._faults.randrange(500_000, 6 * SECOND)

    def _fault_wipes(self, machine: Machine) -> None:
        if self._may_hurt(machine):
            self.count("disk wiped")
            machine.wipe()
            self.after(self._faults.randrange(20_000, 2 * SECOND), "restart", machine.id)

    def _fault_versions(self, machine: Machine) -> None:
        """Another version starts on a machine. An operator rolls back only while the cell's level is not raised."""
        raised = any(
            m.replica is not None and m.replica.tree.feature_level >= LEVEL_NEW for m in self.machines.values()
        )
        if machine.level >= LEVEL_NEW and (raised or self._faults.random() < 0.5):
            return
        if machine.replica is not None and not machine.running:
            return  # its process stands still: an operator who stops it waits until it has stopped
        machine.level = LEVEL_NEW + 1 - machine.level
        self.count("upgrade" if machine.level >= LEVEL_NEW else "roll-back")
        if machine.replica is not None:
            machine.kill(power_cut=False)
            self.after(self._faults.randrange(20_000, SECOND), "restart", machine.id)

    # -- members ---------------------------------------------------------------------------------------------

    def _on_operator(self) -> None:
        """An operator, or two at once, ask whoever thinks that it leads for other members."""
        leaders = [m for m in self.machines.values() if m.running and m.replica and m.replica.paxos.role == "leader"]
        for leader in leaders if self._faults.random() < 0.3 else leaders[-1:]:
            self._ask_for_members(leader)
        self.after(self._faults.randrange(50_000, 2 * self.plan.fault_every), "operator")

    def _ask_for_members(self, leader: Machine) -> None:
        replica, rng = leader.replica, self._faults
        assert replica is not None
        before = replica.configuration
        wanted = rng.choice(("add", "add", "promote", "promote", "promote", "remove", "replace"))
        member = rng.choice(before.members)
        learners = [m.id for m in before.members if m.role == "learner"]
        address = f"127.0.0.1:{rng.randrange(8_000, 9_000)}"
        hurt = [m.id for m in before.members if self.machines[m.id].hurt]
        if wanted == "promote" and not learners and rng.random() < 0.9:
            wanted = "add"
        try:
            if wanted == "add":
                id_ = max(self.machines) + 1 if rng.random() < 0.7 else rng.randrange(1, max(self.machines) + 2)
                role: Role = "observer" if rng.random() < 0.2 else "learner"
                after = before.added(id_, address, role)
            elif wanted == "promote":
                id_ = rng.choice(learners) if learners else member.id
                after = before.promoted(id_, replica.disk_of(id_) or 0)
            elif wanted == "remove":
                id_ = member.id
                after = before.removed(id_)
            else:
                id_ = rng.choice(hurt) if hurt and rng.random() < 0.8 else member.id
                after = before.replaced(id_, address)
            if id_ == leader.id and wanted in ("remove", "replace"):
                self.count("hand-over before a removal")
                replica.hand_over(leader.now())
                leader.drain()
                return
            fewest = 3 if self._hurt(after if wanted != "add" else before) else min(2, len(self.first.voters))
            if len(after.members) > MEMBERS_MAX or len(after.voters) < fewest:
                return
            replica.change_members(Change(after, before.digest(), rng.randbytes(16)), leader.now())
        except ConfigError as refusal:
            self._mark("refused", leader.id, str(refusal))
            self.count("change of members refused")
            return
        self.count("change of members asked")
        if wanted == "add" and rng.random() < 0.5:
            self._install(id_, after)  # it calls before it is a member
        leader.drain()

    def _install(self, id_: int, configuration: Configuration) -> None:
        """A machine for a new member, unless there is one; it is started a little later."""
        member = configuration.member(id_)
        if member is not None and id_ not in self.machines:
            machine = self.machines[id_] = Machine(self, id_, self.first, member.incarnation)
            if self._healed and self.plan.versions:
                machine.level = LEVEL_NEW  # a change that was chosen only now: nobody installs the old version any more
            self.after(self._faults.randrange(10_000, SECOND), "restart", id_)

    def _members_changed(self, after: Configuration) -> None:
        """A change was chosen, as its first application shows."""
        before, self.members = self.members, after
        self.promoted |= {(member.id, member.incarnation) for member in after.members if member.role == "voter"}
        for member in after.members:
            old = before.member(member.id)
            if old is None:
                self.count("member added")
            elif old.incarnation < member.incarnation:
                self.count("member replaced")
            elif old.role != member.role:
                self.count("member promoted")
            self._install(member.id, after)
            if self.machines[member.id].incarnation < member.incarnation:
                self.after(self._faults.randrange(1_000, SECOND), "readmit", member.id, member.incarnation)
        if len(after.members) < len(before.members):
            self.count("member removed")

    def _on_readmit(self, id_: int, incarnation: int) -> None:
        machine = self.machines[id_]
        if machine.incarnation < incarnation and self.members.holds(id_, incarnation):
            machine.readmit(incarnation)

    def _on_left(self, a: int, b: int, life: int) -> None:
        self.network.leave(a, b, life)

    def _fault_builds(self, machine: Machine) -> None:
        """As operators do it: a replica hands over, stops, and is started as another build."""
        if machine.replica is None or not machine.running:
            return
        self._fault_hand_overs(machine)
        self.after(self._faults.randrange(1_000, 200_000), "rebuild", machine.id, machine.life)

    def _on_rebuild(self, id_: int, life: int) -> None:
        machine = self.machines[id_]
        if machine.life == life and machine.running:
            self.count("another build")
            machine.build += 1
            machine.kill(power_cut=False)
            self.after(self._faults.randrange(20_000, SECOND), "restart", id_)

    def forgotten(self, machine: Machine) -> None:
        """A machine has a new disk: what it had applied is gone."""
        self._mark("forgotten", machine.id)

    # -- the two phases --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start everything."""
        for machine in self.machines.values():
            machine.start()
        for id_ in self.clients:
            self.after(self._faults.randrange(1_000, 300_000), "client", id_)
        if self.scenario is not None:
            self.scenario()
        self.after(SECOND, "fault")
        if self.plan.members:
            self.after(SECOND, "operator")

    def _members_are_known(self) -> bool:
        """Whether somebody who has not left has applied the last change: else it may be known to who left alone."""
        return self.plan.members and any(
            m.replica is not None and m.replica.configuration.generation == self.members.generation
            for m in self.machines.values()
            if self.members.holds(m.id, m.incarnation)
        )

    def heal(self) -> None:
        """No more faults; whoever is down comes up."""
        self._healed = True
        self._events = [event for event in self._events if event[2] not in _FAULTY]
        heapq.heapify(self._events)
        self.network.heal()
        for machine in self.machines.values():
            # Pauses end by themselves: what waits for their end must not be overtaken by what comes now.
            machine.full_until = 0
            machine.slow_until = 0
            machine.hangs_until = min(machine.hangs_until, self.now)
            machine.bad_until = dict.fromkeys(machine.bad_until, 0)
            machine.doomed = False
            machine.unreadable_until = 0
            machine.misdirects_until = 0
            if self.plan.versions and machine.level < LEVEL_NEW:
                machine.level = LEVEL_NEW
                if machine.replica is not None:
                    machine.kill(power_cut=False)
            if self._members_are_known() and not self.members.holds(machine.id, machine.incarnation):
                if machine.replica is not None:
                    machine.kill(power_cut=False)
                machine.gone = "an operator has stopped what is no member"
            if machine.replica is None:
                machine.start()
            self.wake_at(machine, self.now + 1)
        for client_id, machine_id in list(self.client_cuts):
            self.client_cuts[client_id, machine_id] = self.now
            self._on_client_heal(client_id, machine_id)
        for client in self.clients.values():
            client.finished = 0

    def demand_progress(self) -> None:
        """Healed, every client must get things done, and the replicas must agree.

        Raises:
            Violation: they do not, in a time that is many times an election timeout.
        """
        until = self.now + self.patience
        while stuck := self._unfinished():
            if self.now >= until:
                self.violated(f"after healing, {', '.join(stuck)} get nothing done in {self.patience // SECOND} s")
            self.run(self.now + 200 * MILLISECOND)
        self.quiet = True
        while not self._settled():
            if self.now >= until:
                slots = {m.id: m.replica.tree.slot if m.replica else None for m in self._sound()}
                self.violated(f"after healing, the replicas do not reach one slot: {slots}")
            self.run(self.now + 50 * MILLISECOND)
        self.run(self.now + 2 * SECOND)  # what was sent arrives: the last events among it
        self._compare_states()
        if self.plan.versions and len(self._sound()) == len(self.members.members):
            self._demand_level(until)

    def _compare_states(self) -> None:
        for machine in self._sound():
            if machine.replica is not None:
                machine.replica.tree.check()
                self.oracles.holds(machine.id, machine.replica.tree.slot, machine.replica.tree)

    def _demand_level(self, until: Micros) -> None:
        """Every member is there and knows the new rules: the cell goes over to them."""
        while True:
            levels = {m.id: m.replica.tree.feature_level for m in self._sound() if m.replica is not None}
            if set(levels.values()) == {LEVEL_NEW}:
                break
            if self.now >= until:
                self.violated(f"all replicas know level {LEVEL_NEW}, and they run at {levels}")
            self.run(self.now + 200 * MILLISECOND)
        self.count("level raised")

    def _unfinished(self) -> list[str]:
        """Who has not got on since everything healed."""
        stuck = [f"client {client.id}" for client in self.clients.values() if client.finished < 3]
        return stuck + [f"process {p.name}" for p in self.processes.values() if p.waited and not p.finished]

    def _sound(self) -> list[Machine]:
        """The machines that must be there in the end: not those that may not start or vote for what they lost."""
        return [
            m
            for m in self.machines.values()
            if m.gone is None and self.members.holds(m.id, m.incarnation) and not (m.forgetful and self._must_wait(m))
        ]

    def _must_wait(self, machine: Machine) -> bool:
        """A wiped disk: somebody refuses it, or somebody who might is not there to be asked."""
        return machine.refused or (machine.replica is not None and not machine.replica.admitted)

    def _settled(self) -> bool:
        replicas = [machine.replica for machine in self._sound()]
        slots = {replica.tree.slot for replica in replicas if replica is not None}
        marks = {replica.paxos.chosen_mark for replica in replicas if replica is not None}
        repaired = all(r is not None and not r.paxos.unknown and not r.paxos.repairing for r in replicas)
        return len(slots) == 1 and marks == slots and repaired

    def judge(self) -> None:
        """The judges of whole histories.

        Raises:
            Violation: one of them finds something.
        """
        for client in self.clients.values():
            client.finish()
            self._seen_done.append(client.seen)
        for seen in self._seen_done:
            wrong = watches_ordered(seen)
            if wrong is not None:
                self.violated(wrong)
        wrong = exclusive(self.holdings)
        if wrong is not None:
            self.violated(wrong)
        for check in self.checks:
            check()
        self._judge_watches()
        self._judge_registers()
        self._judge_loads()

    def _judge_watches(self) -> None:
        """Without a gap: at rest, no watch is still armed for a change that everybody has applied."""
        tree = self._at_rest()
        for client in self.clients.values():
            for path, zxid in client.armed().items():
                node = tree.nodes.get(path.encode())
                if node is not None and node.mzxid > zxid:
                    self.violated(
                        f"client {client.id} was never told that {path} had changed at zxid {node.mzxid}: "
                        f"its watch is from zxid {zxid}"
                    )

    def _at_rest(self) -> Tree:
        """The state of a sound replica."""
        return next(machine.replica.tree for machine in self._sound() if machine.replica is not None)

    def _judge_registers(self) -> None:
        histories: dict[str, list[Attempt]] = {}
        for client in self.clients.values():
            for path, attempts in client.histories.items():
                histories.setdefault(path, []).extend(attempts)
        tree = self._at_rest()
        for path in sorted(histories):
            node = tree.nodes.get(path.encode())
            attempts = histories[path]
            acknowledged = sum(1 for a in attempts if a.kind == "write" and not a.open)
            if node is None:
                if any(not a.open for a in attempts):
                    self.violated(f"{path} was written or read, and is not there in the end")
                continue
            unknown = sum(1 for a in attempts if a.kind == "write") - acknowledged
            if not acknowledged <= node.version <= acknowledged + unknown:
                self.violated(
                    f"{path} was written {node.version} times, with {acknowledged} acknowledged writes "
                    f"and {unknown} unknown"
                )
            if self.plan.sequential:
                continue  # such reads promise less; what was acknowledged is counted above
            value = (node.data or b"").decode()
            last = Attempt(0, 0, "read", value, node.version, node.mzxid, 0, self.now, self.now + 1)
            wrong = witnessed([*attempts, last]) or explain([*attempts, last])
            if wrong is not None:
                self.violated(f"{path}: {wrong}")

    def _judge_loads(self) -> None:
        """Transactions, the list of who may do what, and the watches that stay."""
        tree = self._at_rest()
        wrong = serializable(self._with_the_end(tree), timely=not self.plan.sequential)
        if wrong is not None:
            self.violated(wrong)
        secret = tree.nodes.get(HIDDEN.encode())
        if secret is not None:
            last = Access(0, False, "read", "unknown", tree.zxid, secret.aversion)
            wrong = admitted([*self.accesses, last])
            if wrong is not None:
                self.violated(f"{HIDDEN}: {wrong}")
        spare: dict[str, int] = {}
        for client in self.clients.values():
            for path, attempts in client.histories.items():
                spare[path] = spare.get(path, 0) + sum(1 for a in attempts if a.kind == "write" and a.open)
        wrong = watches_complete(self.spans, self.changes, spare=spare, secret=(HIDDEN,))
        if wrong is not None:
            self.violated(wrong)

    def _with_the_end(self, tree: Tree) -> list[Transaction]:
        """All that was asked, and a look at every register when all was done."""
        paths = sorted({path for client in self.clients.values() for path in client.histories if path != HIDDEN})
        found = [(path, node) for path in paths if (node := tree.nodes.get(path.encode())) is not None]
        reads = tuple((path, node.version, node.mzxid) for path, node in found)
        values = tuple((node.data or b"").decode() for _, node in found)
        return [*self.transactions, Transaction(0, tree.zxid, self.now, self.now + 1, reads=reads, values=values)]

    def trace(self) -> str:
        """The hash of everything that has happened."""
        self._hash_on()
        return self._trace.hexdigest()


def run_seed(seed: int, plan: Plan | None = None) -> Outcome:
    """Run one seed, both phases and all judges."""
    return judged(World(seed, plan), SAFETY_TIME)


def judged(world: World, safety_time: Micros) -> Outcome:
    """Run a world through both phases and past all judges."""
    began = time.process_time()
    violation = None
    try:
        world.begin()
        world.run(world.now + safety_time)
        world.heal()
        world.demand_progress()
        world.judge()
    except (Violation, InvariantViolation) as found:
        violation = f"{type(found).__name__}: {found}"
    except Exception as broken:  # noqa: BLE001 -- whatever the system under test raises is a finding
        violation = f"{type(broken).__name__}: {broken}"
    finally:
        for process in world.processes.values():
            process.bury()
    return Outcome(
        seed=world.seed,
        violation=violation,
        trace=world.trace(),
        faults=dict(sorted(world.counts.items())),
        virtual=world.now,
        seconds=time.process_time() - began,
        operations=sum(len(ops) for client in world.clients.values() for ops in client.histories.values()),
        slots=max(world.oracles.values, default=0),
    )


def never_fired(outcomes: Sequence[Outcome]) -> list[str]:
    """The fault classes of which nothing happened in any of these runs: what they would find is not looked for."""
    fired = summary(outcomes)
    return [name for name, counted in FAULTS.items() if not all(fired.get(what, 0) for what in counted)]


def summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How often each fault fired over many seeds."""
    total: dict[str, int] = {}
    for outcome in outcomes:
        for name, count in outcome.faults.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))
