"""A backup under load is the state at its slot, and that slot is not older than the request."""

from __future__ import annotations

import dataclasses

import pytest

from synod.base import MILLISECOND, SECOND
from synod.replica import Backup
from synod.sim import Plan, World
from synod.sim._machine import DIRECTORY, Machine  # a test of the simulator may open its machines
from synod.storage import parse_snapshot
from synod.tree import Tree, summarize

CALM = Plan.calm(replicas=3, clients=4)


def busy(seed: int, plan: Plan = CALM) -> World:
    """A cell that has served its clients for a while."""
    world = World(seed, plan)
    world.begin()
    world.run(world.now + 3 * SECOND)
    return world


def leader_of(world: World) -> Machine:
    return next(m for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader")


def begin(world: World, machine: Machine) -> Backup:
    assert machine.replica is not None
    assert machine.replica.begin_backup(machine.now(), machine.wall_ms())
    machine.drain()
    made = machine.replica.backup
    assert made is not None
    return made


def run_until_complete(world: World, made: Backup) -> None:
    for _ in range(400):
        if made.complete or made.error:
            break
        world.run(world.now + 50 * MILLISECOND)
    assert made.error is None
    assert made.complete


def state_at(world: World, slot: int) -> Tree:
    """The slow twin: every batch that was ever applied, once more."""

    class Nobody:
        origin = boot = 0

        def output(self, *_: object) -> None:
            return None

        watcher = output

        def __getattr__(self, name: str) -> object:
            return lambda *_: None

    tree = Tree(configuration=world.machines[1].configuration.encode())
    for number in range(1, slot + 1):
        tree.apply(number, world.oracles.values[number], Nobody())
    tree.freeze()
    while tree.digest_step(10_000):
        pass
    return tree


@pytest.mark.parametrize(("seed", "of_leader"), [(1, False), (2, True), (3, False)])
def test_a_backup_under_load_is_the_state_at_its_slot(seed: int, of_leader: bool) -> None:
    """Every write that was acknowledged before is in it; a quorum agrees on its digest; the file says the same."""
    world = busy(seed, dataclasses.replace(CALM, snapshots=True))
    machine = next(m for m in world.machines.values() if (m is leader_of(world)) == of_leader)
    acknowledged = max(m.replica.tree.slot for m in world.machines.values() if m.replica)
    made = begin(world, machine)
    assert not machine.replica.begin_backup(machine.now(), machine.wall_ms()), "one at a time"
    run_until_complete(world, made)
    assert made.slot > acknowledged
    assert world.machines[1].replica.tree.slot > made.slot, "clients were served meanwhile"
    data = machine.fs.durable_bytes(f"{DIRECTORY}/snapshot-{made.slot:016x}.snap")
    slot, chunks = parse_snapshot(data, bytes.fromhex(machine.configuration.cell_id), "x")
    summary = summarize(chunks)
    twin = state_at(world, made.slot)
    assert (slot, summary.head.zxid, summary.znodes - 1) == (made.slot, made.zxid, made.znodes)
    assert made.digest == summary.digest.to_bytes(16, "big") == twin.digest().to_bytes(16, "big")
    machine.replica.end_backup()
    world.demand_progress()
    world.judge()


def test_a_replica_that_is_behind_does_not_back_up_the_past() -> None:
    """A digest that was logged for another backup, before this one was asked for, is passed over."""
    world = busy(4)
    leader = leader_of(world)
    behind, other = (m for m in world.machines.values() if m is not leader)
    for peer in (leader, other):
        world.network.cut[peer.id, behind.id] = None
        world.network.cut[behind.id, peer.id] = None
    first = begin(world, other)
    run_until_complete(world, first)
    assert behind.replica.tree.slot < first.slot
    world.run(world.now + SECOND)
    acknowledged = leader.replica.tree.slot
    made = begin(world, behind)
    world.network.heal()
    run_until_complete(world, made)
    assert first.slot < acknowledged < made.slot


def test_a_backup_outlives_a_change_of_leaders() -> None:
    """What was asked of the old leader is asked of the new one."""
    world = busy(5)
    leader = leader_of(world)
    machine = next(m for m in world.machines.values() if m is not leader)
    made = begin(world, machine)
    leader.kill(power_cut=True)
    run_until_complete(world, made)
    assert leader_of(world) is not leader
