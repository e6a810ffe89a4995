"""The cell gets on whenever a quorum can talk, and who was away harms nobody: docs/GUARANTEES.md, liveness."""

from __future__ import annotations

from dataclasses import replace

import pytest

from synod.base import SECOND
from synod.sim import Plan, World
from synod.sim._machine import Machine  # a test of the simulator may open its machines

pytestmark = pytest.mark.slow

CALM = Plan.calm(replicas=5, clients=4)
ELECTION = SECOND // 2


def begun(plan: Plan = CALM, seed: int = 11) -> World:
    """A cell that has served its clients for a while."""
    world = World(seed, plan)
    world.begin()
    world.run(world.now + 4 * SECOND)
    return world


def leader_of(world: World) -> Machine:
    """The leader with the highest ballot."""
    leaders = [m for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader"]
    return max(leaders, key=lambda m: m.replica.paxos.ballot if m.replica else (0, 0))


def only(world: World, *links: tuple[int, int], told: bool) -> None:
    """Nothing but these links carries anything; `told`: the closing of the others is seen at once."""
    world.network.heal()
    for a in world.machines:
        for b in world.machines:
            if a != b and (a, b) not in links and (b, a) not in links:
                world.network.cut[a, b] = None
                if told:
                    world.network.disconnect(a, b)
    # A client that asks again elsewhere after its patience is as good as one that is told at once.
    for client in world.clients.values():
        client.hang_up()


def keep_going(world: World, within: int, wanted: int = 3) -> None:
    """Every client gets so much done within this time."""
    done = {client.id: client.finished for client in world.clients.values()}
    until = world.now + within
    while any(client.finished < done[client.id] + wanted for client in world.clients.values()):
        assert world.now < until, {c.id: c.finished - done[c.id] for c in world.clients.values()}
        world.run(world.now + ELECTION // 5)


def star(centre: int, *leaves: int) -> tuple[tuple[int, int], ...]:
    return tuple((centre, leaf) for leaf in leaves)


def of_five(world: World) -> tuple[int, int, int, int, int]:
    """The leader first."""
    leader = leader_of(world).id
    a, b, c, d = (i for i in world.machines if i != leader)
    return leader, a, b, c, d


@pytest.mark.parametrize("told", [True, False])
def test_a_leader_that_lost_its_quorum_gives_way_to_whoever_has_one(told: bool) -> None:
    """Quorum loss: all but one hear only that one, the old leader too: it alone can lead, and it does.

    Ref: Ng, Haridi & Carbone 2023 s2 (quorum-loss scenario).
    """
    world = begun()
    leader, hub, *rest = of_five(world)
    only(world, *star(hub, leader, *rest), told=told)
    cut_at = world.now
    while leader_of(world).id != hub:
        # The old leader stands down by itself only after four timeouts, and the hub hears it all the time.
        assert world.now < cut_at + 4 * ELECTION, "the hub takes over from a leader that says it lost its quorum"
        world.run(world.now + ELECTION // 10)
    keep_going(world, 20 * ELECTION)
    assert leader_of(world).id == hub
    quiet_reign(world)
    at_last(world)


@pytest.mark.parametrize("told", [True, False])
def test_who_was_behind_is_elected_when_only_it_hears_a_quorum(told: bool) -> None:
    """Constrained election: the leader is gone, and the only one who hears a quorum has missed the last slots."""
    world = begun()
    leader, hub, *rest = of_five(world)
    everybody = [(a, b) for a in (leader, *rest) for b in (leader, *rest) if a < b]
    only(world, *everybody, told=told)
    keep_going(world, 20 * ELECTION)
    replica = world.machines[hub].replica
    assert replica is not None
    assert replica.tree.slot < max(m.replica.tree.slot for m in world.machines.values() if m.replica) - 3
    only(world, *star(hub, *rest), told=told)
    keep_going(world, 20 * ELECTION)
    assert leader_of(world).id == hub
    quiet_reign(world)
    at_last(world)


@pytest.mark.parametrize("told", [True, False])
def test_a_chain_has_a_leader_and_keeps_it(told: bool) -> None:
    """Chain: each hears its neighbours only. The two in the middle and the one between have a quorum, and one leads."""
    world = begun()
    leader, a, b, c, d = of_five(world)
    only(world, (leader, a), (a, b), (b, c), (c, d), told=told)
    keep_going(world, 20 * ELECTION)
    assert leader_of(world).id in (a, b, c)
    quiet_reign(world)
    at_last(world)


@pytest.mark.parametrize("told", [True, False])
def test_a_leader_next_to_the_end_of_a_chain_is_left_alone(told: bool) -> None:
    """The far end does not hear it, and would find a quorum, were it not for the one between, who does."""
    world = begun()
    leader, a, b, c, d = of_five(world)
    only(world, (a, leader), (leader, b), (b, c), (c, d), told=told)
    keep_going(world, 20 * ELECTION)
    assert leader_of(world).id == leader
    quiet_reign(world)
    at_last(world)


def quiet_reign(world: World) -> None:
    """Nobody disturbs a leader that has its quorum, however little the others hear of it."""
    before = leader_of(world)
    assert before.replica is not None
    ballot = before.replica.paxos.ballot
    keep_going(world, 20 * SECOND, wanted=20)
    assert before.replica.paxos.role == "leader"
    assert before.replica.paxos.ballot == ballot


def at_last(world: World) -> None:
    """Healed, all come to one state, and what clients saw was right."""
    world.heal()
    world.demand_progress()
    world.judge()


def away_from(world: World, machine: Machine) -> None:
    """All clients are at other replicas, and stay there."""
    for client in world.clients.values():
        world.client_cuts[client.id, machine.id] = 1 << 60
        if client.machine == machine.id:
            client.hang_up()
    world.run(world.now + 2 * SECOND)
    assert all(client.conn and client.machine != machine.id for client in world.clients.values())


def test_a_leader_whose_disk_hangs_hands_over_and_expires_nobody_when_it_comes_back() -> None:
    """Its heartbeats stop when its oldest write is older than the election timeout (etcd #15247)."""
    world = begun()
    leader = leader_of(world)
    away_from(world, leader)
    leader.hangs_until = world.now + 100 * SECOND
    world.run(world.now + 6 * ELECTION)
    assert leader_of(world) is not leader
    keep_going(world, 8 * ELECTION)
    world.run(leader.hangs_until + SECOND)
    keep_going(world, 8 * ELECTION)
    world.run(world.now + 5 * SECOND)
    assert world.counts.get("session lost", 0) == 0
    at_last(world)


@pytest.mark.parametrize("clock", ["runs on", "stands still"])
def test_a_leader_that_was_paused_expires_nobody(clock: str) -> None:
    """It wakes with deadlines that are long over; its expiries are void, and it moves every deadline by the gap."""
    world = begun()
    leader = leader_of(world)
    away_from(world, leader)
    if clock == "runs on":
        leader.paused_until = world.now + 30 * SECOND
    else:
        leader.suspend(30 * SECOND)
    world.wake_at(leader, leader.paused_until + 1)
    keep_going(world, 8 * ELECTION)
    world.run(leader.paused_until + SECOND)
    assert leader.replica is not None
    assert leader.replica.paxos.role != "leader"
    keep_going(world, 8 * ELECTION)
    world.run(world.now + 5 * SECOND)
    assert world.counts.get("session lost", 0) == 0
    at_last(world)


@pytest.mark.parametrize("seed", range(3))
def test_a_cell_of_one_that_was_paused_expires_nobody(seed: int) -> None:
    """It wakes as the leader: what its clients sent meanwhile is read before anybody's silence is judged."""
    world = begun(Plan.calm(replicas=1, clients=12), seed)
    machine = world.machines[1]
    machine.paused_until = world.now + 5 * SECOND
    world.wake_at(machine, machine.paused_until + 1)
    world.run(machine.paused_until + 3 * SECOND)
    assert world.counts.get("session lost", 0) == 0
    at_last(world)


@pytest.mark.parametrize("seed", range(4))
def test_a_leader_that_was_suspended_serves_no_stale_read(seed: int) -> None:
    """Its clock stood still with it. Others write meanwhile; its own clients ask before it can hear of another leader."""
    world = begun(replace(CALM, clients=11, keys=1, session_timeout_ms=20_000), seed)
    leader = leader_of(world)
    own = list(world.clients.values())[:7]
    for client in own:
        for other in world.machines:
            if other != leader.id:
                world.client_cuts[client.id, other] = 1 << 60
        client.hang_up()
    while any(client.machine != leader.id or client.session == 0 for client in own):
        world.run(world.now + SECOND // 10)
    world.run(world.now + SECOND)
    for client in own:
        assert client.conn, "at the leader, with a session"
    leader.suspend(4 * SECOND)
    world.wake_at(leader, leader.paused_until + 1)
    for client in own:
        client.paused_until = leader.paused_until - SECOND // 10
    written = sum(client.finished for client in world.clients.values() if client not in own)
    world.run(leader.paused_until - SECOND // 5)
    assert sum(client.finished for client in world.clients.values() if client not in own) > written + 5
    for other in world.machines:
        if other != leader.id:
            world.network.cut[other, leader.id] = None
    world.run(leader.paused_until + SECOND)
    assert world.counts.get("session lost", 0) == 0
    at_last(world)
