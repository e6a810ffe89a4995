"""A leader whose disk hangs: it must not stay in office only because it still talks."""

from __future__ import annotations

from synod.base import SECOND
from synod.sim import Plan, World
from synod.sim._machine import Machine  # a test of the simulator may open its machines

CALM = Plan.calm(replicas=3, clients=3)


def leader_of(world: World) -> Machine | None:
    return next((m for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader"), None)


def test_a_leader_whose_disk_hangs_is_replaced_and_follows_when_it_goes_on() -> None:
    """It stands down within an election timeout and a tick; the others choose without it; nothing is lost."""
    world = World(6, CALM)
    world.begin()
    world.run(world.now + 3 * SECOND)
    hung = leader_of(world)
    assert hung is not None
    hung._waits_for_room = True  # nothing that it writes gets done
    world.run(world.now + 3 * SECOND)
    new = leader_of(world)
    assert new is not None
    assert new is not hung
    assert hung.replica is not None
    assert hung.replica.paxos.role == "follower"
    done = {client.id: client.finished for client in world.clients.values()}
    world.run(world.now + 5 * SECOND)
    assert sum(client.finished for client in world.clients.values()) > sum(done.values())
    hung.retry()
    world.run(world.now + 3 * SECOND)
    world.heal()
    world.demand_progress()
    world.judge()
