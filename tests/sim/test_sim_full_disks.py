"""Full disks: a minority abstains; with a majority the cell reads on, refuses writes, and comes back by itself."""

from __future__ import annotations

import pytest

from synod.base import SECOND
from synod.sim import Plan, World
from synod.sim._machine import Machine  # a test of the simulator may open its machines

CALM = Plan.calm(replicas=3, clients=3)
FOR_EVER = 1 << 60


def filled(*full: int) -> World:
    """A cell that has served for a while, and whose machines of these ids have no room for another segment."""
    world = World(11, CALM)
    reader = world.clients[1]
    reader._begin = lambda: reader._read("/r0")  # nothing of it waits for the log when the room ends
    for client in world.clients.values():
        client.hang_up = lambda: None  # without patience of its own: it is the cell that must not let it hang
    world.begin()
    world.run(world.now + 2 * SECOND)
    for id_ in full:
        world.machines[id_].full_until = FOR_EVER
    for _ in range(100):
        if all(abstains(world.machines[id_]) for id_ in full):
            world.run(world.now + 2 * SECOND)
            return world
        world.run(world.now + SECOND)
    raise AssertionError("a segment was never full")


def abstains(machine: Machine) -> bool:
    return machine.replica is not None and machine.replica.paxos.abstaining


def done(world: World, kind: str) -> int:
    return sum(
        1
        for client in world.clients.values()
        for history in client.histories.values()
        for operation in history
        if operation.kind == kind and operation.returned < 1 << 61
    )


def read_only(world: World) -> list[bool]:
    return [m.replica.front.read_only for m in world.machines.values() if m.replica is not None]


@pytest.mark.parametrize("full", [(2, 3), (1, 3), (1, 2), (1, 2, 3)])
def test_with_a_majority_full_the_cell_reads_refuses_writes_and_recovers(full: tuple[int, ...]) -> None:
    """Whichever leads: sessions live, reads are answered, a write gets a definite error in its turn.

    Whose write was under way when the room ended learns that its outcome is unknown, and gets in again afterwards.
    """
    world = filled(*full)
    assert read_only(world) == [True] * 3
    assert all(m.replica is not None and m.replica.can_read for m in world.machines.values())
    reader = world.clients[1]
    del reader._begin  # from now on it wants to write as well
    connection, finished, writes = reader.conn, reader.finished, done(world, "write")
    before = {client.id: client.finished for client in world.clients.values()}
    world.run(world.now + 10 * SECOND)
    assert reader.conn == connection
    assert reader.finished > finished + 10, "it reads"
    assert world.counts["write refused"] > 3
    assert done(world, "write") == writes
    hanging = [c for c in world.clients.values() if c.conn and c._greeted and c.finished == before[c.id]]
    assert hanging == [], "what was under way is unknown, in bounded time"
    for client in world.clients.values():
        del client.hang_up
    for id_ in full:
        world.machines[id_].full_until = 0
    world.run(world.now + 3 * SECOND)
    assert read_only(world) == [False] * 3
    assert done(world, "write") > writes
    world.heal()
    world.demand_progress()
    world.judge()


def test_a_leader_without_room_that_was_silent_for_a_moment_is_not_unseated_for_nothing() -> None:
    """Who probes it cannot get a quorum while the others have no room: it goes on and serves reads."""
    world = filled(1, 2, 3)
    leader = next(m for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader")
    able = next(m for m in world.machines.values() if m is not leader)
    able.full_until = 0
    world.run(world.now + 2 * SECOND)
    for pause in (600_000, 900_000, 1_500_000):
        leader.paused_until = world.now + pause
        world.wake_at(leader, leader.paused_until + 1)
        world.run(world.now + 3 * SECOND)
        assert leader.replica is not None
        assert leader.replica.paxos.role == "leader"
        assert read_only(world) == [True] * 3


def test_a_leader_without_room_stays_when_the_others_are_no_quorum() -> None:
    """With nothing under way it could hand over at once: to somebody who cannot lead either."""
    world = World(11, CALM)
    world.begin()
    world.run(world.now + 3 * SECOND)
    world.quiet = True
    world.run(world.now + 2 * SECOND)
    leader = next(m for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader")
    full = [leader, next(m for m in world.machines.values() if m is not leader)]
    for room in (False, True):
        for machine in full:
            assert machine.replica is not None
            machine.replica.abstain(not room, machine.now())
            machine.drain()
        world.run(world.now + 3 * SECOND)
        assert leader.replica is not None
        assert room or leader.replica.paxos.role == "leader"
        assert read_only(world) == [not room] * 3


def test_with_a_majority_full_whoever_was_not_heard_for_a_while_is_answered_again() -> None:
    """No silence is logged meanwhile, since its end could not be."""
    world = World(11, CALM)
    world.begin()
    world.run(world.now + 3 * SECOND)
    world.quiet = True
    world.run(world.now + 8 * SECOND)
    for machine in world.machines.values():
        assert machine.replica is not None
        machine.replica.abstain(True, machine.now())
        machine.drain()
    world.run(world.now + 2 * SECOND)
    timeout = CALM.session_timeout_ms * 1_000
    for client in world.clients.values():
        client.paused_until = world.now + timeout * 2 // 3
    world.run(world.now + timeout * 2 // 3 + SECOND)
    assert read_only(world) == [True] * 3
    for machine in world.machines.values():
        assert machine.replica is not None
        front = machine.replica.front
        assert not front.touched, "every touch was acknowledged"
        assert not front.pings
        assert machine.replica._deadlines is None or not machine.replica._deadlines.proposed()
    assert all(client.conn for client in world.clients.values())


def test_with_a_minority_full_writes_go_on_and_another_leads() -> None:
    """A leader without room hands over when the others are a quorum by themselves."""
    world = World(11, CALM)
    world.begin()
    world.run(world.now + 2 * SECOND)
    leader = next(m for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader")
    world = filled(leader.id)
    assert read_only(world) == [False] * 3
    assert leader.id not in [m.id for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader"]
    writes = done(world, "write")
    world.run(world.now + 3 * SECOND)
    assert done(world, "write") > writes
