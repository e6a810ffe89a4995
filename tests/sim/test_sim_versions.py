"""A cell of two versions, one of which applies the log by other rules once the cell's feature level allows it."""

from __future__ import annotations

import dataclasses

import pytest

from synod.base import MILLISECOND, SECOND, RemoteProtocolError
from synod.replica import Hello, decode_message, encode_message
from synod.sim import Plan, World, run_seed, summary
from synod.sim._machine import LEVEL_NEW, Machine  # a test of the simulator may open its machines

CALM = Plan.calm(replicas=3, clients=3)
UPGRADES = dataclasses.replace(
    CALM, versions=True, crashes=True, resets=True, hand_overs=True, snapshots=True, fault_every=300 * MILLISECOND
)


@pytest.mark.parametrize("first", [0, 5])
def test_machines_are_upgraded_one_by_one_while_faults_go_on(first: int) -> None:
    """Versions come and go under load and crashes: no oracle finds anything, and in the end the new rules are in force."""
    outcomes = [run_seed(seed, UPGRADES) for seed in range(first, first + 5)]
    assert [(outcome.seed, outcome.violation) for outcome in outcomes if outcome.violation] == []
    fired = summary(outcomes)
    assert fired["level raised"] == len(outcomes)
    assert {"upgrade", "roll-back", "crash", "snapshot"} <= set(fired)


def running(levels: tuple[int, ...]) -> World:
    """A calm cell whose machines run these versions, after a while."""
    world = World(5, CALM)
    for machine, level in zip(world.machines.values(), levels, strict=True):
        machine.level = level
    world.begin()
    world.run(world.now + 5 * SECOND)
    return world


def level_of(machine: Machine) -> int:
    assert machine.replica is not None
    return machine.replica.tree.feature_level


def restart(world: World, machine: Machine, level: int) -> None:
    if machine.replica is not None:
        machine.kill(power_cut=False)
    machine.level = level
    machine.start()
    world.run(world.now + 3 * SECOND)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_the_level_waits_for_the_last_machine(last: int) -> None:
    """Two of three know the new rules: they apply by the old ones, and the third may come back whenever it likes."""
    world = running(tuple(1 if id_ == last else LEVEL_NEW for id_ in (1, 2, 3)))
    first = world.machines[last]
    second, third = (machine for machine in world.machines.values() if machine is not first)
    assert [level_of(m) for m in (first, second, third)] == [1, 1, 1]
    restart(world, third, 1)  # rolled back: nothing stands in the way
    assert [level_of(m) for m in (first, second, third)] == [1, 1, 1]
    restart(world, third, LEVEL_NEW)
    first.kill(power_cut=False)
    world.run(world.now + 5 * SECOND)
    assert [level_of(m) for m in (second, third)] == [1, 1], "one that is away may be of any version"
    restart(world, first, LEVEL_NEW)
    assert [level_of(m) for m in (first, second, third)] == [LEVEL_NEW] * 3
    world.quiet = True
    world.run(world.now + 5 * SECOND)
    world._compare_states()


def test_a_hello_that_comes_late_does_not_keep_the_level_down() -> None:
    """Of a process that was of the old version: what counts is the hello of the connection that stands."""
    world = running((1, LEVEL_NEW, LEVEL_NEW))
    first, second, third = world.machines.values()
    assert first.replica is not None
    late = first.replica.hello()
    third.kill(power_cut=False)
    restart(world, first, LEVEL_NEW)
    assert first.replica is not None
    assert second.replica is not None
    if first.replica.paxos.serving:
        first.replica.hand_over(first.now())
        first.drain()
        world.run(world.now + SECOND)
    assert second.replica.paxos.serving, "it is the leader who must not believe it"
    second.replica.check_hello(late, False)
    restart(world, third, LEVEL_NEW)
    assert [level_of(m) for m in (first, second, third)] == [LEVEL_NEW] * 3


def test_an_older_version_is_refused_and_stops_once_the_level_is_raised() -> None:
    """It cannot apply what the others apply, so it does nothing; the others go on, and the new version brings it back."""
    world = running((LEVEL_NEW, LEVEL_NEW, LEVEL_NEW))
    machine = world.machines[2]
    assert level_of(machine) == LEVEL_NEW
    machine.kill(power_cut=False)
    machine.level = 1
    machine.start()  # its log says at once that it is too old
    assert machine.replica is None
    assert world.counts["too old"] == 1
    machine.wipe()  # and with an empty disk the others say it
    machine.level = 1
    machine.start()
    world.run(world.now + 3 * SECOND)
    assert machine.replica is not None
    assert machine.replica.tree.slot == 0
    assert world.counts["older version refused"] > 0
    new, newer = world.machines[1].replica, world.machines[3].replica
    assert new is not None
    assert newer is not None
    older = decode_message(newer.hello())
    assert isinstance(older, Hello)
    with pytest.raises(RemoteProtocolError, match="at feature level 2, and the version of synod on replica 3 knows"):
        new.check_hello(encode_message(dataclasses.replace(older, feature_level=1)))
    with pytest.raises(RemoteProtocolError, match="at feature level 2, as replica 1 says, and this version of synod"):
        machine.replica.check_hello(new.hello())
    done = {client.id: client.finished for client in world.clients.values()}
    world.run(world.now + 60 * SECOND)  # a client that chances upon the old one waits there until it loses patience
    assert all(client.finished > done[client.id] for client in world.clients.values())
