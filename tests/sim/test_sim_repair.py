"""Damage on a minority is repaired from the peers, by itself; damage on a majority stops the cell and is named."""

from __future__ import annotations

import dataclasses

import pytest

from synod.base import SECOND
from synod.sim import Plan, World
from synod.sim._machine import DIRECTORY, Machine  # a test of the simulator may open its machines

CALM = Plan.calm(replicas=3, clients=3)


def busy(plan: Plan = CALM, seed: int = 3) -> World:
    """A cell that has served its clients for a while."""
    world = World(seed, plan)
    world.begin()
    world.run(world.now + 5 * SECOND)
    return world


def trimmed() -> World:
    """A cell in which every log has been trimmed behind its snapshots: the log alone is not the state."""
    world = busy(dataclasses.replace(CALM, snapshots=True))
    first = f"{DIRECTORY}/log-{1:016x}.seg"
    for _ in range(60):
        if not any(machine.fs.exists(first) for machine in world.machines.values()):
            return world
        world.run(world.now + SECOND)
    raise AssertionError("a log was never trimmed")


def leader_of(world: World) -> Machine:
    return next(m for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader")


def damage_value(machine: Machine, client_write: int) -> str:
    """Flip a bit in a value in the log, on the disk itself; gives the file."""
    wanted = [f"{c}.{client_write}".encode() for c in (1, 2, 3)]
    for name in machine.fs.list_dir(DIRECTORY):
        path = f"{DIRECTORY}/{name}"
        if name.endswith(".seg"):
            data = machine.fs.durable_bytes(path)
            for value in wanted:
                at = data.find(b"\0\0\0" + bytes([len(value)]) + value)  # as the request carries it
                if at >= 0:
                    machine.fs.rot(path, at + 4)
                    return path
    raise AssertionError("the write is in no log")


def test_a_damaged_value_on_one_disk_is_fetched_and_written_again() -> None:
    """Its slot is unknown at the start, never empty; a peer has it; after that the disk is whole again."""
    world = busy()
    machine = next(m for m in world.machines.values() if m is not leader_of(world))
    damage_value(machine, 2)
    machine.kill(power_cut=False)
    machine.start()
    assert machine.replica is not None
    assert len(machine.replica.paxos.unknown) == 1
    world.run(world.now + SECOND)
    assert not machine.replica.paxos.unknown
    world.demand_progress()
    world.judge()
    machine.kill(power_cut=True)
    machine.start()
    assert not machine.replica.paxos.unknown, "it was written again"


def test_lost_snapshots_on_one_disk_are_fetched_and_meanwhile_it_does_not_vote() -> None:
    """Its file's name says how far its votes reached: it is silent until it has learned so far again."""
    world = trimmed()
    machine = next(m for m in world.machines.values() if m is not leader_of(world))
    assert machine.replica is not None
    machine.kill(power_cut=False)
    snapshots = [n for n in machine.fs.list_dir(DIRECTORY) if n.endswith(".snap")]
    assert snapshots
    for name in snapshots:
        machine.fs.rot(f"{DIRECTORY}/{name}", 60)
    machine.start()
    assert machine.replica.paxos.repairing
    world.run(world.now + 2 * SECOND)
    assert not machine.replica.paxos.repairing
    world.demand_progress()
    world.judge()
    machine.kill(power_cut=True)
    machine.start()
    assert not machine.replica.paxos.repairing, "it is durable again"


def test_lost_snapshots_are_fetched_even_where_no_leader_can_be_elected_without_that_replica() -> None:
    """With a third replica gone for good, the one that is whole cannot lead alone, but it can tell what it knows."""
    world = trimmed()
    gone, hurt, _ = world.machines.values()
    for machine in (gone, hurt):
        machine.kill(power_cut=False)
    for name in hurt.fs.list_dir(DIRECTORY):
        if name.endswith(".snap"):
            hurt.fs.rot(f"{DIRECTORY}/{name}", 60)
    hurt.start()
    assert hurt.replica is not None
    assert hurt.replica.paxos.repairing
    world.run(world.now + 5 * SECOND)
    assert not hurt.replica.paxos.repairing
    assert leader_of(world).replica is not None


def test_the_same_damage_on_a_majority_stops_the_cell_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can say what was chosen there: nothing is made up, and file, slot and replicas are named."""
    notes: list[str] = []
    monkeypatch.setattr(World, "note", lambda self, machine, kind, text: notes.append(text))
    world = busy()
    leader = leader_of(world)
    for machine in world.machines.values():
        machine.kill(power_cut=False)
    # What only a leader knows to be chosen is, at everybody else, an accepted value.
    for machine in world.machines.values():
        if machine is not leader:
            damage_last_value(machine)
    leader.gone = "its machine burnt down"
    for machine in world.machines.values():
        machine.start()
    world.run(world.now + 5 * SECOND)
    assert all(m.replica is None or m.replica.paxos.role != "leader" for m in world.machines.values())
    assert any("cannot be decided" in note and "replicas" in note for note in notes), notes[-5:]
    store = next(m.store for m in world.machines.values() if m.store is not None)
    assert ".seg: the value of slot" in store.recovered.warnings[0]


def damage_last_value(machine: Machine) -> None:
    """Flip a bit of the last value that was accepted and is not known chosen."""
    from synod.storage import Store

    copy = machine.fs.copy()
    store = Store.open(copy, DIRECTORY, cell_id=machine.configuration.cell_id, replica_id=machine.id)
    last = store.recovered.entries[-1]
    store.close()
    for name in machine.fs.list_dir(DIRECTORY):
        path = f"{DIRECTORY}/{name}"
        if name.endswith(".seg"):
            at = machine.fs.durable_bytes(path).find(last.value[8:24])
            if at >= 0:
                machine.fs.rot(path, at + 4)
                return
    raise AssertionError("the value is in no log")
