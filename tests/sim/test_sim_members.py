"""Members come, vote, go and are replaced while everything else goes wrong as well."""

from __future__ import annotations

import dataclasses

import pytest

from synod.base import SECOND, Ballot, Change, ConfigError, Configuration
from synod.paxos import TakeOver, encode
from synod.sim import Plan, World, run_seed, summary
from synod.sim._machine import Machine  # a test of the simulator may open its machines
from synod.wire import ConnectRequest, encode_connect_request, framed

CALM = Plan.calm(replicas=3, clients=2)
TAKE_OVER = encode(TakeOver(Ballot(1, 1)))[0]


def busy(replicas: int = 3, seed: int = 5) -> World:
    """A cell that has served its clients for a while."""
    world = World(seed, dataclasses.replace(CALM, replicas=replicas))
    world.begin()
    world.run(world.now + 3 * SECOND)
    return world


def leader_of(world: World) -> Machine:
    return next(m for m in world.machines.values() if m.running and m.replica and m.replica.paxos.serving)


def ask(world: World, after: Configuration) -> Change:
    """The leader is asked for other members; gives the change once it is proposed."""
    leader = leader_of(world)
    assert leader.replica is not None
    change = Change(after, leader.replica.configuration.digest(), world.rng.randbytes(16))
    leader.replica.change_members(change, leader.now())
    leader.drain()
    return change


