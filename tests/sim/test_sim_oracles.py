"""Each oracle is shown what it is there for, in a world that was in order until then, and speaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from synod.base import SECOND, Ballot
from synod.paxos import Accepted, Promise, encode
from synod.sim import Holding, Oracles, Plan, Seen, Violation, World
from synod.sim._checkers import Event, Span
from synod.sim._machine import Machine  # a test of the simulator may open its machines
from synod.sim._transactions import Transaction
from synod.tree import Tree
from synod.tree._acl import OPEN_ACL, Acl
from synod.tree._watches import PERSISTENT, RECURSIVE
from synod.tree._znode import Znode
from synod.wire import EVENT_DATA_CHANGED, WatcherEvent, encode_event


def world_in_order() -> World:
    """A cell that has served its clients for a while."""
    world = World(7, Plan.calm(replicas=3, clients=3))
    world.begin()
    world.run(world.now + 5 * SECOND)
    return world


def to_the_end(world: World) -> None:
    world.run(world.now + 3 * SECOND)
    world.heal()
    world.demand_progress()
    world.judge()


def follower(world: World) -> Machine:
    return next(m for m in world.machines.values() if m.replica and m.replica.paxos.role == "follower")


def another_state(world: World) -> None:
    machine = follower(world)
    assert machine.replica is not None
    machine.replica.tree.nodes[b"/lock"].ctime += 1


def an_early_acceptance(world: World) -> None:
    machine = follower(world)
    assert machine.replica is not None
    slot = machine.replica.paxos.chosen_mark + 5
    machine._check_durable(encode(Accepted(machine.durable_promised, slot, 0, 0)))


def an_early_promise(world: World) -> None:
    machine = follower(world)
    ballot = Ballot(machine.durable_promised.round + 1, machine.id)
    machine._check_durable(encode(Promise(ballot, 1, 0, 0, (), ())))


def a_vote_before_promotion(world: World) -> None:
    machine = follower(world)
    machine.incarnation += 1
    machine._check_durable(encode(Promise(machine.durable_promised, 1, 0, 0, (), ())))


def a_second_leader(world: World) -> None:
    leader = next(m for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader")
    assert leader.replica is not None
    world.oracles.leads(9, leader.replica.paxos.ballot)


def a_slot_left_out(world: World) -> None:
    machine = follower(world)
    assert machine.replica is not None
    world.oracles.begins(machine.id, machine.replica.tree.slot - 1)


def another_value(world: World) -> None:
    machine = follower(world)
    assert machine.replica is not None
    tree = machine.replica.tree
    world.oracles.applies(machine.id, tree.slot + 1, b"what nobody proposed", tree)


def a_lost_write(world: World) -> None:
    for machine in world.machines.values():
        assert machine.replica is not None
        machine.replica.tree.nodes[b"/r0"].version -= 3


def a_stale_read(world: World) -> None:
    attempts = world.clients[1].histories["/r0"]
    first = next(a for a in attempts if a.kind == "read")
    last = next(at for at in reversed(range(len(attempts))) if attempts[at].kind == "read")
    assert attempts[last].version > first.version + 1
    attempts[last] = replace(attempts[last], value=first.value, version=first.version, zxid=first.zxid)


def a_second_holder(world: World) -> None:
    now = world.now
    world.holdings += [Holding("/other", 1, 5, now, now + 10), Holding("/other", 2, 6, now + 9, now + 20)]


def a_token_that_falls(world: World) -> None:
    now = world.now
    world.holdings += [Holding("/other", 1, 6, now, now + 10), Holding("/other", 2, 5, now + 10, now + 20)]


def an_event_that_never_comes(world: World) -> None:
    world.clients[2]._watched["/lock"] = 1  # nobody else watches it


def an_event_for_nobody(world: World) -> None:
    client = world.clients[3]
    while not client._watched:
        world.run(world.now + 10_000)
    client._watched.clear()
    client.lasting._wanted.clear()


def an_event_too_late(world: World) -> None:
    world.clients[3].seen += [Seen("armed", "/x", 5), Seen("reply", "/x", 6)]


def half_a_transaction(world: World) -> None:
    for at, t in reversed(list(enumerate(world.transactions))):
        if len(t.reads) == 2 and t.reads[0][1] > 1:
            path = t.reads[0][0]
            older = next(b for b in world.transactions for b in b.reads if b[0] == path and b[1] < t.reads[0][1])
            world.transactions[at] = replace(t, reads=(older, t.reads[1]))
            return
    raise AssertionError("nobody has read two registers at once")


def a_condition_that_did_not_hold(world: World) -> None:
    at, t = next((at, t) for at, t in enumerate(world.transactions) if t.demands and not t.refused)
    path, version = t.demands[0]
    world.transactions[at] = replace(t, demands=((path, version + 1),))


def a_condition_that_held(world: World) -> None:
    t = next(t for t in world.transactions if t.writes and not t.open)
    path, version, _ = t.writes[0]
    world.transactions.append(replace(t, writes=(), demands=((path, version),), refused=True))


def an_answer_from_the_past(world: World) -> None:
    world.transactions.append(Transaction(1, 1, world.now, world.now + 1))


def hidden(world: World) -> list[Znode]:
    """What is behind the list that clients change, on every machine, while it is closed to some of them."""
    while True:
        found = [m.replica.tree.nodes.get(b"/hidden") for m in world.machines.values() if m.replica]
        nodes = [node for node in found if node is not None]
        if len(nodes) == 3 and all(node.acl.world == 0 for node in nodes):
            return nodes
        world.run(world.now + 10_000)


def a_door_that_stands_open(world: World) -> None:
    for node in hidden(world):
        node.acl = OPEN_ACL


def a_door_with_another_lock(world: World) -> None:
    for node in hidden(world):
        node.acl = Acl(((31, b"digest", b"nobody:x"),))


def a_lasting_watch_that_is_lost(world: World) -> None:
    for machine in world.machines.values():
        assert machine.replica is not None
        watches = machine.replica.tree.watches
        for path, here in list(watches.table.items()):
            for conn in list(here):
                watches.remove(conn, path, PERSISTENT | RECURSIVE)
    for client in world.clients.values():
        client.lasting.begin = lambda: None  # type: ignore[method-assign] -- it would find that there is none


def told(world: World) -> Span:
    """A watch that stays, and has told something."""
    while not any(span.told for span in world.spans):
        world.run(world.now + 10_000)
    return next(span for span in world.spans if span.told)


def a_lasting_event_too_few(world: World) -> None:
    while True:
        told(world)
        for span in world.spans:
            for event in span.told:
                if event in world.changes and event.path != "/hidden":
                    span.told.remove(event)
                    return
        world.run(world.now + 10_000)


def a_lasting_event_twice(world: World) -> None:
    span = told(world)
    span.told.append(span.told[-1])


def a_lasting_event_of_nothing(world: World) -> None:
    told(world)
    everything = Span(1, "/", recursive=True, since=1, until=1, told=[Event(1 << 40, EVENT_DATA_CHANGED, "/r0")])
    world.spans.append(everything)


def an_event_behind_an_answer(world: World) -> None:
    client = world.clients[1]
    while not (client.conn and client._greeted):
        world.run(world.now + 10_000)
    client.receive(encode_event(WatcherEvent(EVENT_DATA_CHANGED, 3, "/r0"), client.last_zxid))


def time_that_runs_back(world: World) -> None:
    world.clients[1].last_zxid += 1 << 20


def a_session_for_two(world: World) -> None:
    world.oracles.session_served(2, world.clients[1].session)


def a_session_after_its_end(world: World) -> None:
    client = world.clients[1]
    world.oracles.session_ended(client.id, client.session, early=-1)
    client.hang_up()


def a_session_that_ends_early(world: World) -> None:
    client = world.clients[1]
    client.hang_up()
    client.paused_until = world.now + 8 * SECOND
    client.lease_until = world.now + 20 * SECOND
    world.run(world.now + 12 * SECOND)


def an_answer_out_of_order(world: World) -> None:
    client = world.clients[1]
    while not client._waiting:
        world.run(world.now + 1_000)
    client._waiting.insert(0, (-77, lambda header, reader: None))


def no_quorum(world: World) -> None:
    for machine in list(world.machines.values())[:2]:
        machine.kill(power_cut=True)
        machine.gone = "its machine burnt down"


PLANTS: list[tuple[Callable[[World], None], str]] = [
    (another_state, "the states of replicas"),
    (an_early_acceptance, "before it was durable"),
    (an_early_promise, "before it was durable"),
    (a_vote_before_promotion, "votes before it was promoted"),
    (a_second_leader, "both lead with ballot"),
    (a_slot_left_out, "applies slot"),
    (another_value, "has one value on replica"),
    (a_lost_write, "was written"),
    (a_stale_read, "/r0: client 1 read"),
    (a_second_holder, "was held by client 1 until"),
    (a_token_that_falls, "was given the token 5 after the token 6"),
    (an_event_that_never_comes, "was never told that /lock had changed"),
    (an_event_for_nobody, "which it does not watch"),
    (an_event_too_late, "before the event of the watch"),
    (half_a_transaction, "without its part in client"),
    (a_condition_that_did_not_hold, "was granted, though it demanded version"),
    (a_condition_that_held, "was refused, and what it demanded was so"),
    (an_answer_from_the_past, "had been answered before it was asked"),
    (a_door_that_stands_open, "and got it at zxid"),
    (a_door_with_another_lock, "and was refused at zxid"),
    (a_lasting_watch_that_is_lost, "was never told of Event"),
    (a_lasting_event_too_few, "was never told of Event"),
    (a_lasting_event_twice, "twice"),
    (a_lasting_event_of_nothing, "writes there have no answer"),
    (an_event_behind_an_answer, "after an answer of zxid"),
    (time_that_runs_back, "has seen zxid"),
    (a_session_for_two, "was given to clients 1 and 2"),
    (a_session_after_its_end, "is served after its end"),
    (a_session_that_ends_early, "before its lease"),
    (an_answer_out_of_order, "out of order"),
    (no_quorum, "get nothing done"),
]


def test_a_world_in_order_passes_all_oracles() -> None:
    """Otherwise the plants below would show nothing."""
    to_the_end(world_in_order())


@pytest.mark.parametrize(("plant", "sentence"), PLANTS, ids=lambda x: x.__name__ if callable(x) else "")
def test_a_planted_violation_is_found(plant: Callable[[World], None], sentence: str) -> None:
    """Every oracle speaks, with its own sentence, when the one thing goes wrong that it watches."""
    world = world_in_order()
    with pytest.raises(Violation) as found:  # noqa: PT012 -- some plants speak at once
        plant(world)
        to_the_end(world)
    assert sentence in str(found.value)


def test_a_voter_that_was_replaced_and_does_not_know_it_may_vote() -> None:
    """Seed 200075: a second life of a replica was replaced by a third, and was asked for a vote before it heard of it.

    The judge called that a vote before its promotion. It was promoted, and its vote counts only among those who have
    not heard of the change either: a quorum of theirs has a member that holds the change.
    """
    world = world_in_order()
    machine = follower(world)
    machine.incarnation = 2
    again = world.members.replaced(machine.id, "127.0.0.1:7999")
    world._members_changed(again.promoted(machine.id, machine.disk))
    world._members_changed(again.replaced(machine.id, "127.0.0.1:7998"))
    machine._check_voter()


def test_every_oracle_has_a_plant() -> None:
    """A judge without a test that shows it something wrong may be blind."""
    spoken = " ".join(sentence for _, sentence in PLANTS)
    for words in ("both lead", "applies slot", "one value", "states of", "given to clients", "after its end", "lease"):
        assert words in spoken
    methods = {name for name in vars(Oracles) if not name.startswith("_")}
    assert methods == {"begins", "applies", "holds", "leads", "session_served", "session_ended"}


def test_equal_states_have_equal_digests_whatever_their_own_digest_says() -> None:
    """The oracle hashes the state itself: a digest that a replica keeps wrongly hides nothing from it."""
    one, two = Tree(configuration=b"c"), Tree(configuration=b"c")
    assert one.digest_anew() == two.digest_anew()
    two.zxid += 1
    assert one.digest() == two.digest()
    assert one.digest_anew() != two.digest_anew()
