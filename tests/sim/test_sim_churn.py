"""Leaders that follow each other fast keep no dead holder's lock and end no live session: docs/GUARANTEES.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from synod.base import SECOND
from synod.sim import Plan, World
from synod.sim._clients import Client
from synod.sim._machine import Machine  # a test of the simulator may open its machines

pytestmark = pytest.mark.slow

ELECTION = SECOND // 2
GRACE = 6 * ELECTION
"""What docs/GUARANTEES.md calls one grace."""


def kill(world: World, leader: Machine) -> None:
    """Its process dies, and is started again soon."""
    leader.kill(power_cut=False)
    world.after(SECOND // 5, "restart", leader.id)


def hand_over(_world: World, leader: Machine) -> None:
    """It steps down by itself."""
    assert leader.replica is not None
    leader.replica.hand_over(leader.now())
    leader.drain()


def pause(world: World, leader: Machine) -> None:
    """It stands still, wakes, and believes for a moment that it still leads."""
    leader.paused_until = world.now + 3 * ELECTION
    world.wake_at(leader, leader.paused_until + 1)


def cut(world: World, leader: Machine) -> None:
    """Nobody hears it, and it hears nobody; nobody is told."""
    for other in world.machines:
        if other != leader.id:
            world.network.cut[other, leader.id] = None
            world.network.cut[leader.id, other] = None


def cut_while_it_proposes(world: World, leader: Machine) -> None:
    """Cut it off when the others have accepted a batch, and do not know yet that it is chosen."""
    patience = world.now + SECOND
    others = [m.replica for m in world.machines.values() if m is not leader and m.replica is not None]
    while not all(max(other._accepted, default=0) > other.paxos.chosen_mark for other in others):
        assert world.now < patience, "nothing is proposed"
        world.run(world.now + 100)
    cut(world, leader)


WAYS = (kill, hand_over, pause, cut)
Way = Callable[[World, Machine], None]


class Churn:
    """A cell whose leaders change at once when they have reigned for `reign`."""

    def __init__(self, timeout_ms: int, reign: int, way: Way, *, clients: int = 4) -> None:
        self.world = World(5, replace(Plan.calm(replicas=3, clients=clients), session_timeout_ms=timeout_ms))
        self.reign, self.way = reign, way
        self.changes = 0
        self._ballot = (0, 0)
        self.world.begin()
        while not all(client.session for client in self.world.clients.values()):
            self.world.run(self.world.now + SECOND // 10)

    def leader(self) -> Machine | None:
        """Who serves under a ballot that has not been counted yet."""
        for machine in self.world.machines.values():
            replica = machine.replica
            serves = replica is not None and machine.running and replica._deadlines is not None
            if serves and replica.paxos.ballot > self._ballot:
                self._ballot = replica.paxos.ballot
                return machine
        return None

    def change(self) -> None:
        """The next leader begins, reigns and goes."""
        world = self.world
        patience = world.now + 20 * SECOND
        while (leader := self.leader()) is None:
            assert world.now < patience, "nobody leads"
            world.run(world.now + SECOND // 50)
        world.run(world.now + self.reign // 2)
        world.network.heal()  # whoever was cut off is back before the next one goes
        world.run(world.now + self.reign - self.reign // 2)
        self.way(world, leader)
        self.changes += 1

    def holders(self) -> list[Client]:
        """The clients that hold a lock, or wait for it; at least one, however long that takes."""
        clients = self.world.clients.values()
        patience = self.world.now + 60 * SECOND
        while not (holders := [client for client in clients if client._contender and client.conn]):
            assert self.world.now < patience, "nobody wants a lock"
            self.world.run(self.world.now + SECOND // 100)
        return holders

    def holder_dies(self) -> bytes:
        """A client that holds a lock is not heard for long; returns the path of its contender."""
        world = self.world
        holder = self.holders()[0]
        path = holder._contender.encode()
        holder.paused_until = world.now + 100 * SECOND
        world.hang_up(holder)
        holder.lost()
        return path

    def is_there(self, path: bytes) -> bool:
        """Whether any replica still has it."""
        return any(path in m.replica.tree.nodes for m in self.world.machines.values() if m.replica)

    def freed_after(self, path: bytes, limit: int) -> int:
        """How long it takes until the lock is free."""
        died = self.world.now
        while self.is_there(path):
            self.change()
            assert self.world.now - died < limit + self.reign + 2 * ELECTION, f"after {self.changes} leaders"
        return self.world.now - died


@pytest.mark.parametrize("timeout_ms", [12_000, 24_000])
@pytest.mark.parametrize("way", WAYS)
def test_a_dead_holders_lock_is_freed_in_time_however_often_leaders_change(way: Way, timeout_ms: int) -> None:
    """Reigns of an eighth and of a sixteenth of its timeout: three election timeouts. None sees its silence whole."""
    churn = Churn(timeout_ms, 3 * ELECTION, way)
    for _ in range(2):
        churn.change()
    path = churn.holder_dies()
    churn.world.quiet = True  # nothing but sessions moves cell time from now on
    took = churn.freed_after(path, timeout_ms * 1_000 + GRACE)
    # It is looked at once a reign only.
    assert took <= timeout_ms * 1_000 + GRACE + churn.reign
    assert churn.changes >= timeout_ms * 1_000 // (2 * churn.reign)
    assert churn.world.counts.get("session lost", 0) == 0


@pytest.mark.parametrize("way", [kill, cut_while_it_proposes])
def test_leaders_that_change_under_load_free_it_in_time_as_well(way: Way) -> None:
    """A batch is on its way when a leader goes; the next one accepted it, and knows since when."""
    churn = Churn(16_000, 3 * ELECTION // 2, way)
    churn.change()
    path = churn.holder_dies()
    churn.freed_after(path, 16 * SECOND + GRACE)


@pytest.mark.parametrize("reign", [ELECTION // 4, ELECTION, 3 * ELECTION])
@pytest.mark.parametrize("way", WAYS)
def test_a_session_that_only_pings_outlives_any_number_of_leaders(way: Way, reign: int) -> None:
    """Its pings reach each leader that serves for a moment, so it is never silent for long."""
    churn = Churn(6_000, reign, way)
    churn.world.quiet = True
    until = churn.world.now + 24 * SECOND
    while churn.world.now < until:
        churn.change()
    assert churn.changes >= 10
    assert churn.world.counts.get("session lost", 0) == 0
    churn.world.quiet = False
    churn.world.heal()
    churn.world.demand_progress()
    assert churn.world.counts.get("session lost", 0) == 0


def test_who_reaches_a_new_leader_within_an_election_timeout_keeps_its_session() -> None:
    """Its silence is over long by what the log says; it expires nobody before it has listened for so long."""
    churn = Churn(6_000, 2 * ELECTION, hand_over)
    world = churn.world
    churn.change()
    world.quiet = True
    client = next(c for c in world.clients.values() if c.conn)
    client.paused_until = 1 << 60
    heard = world.now
    while world.now < heard + 6 * SECOND:
        churn.change()
    while churn.leader() is None:
        world.run(world.now + SECOND // 100)
    world.run(world.now + ELECTION // 2)
    client.paused_until = 0
    world.run(world.now + 2 * SECOND)
    assert world.counts.get("session lost", 0) == 0


def test_a_long_reign_before_costs_half_a_timeout_once() -> None:
    """A leader that has reigned for long does not log short silences: its successor knows of none."""
    churn = Churn(12_000, 3 * ELECTION, kill)
    churn.world.run(churn.world.now + 8 * SECOND)
    path = churn.holder_dies()
    churn.world.quiet = True
    churn.world.run(churn.world.now + 5 * SECOND)
    churn.freed_after(path, 12 * SECOND + GRACE + SECOND)


@pytest.mark.parametrize("way", [kill, cut])
def test_a_holder_that_dies_with_the_leader_of_an_idle_cell_is_freed_in_time(way: Way) -> None:
    """Nothing was logged for long, so that the next leader cannot tell a quiet reign from an outage."""
    churn = Churn(12_000, 3 * ELECTION, way)
    world = churn.world
    churn.holders()
    world.quiet = True
    world.run(world.now + 14 * SECOND)
    leader = churn.leader()
    assert leader is not None
    assert leader.replica is not None
    slot = leader.replica.tree.slot
    world.run(world.now + 3 * SECOND)
    assert leader.replica.tree.slot == slot, "an idle cell logs nothing"
    path = churn.holder_dies()
    died = world.now
    way(world, leader)
    while (heir := churn.leader()) is None:
        assert world.now < died + 20 * SECOND, "nobody leads"
        world.run(world.now + SECOND // 50)
    assert heir.replica is not None
    assert heir.replica._clock.interrupted
    world.network.heal()  # the path is to be gone at every replica
    while churn.is_there(path):
        assert world.now < died + 12 * SECOND + GRACE
        world.run(world.now + SECOND // 50)
    assert world.counts.get("session lost", 0) == 0