def make(world: World, after: Configuration) -> None:
    """The same, and it is made."""
    ask(world, after)
    for _ in range(100):
        if world.members == after:
            return world.run(world.now + SECOND)
        world.run(world.now + SECOND // 20)
    raise AssertionError("the change was not made")


def join(world: World, id_: int) -> Machine:
    """A new replica is added and started."""
    make(world, world.members.added(id_, f"127.0.0.1:{7000 + id_}"))
    world.run(world.now + 2 * SECOND)
    return world.machines[id_]


def promote(world: World, machine: Machine) -> None:
    make(world, world.members.promoted(machine.id, machine.disk))


def end(world: World) -> None:
    world.heal()
    world.demand_progress()
    world.judge()


def test_three_grow_to_five_and_one_that_is_wiped_is_replaced() -> None:
    """The whole life of a cell: nothing that was acknowledged is lost."""
    world = busy()
    for id_ in (4, 5):
        promote(world, join(world, id_))
    assert world.members.voters == (1, 2, 3, 4, 5)
    leader = leader_of(world)
    wiped = next(m for m in world.machines.values() if m is not leader and m.id <= 3)
    wiped.hurt = True
    wiped.wipe()
    wiped.start()
    world.run(world.now + 2 * SECOND)
    assert wiped.replica is not None
    assert not wiped.replica.admitted, "an emptied disk of a cell whose members have changed votes no more"
    make(world, world.members.replaced(wiped.id, "127.0.0.1:7999"))
    world.run(world.now + 3 * SECOND)
    assert wiped.incarnation == 2
    promote(world, wiped)
    assert wiped.replica is not None
    assert wiped.replica.paxos.votes
    end(world)


def test_who_takes_part_is_not_replaced_until_it_is_stopped() -> None:
    """Two replicas that are there, replaced one after the other, would leave one voter and one disk."""
    world = busy()
    leader = leader_of(world)
    other = next(m for m in world.machines.values() if m is not leader)
    after = world.members.replaced(other.id, "127.0.0.1:7999")
    with pytest.raises(ConfigError, match="takes part"):
        ask(world, after)
    other.kill(power_cut=False)
    world.run(world.now + SECOND)
    make(world, after)
    assert other.id not in world.members.voters


def test_a_leader_hands_over_to_nobody_who_hangs(monkeypatch) -> None:
    """It would stand for election when it wakes, and depose whoever leads by then."""
    world = busy()
    leader = leader_of(world)
    hangs, other = (m for m in world.machines.values() if m is not leader)
    hangs.suspend(60 * SECOND)
    world.run(world.now + SECOND)
    assert leader.replica is not None
    told: list[int] = []
    send = world.network.send

    def lost(a: int, b: int, message: bytes) -> None:
        if message[0] == TAKE_OVER:
            told.append(b)  # whom it tells first does not take over, so that it tells another one
        else:
            send(a, b, message)

    monkeypatch.setattr(world.network, "send", lost)
    leader.replica.hand_over(leader.now())
    leader.drain()
    world.run(world.now + SECOND)
    assert len(told) > 1
    assert set(told) == {other.id}


def test_a_first_member_that_comes_after_a_change_is_to_be_readmitted() -> None:
    """Its empty disk may be a wiped one that voted for members whom it does not know."""
    world = World(7, CALM)
    late = world.machines[3]
    for machine in (world.machines[1], world.machines[2]):
        machine.start()
    world.run(world.now + 2 * SECOND)
    make(world, world.members.added(4, "127.0.0.1:7004"))
    late.start()
    world.run(world.now + 3 * SECOND)
    assert late.replica is not None
    assert not late.refused, "nobody has ever seen it vote"
    assert not late.replica.admitted
    assert late.replica.paxos.abstaining
    late.hurt = True
    make(world, world.members.replaced(3, "127.0.0.1:7003"))
    world.run(world.now + 3 * SECOND)
    promote(world, late)
    assert late.replica.paxos.votes


def test_a_promoted_replica_that_is_wiped_votes_no_more_whoever_remembers_it() -> None:
    """Its disk is not the one that was promoted: everybody can see that, even who never met it before."""
    world = busy()
    machine = join(world, 4)
    promote(world, machine)
    machine.hurt = True
    machine.wipe()
    world.machines[1].kill(power_cut=False)
    machine.start()
    world.run(world.now + 3 * SECOND)
    assert machine.refused
    assert machine.replica is not None
    assert not machine.replica.paxos.votes
    end(world)


def test_a_learner_that_lags_is_not_promoted() -> None:
    """It would make a voter on whom the cell waits."""
    world = busy()
    machine = join(world, 4)
    leader = leader_of(world)
    assert leader.replica is not None
    machine.kill(power_cut=False)
    world.run(world.now + SECOND)
    after = world.members.promoted(4, machine.disk)
    with pytest.raises(ConfigError, match="replica 4 is not connected"):
        ask(world, after)
    world.run(world.now + 60 * SECOND)  # many slots
    world.network.slow_ways[leader.id, 4] = 4_000
    machine.start()
    for _ in range(100):
        world.run(world.now + SECOND // 100)
        if leader.replica.paxos.lag(4) is not None:
            break
    with pytest.raises(ConfigError, match="slots behind, and at most 64 are allowed"):
        ask(world, after)
    assert 4 not in world.members.voters


def test_without_a_quorum_of_the_new_voters_nothing_is_changed() -> None:
    """Three, one of them down: without the second, the third and the dead one would have to agree."""
    world = busy()
    leader = leader_of(world)
    down, other = (m for m in world.machines.values() if m is not leader)
    down.kill(power_cut=False)
    world.run(world.now + 2 * SECOND)
    with pytest.raises(ConfigError, match="no quorum"):
        ask(world, world.members.removed(other.id))
    make(world, world.members.removed(down.id))
    assert set(world.members.voters) == {leader.id, other.id}
    down.start()
    end(world)


def test_the_leader_does_not_remove_itself() -> None:
    """Another one must lead before."""
    world = busy()
    with pytest.raises(ConfigError, match="another one must lead before"):
        ask(world, world.members.removed(leader_of(world).id))


def test_two_changes_at_once_are_one_after_the_other() -> None:
    """The second is refused while the first is under way, and when it was made for other members."""
    world = busy()
    one = world.members.added(4, "127.0.0.1:7004")
    two = world.members.added(5, "127.0.0.1:7005")
    ask(world, one)
    with pytest.raises(ConfigError, match=r"under way|changed meanwhile"):
        ask(world, two)
    world.run(world.now + 2 * SECOND)
    assert world.members == one
    leader = leader_of(world)
    assert leader.replica is not None
    with pytest.raises(ConfigError, match="changed meanwhile"):
        leader.replica.change_members(Change(two, world.first.digest(), bytes(16)), leader.now())


def test_whoever_asked_learns_what_became_of_it() -> None:
    """Made, or void for ever because another value took its slot."""
    world = busy()
    leader = leader_of(world)
    assert leader.replica is not None
    change = ask(world, world.members.added(4, "127.0.0.1:7004"))
    world.run(world.now + SECOND)
    assert leader.replica.fate_of(change) == "made"
    for other in world.machines:
        if other != leader.id:
            world.network.cut[leader.id, other] = None  # it hears the others, and they do not hear it
    change = ask(world, world.members.added(5, "127.0.0.1:7005"))
    world.run(world.now + SECOND // 10)
    assert leader.replica.fate_of(change) == "open"
    world.run(world.now + 5 * SECOND)
    world.network.heal()
    world.run(world.now + 5 * SECOND)
    assert leader.replica.fate_of(change) == "void"
    assert world.members.member(5) is None


def test_a_replica_that_was_removed_ends_by_itself() -> None:
    """Once nobody wants to hear of it any more."""
    world = busy()
    leader = leader_of(world)
    removed = next(m for m in world.machines.values() if m is not leader)
    make(world, world.members.removed(removed.id))
    world.run(world.now + 10 * SECOND)
    assert removed.gone is not None
    assert "removed" in removed.gone
    end(world)


def test_a_removed_replica_turns_clients_away_who_come_to_it() -> None:
    """As long as it still runs, and after a restart: one that waits here for an answer loses its session meanwhile."""
    world = busy()
    leader = leader_of(world)
    removed = next(m for m in world.machines.values() if m is not leader)
    make(world, world.members.removed(removed.id))
    hello = framed(encode_connect_request(ConnectRequest(0, 4_000, 0, bytes(16))))
    for conn in (1_000_000, 1_000_001):
        assert removed.replica is not None
        removed.replica.client_opened(conn, removed.now())
        removed.replica.client_data(conn, hello, removed.now())
        assert conn in [closed for closed, _ in removed.replica.ready().client_closes]
        removed.kill(power_cut=False)
        removed.start()


def test_a_lock_outlives_the_member_that_served_its_holder() -> None:
    """Its clients are let go at once and attach elsewhere: no member takes a session with it (consul #6793)."""
    world = busy()
    leader = leader_of(world)
    removed, other = (m for m in world.machines.values() if m is not leader)
    clients = world.clients.values()
    for client in clients:
        world.client_cuts |= {(client.id, leader.id): 1 << 60, (client.id, other.id): 1 << 60}
        client.hang_up()
    locks: dict[bytes, int] = {}
    while not locks or any(client.machine != removed.id or not client.session for client in clients):
        world.run(world.now + SECOND // 20)
        assert leader.replica is not None
        locks = {path: owner for owner, s in leader.replica.tree.sessions.items() for path in s.ephemerals}
    world.quiet = True  # what is held stays held, and nobody does anything but ping
    world.client_cuts.clear()
    served = {client.id: client.session for client in clients}
    make(world, world.members.removed(removed.id))
    world.run(world.now + SECOND)
    assert {client.id: client.session for client in clients if client.conn and client.machine != removed.id} == served
    world.run(world.now + 20 * SECOND)
    tree = leader_of(world).replica.tree
    assert {path: tree.nodes[path].owner for path in locks if path in tree.nodes} == locks
    assert world.counts.get("session lost", 0) == 0
    world.quiet = False
    end(world)


def test_an_observer_sees_everything_and_is_no_quorum_with_anybody() -> None:
    """It follows, and the cell stands still without a quorum of voters."""
    world = busy()
    make(world, world.members.added(4, "127.0.0.1:7004", "observer"))
    world.run(world.now + 2 * SECOND)
    machine = world.machines[4]
    leader = leader_of(world)
    assert machine.replica is not None
    assert leader.replica is not None
    assert machine.replica.role == "observer"
    assert machine.replica.can_read
    for other in world.machines.values():
        if other.id < 4 and other is not leader:
            other.kill(power_cut=False)
    slot = machine.replica.paxos.chosen_mark
    world.run(world.now + 3 * SECOND)
    assert machine.replica.paxos.chosen_mark <= slot + 1
    assert not machine.replica.can_read
    end(world)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(30_000, 30_050, 10))
def test_members_change_in_every_kind_of_world(first: int) -> None:
    """The other faults as each seed draws them, and operators on top of it."""
    outcomes = [
        run_seed(seed, dataclasses.replace(World(seed).plan, members=True)) for seed in range(first, first + 10)
    ]
    assert [(outcome.seed, outcome.violation) for outcome in outcomes if outcome.violation] == []
    assert summary(outcomes).get("member added", 0) > 0


@pytest.mark.slow
def test_every_kind_of_change_happens() -> None:
    """A change that is never made tests nothing."""
    plan = dataclasses.replace(CALM, members=True, crashes=True, partitions=True, resets=True)
    fired = summary([run_seed(seed, plan) for seed in range(12)])
    assert set(fired) >= {
        "member added",
        "member promoted",
        "member removed",
        "member replaced",
        "change of members refused",
        "hand-over before a removal",
        "stranger refused",
        "left for good",
    }
