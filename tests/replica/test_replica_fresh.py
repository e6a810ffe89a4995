"""A replica whose disk holds nothing: it may be new, and it may be an old one that has forgotten its word."""

from __future__ import annotations

import dataclasses

import pytest

from synod.base import DataDirError
from synod.sim import Plan, World
from synod.storage import Store

CALM = Plan.calm(replicas=3, clients=2)


def begun(without: int, plan: Plan = CALM, seed: int = 7) -> World:
    """Two replicas of three have begun a cell; the third was never started."""
    world = World(seed, plan)
    for machine in world.machines.values():
        if machine.id != without:
            machine.start()
    world.run(world.now + 3_000_000)
    return world


def test_a_quorum_that_starts_from_nothing_begins_a_cell() -> None:
    """The first start needs a quorum, as every later one."""
    world = begun(without=3)
    assert {m.replica.paxos.role for m in world.machines.values() if m.replica} == {"leader", "follower"}


def test_a_new_replica_takes_part_once_all_others_have_welcomed_it() -> None:
    """Who has nothing on its disk is no different from who lost it, until everybody has looked at it."""
    world = begun(without=3)
    machine = world.machines[3]
    world.machines[1].kill(power_cut=False)
    machine.start()
    world.run(world.now + 3_000_000)
    assert machine.replica is not None
    assert not machine.replica.admitted
    assert all(m.replica.paxos.role != "leader" for m in world.machines.values() if m.replica), "two cannot tell"
    world.machines[1].start()
    world.run(world.now + 3_000_000)
    assert machine.replica.admitted
    assert machine.replica.paxos.leader is not None


def test_a_new_replica_that_clients_wait_for_is_welcomed_by_who_hears_of_it_late() -> None:
    """Requests of a start that has promised nothing are the sign of a wiped disk: a new replica must not send any."""
    world = begun(without=3, plan=Plan.calm(replicas=3, clients=6), seed=1)
    follower = next(m.id for m in world.machines.values() if m.replica and m.replica.paxos.role == "follower")
    world.network.cut[3, follower] = world.network.cut[follower, 3] = None
    machine = world.machines[3]
    machine.start()
    for client in world.clients:
        world.at(world.now + 1, "client", client)
    world.run(world.now + 1_000_000)
    assert machine.replica is not None
    assert any(client.machine == 3 for client in world.clients.values())
    assert not machine.replica.admitted
    world.network.heal()
    world.run(world.now + 3_000_000)
    assert machine.replica.admitted
    assert 3 in machine.replica.tree.origins, "and then it does"


def test_a_wiped_replica_makes_no_quorum_with_one_that_never_saw_it_vote() -> None:
    """What it had accepted for the old leader may be chosen, and only that leader would know."""
    world = World(8, dataclasses.replace(CALM, wipes=True))
    for machine in world.machines.values():
        machine.start()
    world.run(world.now + 3_000_000)
    leader = next(m.id for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader")
    wiped, other = (m for m in world.machines.values() if m.id != leader)
    wiped.wipe()
    world.machines[leader].kill(power_cut=True)
    wiped.start()
    world.run(world.now + 5_000_000)
    assert wiped.replica is not None
    assert wiped.replica.paxos.abstaining
    assert other.replica is not None
    assert other.replica.paxos.role == "electing"


def test_a_replica_whose_disk_was_rolled_back_is_told_by_whoever_noticed_and_stops_for_good() -> None:
    """The leader alone has seen what it forgets; the third replica would have counted its vote."""
    world = World(9, CALM)
    world.begin()
    world.run(world.now + 1_000_000)
    old = next(m for m in world.machines.values() if m.replica and m.replica.paxos.role == "follower")
    image = old.fs.copy()
    world.run(world.now + 3_000_000)
    leader = next(m for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader")
    assert old.replica is not None
    assert leader.id != old.id
    old.put_back(image)
    old.start()
    assert old.replica is not None
    assert not old.replica.stopped, "by itself it cannot know"
    world.run(world.now + 3_000_000)
    assert old.replica is None
    assert f"synod member replace {old.id}" in str(old.gone)
    assert world.counts["forgetful replica stopped"] == 1
    # Whoever starts it again, and whoever is there then: it is known on its own disk.
    with pytest.raises(DataDirError, match="has forgotten what it had promised or accepted"):
        Store.open(old.fs, "/data", cell_id=old.configuration.cell_id, replica_id=old.id)
    world.run(world.now + 3_000_000)
    assert {m.replica.paxos.role for m in world.machines.values() if m.replica} == {"leader", "follower"}
