"""The promises of Paxos, one by one, on replicas that are driven by hand.

In the order of the protocol: what an acceptor promises, what a leader may conclude, what a learner believes, what a
read waits for, when a leader is replaced. Each test takes one sentence of the papers or of the module that it names.
"""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from paxos_cell import Cell, Disk, configuration_of, durable, entries

from synod.base import MILLISECOND, SECOND, Ballot
from synod.paxos import (
    Accept,
    Accepted,
    Chosen,
    Durable,
    Fetch,
    Heartbeat,
    HeartbeatAck,
    Paxos,
    PaxosMessage,
    PaxosOptions,
    PaxosReady,
    Preempted,
    Prepare,
    Probe,
    ProbeAnswer,
    Promise,
    ReadAsk,
    ReadGrant,
    Slots,
    TakeOver,
)
from synod.paxos._paxos import UNCONNECTED_TIMEOUTS_MAX

NOW = SECOND
THREE = (1, 2, 3)
FIVE = (1, 2, 3, 4, 5)
LOW, HIGH = (1, 2), (2, 3)  # ballots below the one that `candidate` raises


def replica(
    me: int = 2, voters: tuple[int, ...] = THREE, held: Durable | None = None, learners: tuple[int, ...] = ()
) -> Paxos:
    """One replica, connected to all the others, whose disk the test syncs by hand."""
    paxos = Paxos(
        me=me,
        configuration=configuration_of(voters, learners),
        options=PaxosOptions(in_flight_slots_max=4),
        durable=held or durable(),
        applied=0,
        rng=random.Random(1),
        now=NOW,
    )
    for peer in (*voters, *learners):
        if peer != me:
            paxos.connected(peer, NOW)
    paxos.ready()
    return paxos


def take(paxos: Paxos, peer: int, message: PaxosMessage) -> PaxosReady:
    paxos.step(peer, message, NOW)
    return paxos.ready()


def sync(paxos: Paxos, ready: PaxosReady) -> PaxosReady:
    """What was written is durable now; what comes of it."""
    paxos.persisted(ready.writes[-1].id, NOW)
    return paxos.ready()


def candidate(me: int = 1, voters: tuple[int, ...] = THREE, held: Durable | None = None) -> tuple[Paxos, Ballot]:
    """A replica that has raised a ballot, durably, and asked for promises."""
    paxos = replica(me, voters, held or durable((2, 3)))
    ready = sync(paxos, take(paxos, next(peer for peer in voters if peer != me), TakeOver(paxos.ballot)))
    assert {type(message) for _, message in ready.messages} == {Prepare}
    return paxos, paxos.ballot


def proposed(ready: PaxosReady, peer: int) -> dict[int, bytes]:
    return {m.slot: m.value for to, m in ready.messages if to == peer and isinstance(m, Accept)}


def answers(ready: PaxosReady) -> list[PaxosMessage]:
    return [message for _, message in ready.messages]


# -- the acceptor ------------------------------------------------------------------------------------------


def test_a_promise_is_durable_before_it_is_told() -> None:
    """Lamport 2001 s2.5: an acceptor records its response in stable storage before sending it."""
    paxos = replica()
    ready = take(paxos, 1, Prepare(Ballot(1, 1), 1))
    assert [write.promised for write in ready.writes] == [Ballot(1, 1)]
    assert ready.messages == []
    assert sync(paxos, ready).messages == [(1, Promise(Ballot(1, 1), 1, 0, 0, (), ()))]


def test_an_accept_is_durable_before_it_is_told() -> None:
    """Lamport 2001 s2.5, for phase 2; and asking twice gets no answer sooner."""
    paxos = replica()
    ready = take(paxos, 1, Accept(Ballot(1, 1), 1, 0, 1, b"v"))
    assert [write.entries for write in ready.writes] == [entries((1, (1, 1), b"v"))]
    assert ready.messages == []
    again = take(paxos, 1, Accept(Ballot(1, 1), 1, 0, 1, b"v"))
    assert (again.messages, again.writes) == ([], [])
    assert answers(sync(paxos, ready)) == [Accepted(Ballot(1, 1), 1, 0, 1)] * 2


def test_an_answer_waits_for_its_own_write_and_not_for_an_earlier_one() -> None:
    """A write that becomes durable lets out what rests on it, and nothing that rests on a later one."""
    paxos = replica()
    first = take(paxos, 1, Accept(Ballot(1, 1), 1, 0, 1, b"v"))
    second = take(paxos, 1, Accept(Ballot(1, 1), 2, 0, 1, b"w"))
    assert answers(sync(paxos, first)) == [Accepted(Ballot(1, 1), 1, 0, 1)]
    assert answers(sync(paxos, second)) == [Accepted(Ballot(1, 1), 2, 0, 1)]


def test_a_refusal_waits_for_the_promise_that_it_speaks_of() -> None:
    """Preempted says what was promised: told before it is durable, it could be forgotten again."""
    paxos = replica()
    ready = take(paxos, 3, Prepare(Ballot(2, 3), 1))
    assert take(paxos, 1, Prepare(Ballot(1, 1), 1)).messages == []
    assert sync(paxos, ready).messages == [
        (3, Promise(Ballot(2, 3), 1, 0, 0, (), ())),
        (1, Preempted(Ballot(2, 3))),
    ]


@pytest.mark.parametrize(
    "message",
    [Prepare(Ballot(4, 1), 1), Accept(Ballot(4, 1), 1, 0, 1, b"late"), Heartbeat(Ballot(4, 1), 0, 1, True, False)],
    ids=["Prepare", "Accept", "Heartbeat"],
)
def test_a_lower_ballot_is_refused_after_a_promise(message: PaxosMessage) -> None:
    """P1a: a proposal numbered n is accepted iff no prepare request above n was answered."""
    paxos = replica()
    sync(paxos, take(paxos, 3, Prepare(Ballot(5, 3), 1)))
    ready = take(paxos, 1, message)
    assert ready.messages == [(1, Preempted(Ballot(5, 3)))]
    assert ready.writes == []


def test_a_lower_ballot_is_refused_even_while_the_promise_is_being_written() -> None:
    """What was promised binds from the moment of the promise, not of its sync."""
    paxos = replica()
    ready = take(paxos, 3, Prepare(Ballot(5, 3), 1))
    assert take(paxos, 1, Accept(Ballot(4, 1), 1, 0, 1, b"late")).writes == []
    assert answers(sync(paxos, ready))[1:] == [Preempted(Ballot(5, 3))]


def test_an_accept_of_a_higher_ballot_is_a_promise_too() -> None:
    """Having accepted 5.3, an acceptor must not promise 4.1: a quorum could no longer see what was accepted."""
    paxos = replica()
    sync(paxos, take(paxos, 3, Accept(Ballot(5, 3), 1, 0, 1, b"v")))
    assert answers(take(paxos, 1, Prepare(Ballot(4, 1), 1))) == [Preempted(Ballot(5, 3))]


def test_a_promise_survives_a_restart() -> None:
    """A process that comes back is bound by what the one before it had told."""
    paxos, disk = replica(), Disk()
    ready = take(paxos, 3, Prepare(Ballot(5, 3), 1))
    sync(paxos, ready)
    disk.sync(ready.writes[0])
    again = replica(held=disk.durable())
    assert again.ballot == Ballot(5, 3)
    assert answers(take(again, 1, Accept(Ballot(4, 1), 1, 0, 1, b"late"))) == [Preempted(Ballot(5, 3))]


def test_an_entry_is_a_promise_of_its_ballot_whatever_the_log_says() -> None:
    """A log that gives back an entry above its promise has still accepted it: the promise is at least that."""
    assert replica(held=durable((1, 1), entries((1, (4, 3), b"v")))).ballot == Ballot(4, 3)


@pytest.mark.parametrize("order", list(permutations((Ballot(1, 1), Ballot(2, 3), Ballot(3, 1)))))
@pytest.mark.parametrize("kind", ["Prepare", "Accept"])
def test_what_an_acceptor_tells_never_sinks(kind: str, order: tuple[Ballot, ...]) -> None:
    """In whatever order ballots arrive, Promise and Accepted rise; the others are refused with the highest."""
    paxos, highest = replica(), Ballot(0, 0)
    for ballot in order:
        message = Prepare(ballot, 1) if kind == "Prepare" else Accept(ballot, 1, 0, 0, str(ballot).encode())
        ready = take(paxos, ballot.replica, message)
        ready = sync(paxos, ready) if ready.writes else ready
        (answer,) = answers(ready)
        if ballot < highest:
            assert answer == Preempted(highest)
        else:
            assert isinstance(answer, Promise | Accepted)
            assert answer.ballot == ballot
        highest = max(highest, ballot)


def test_an_acceptor_reports_the_highest_ballot_of_a_slot() -> None:
    """Lamport 2001 s2.2 phase 1b: the response carries the highest-numbered proposal that it has accepted."""
    paxos = replica()
    sync(paxos, take(paxos, 1, Accept(Ballot(1, 1), 1, 0, 0, b"old")))
    sync(paxos, take(paxos, 3, Accept(Ballot(2, 3), 1, 0, 0, b"new")))
    (promise,) = answers(sync(paxos, take(paxos, 1, Prepare(Ballot(3, 1), 1))))
    assert promise == Promise(Ballot(3, 1), 1, 0, 0, entries((1, (2, 3), b"new")), ())


def test_only_who_raised_a_ballot_may_use_it() -> None:
    """Ballots are disjoint by replica: what comes from another under that ballot is nobody's."""
    paxos = replica()
    for message in (
        Prepare(Ballot(1, 1), 1),
        Accept(Ballot(1, 1), 1, 0, 0, b"v"),
        Heartbeat(Ballot(1, 1), 0, 0, True, False),
    ):
        ready = take(paxos, 3, message)
        assert (ready.messages, ready.writes) == ([], [])


def test_an_acceptor_that_abstains_is_silent() -> None:
    """No room to write: neither promise nor acceptance, and no refusal that would depose anybody."""
    paxos = replica()
    paxos.abstain(True, NOW)
    for message in (Prepare(Ballot(1, 1), 1), Accept(Ballot(1, 1), 1, 0, 0, b"v")):
        ready = take(paxos, 1, message)
        assert (ready.messages, ready.writes) == ([], [])


# -- raising a ballot --------------------------------------------------------------------------------------


def test_a_candidate_promises_to_itself_durably_before_it_asks() -> None:
    """A ballot that was asked for and then forgotten could be raised twice, with two values."""
    paxos = replica(1)
    ready = take(paxos, 2, TakeOver(paxos.ballot))
    assert ready.messages == []
    assert [write.promised for write in ready.writes] == [paxos.ballot]
    assert sync(paxos, ready).messages == [(2, Prepare(paxos.ballot, 1)), (3, Prepare(paxos.ballot, 1))]


def test_a_ballot_is_not_raised_again_after_a_restart() -> None:
    """Lamport 2001 s2.5: no two proposals are ever issued with the same number."""
    cell = Cell()
    first = cell.elect(1).ballot
    cell.crash(1)
    cell.start(1)
    assert cell.elect(1).ballot > first


def test_a_ballot_is_above_every_one_that_was_seen() -> None:
    """A refusal teaches which ballots are of no use."""
    paxos, _ = candidate(1)
    take(paxos, 2, Preempted(Ballot(7, 3)))
    assert paxos.role == "electing"
    paxos.step(2, TakeOver(paxos.ballot), NOW)
    assert paxos.ballot == Ballot(8, 1)


def test_a_quorum_of_whole_promises_makes_a_leader() -> None:
    """Of three, one promise besides its own; of five, two; a learner's, another ballot's, a repeated one never."""
    paxos, ballot = candidate(1)
    take(paxos, 2, Promise(Ballot(9, 1), 1, 0, 0, (), ()))
    take(paxos, 3, Promise(Ballot(1, 1), 1, 0, 0, (), ()))
    assert paxos.role != "leader"
    take(paxos, 2, Promise(ballot, 1, 0, 0, (), ()))
    assert paxos.role == "leader"
    paxos, ballot = candidate(1, FIVE)
    for _ in range(3):
        take(paxos, 2, Promise(ballot, 1, 0, 0, (), ()))
    assert paxos.role != "leader"
    take(paxos, 5, Promise(ballot, 1, 0, 0, (), ()))
    assert paxos.role == "leader"


def test_the_promise_of_a_learner_does_not_count() -> None:
    """A member that only learns is in no quorum."""
    paxos = replica(1, learners=(4,))
    sync(paxos, take(paxos, 2, TakeOver(paxos.ballot)))
    take(paxos, 4, Promise(paxos.ballot, 1, 0, 0, (), ()))
    assert paxos.role != "leader"


def test_a_promise_counts_once_its_last_chunk_has_come() -> None:
    """A leader that knew half of what a quorum accepted would overwrite the other half."""
    paxos, ballot = candidate(1)
    ready = take(paxos, 2, Promise(ballot, 1, 0, 2, entries((1, LOW, b"a")), ()))
    assert ready.messages == [(2, Prepare(ballot, 2))]
    assert paxos.role != "leader"
    ready = take(paxos, 2, Promise(ballot, 2, 0, 0, entries((2, LOW, b"b")), ()))
    assert paxos.role == "leader"
    assert proposed(ready, 2) == {1: b"a", 2: b"b"}


# -- what a new leader proposes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (entries((1, LOW, b"low")), entries((1, HIGH, b"high")), {1: b"high"}),
        (entries((1, HIGH, b"high")), entries((1, LOW, b"low")), {1: b"high"}),
        (entries((1, LOW, b"low")), (), {1: b"low"}),
        ((), entries((1, LOW, b"low")), {1: b"low"}),
        (
            entries((1, HIGH, b"a"), (2, LOW, b"b")),
            entries((1, LOW, b"c"), (2, HIGH, b"d")),
            {1: b"a", 2: b"d"},
        ),
    ],
    ids=["theirs is higher", "mine is higher", "only mine", "only theirs", "slot by slot"],
)
def test_a_new_leader_proposes_the_value_of_the_highest_ballot_again(
    mine: tuple, theirs: tuple, expected: dict[int, bytes]
) -> None:
    """P2c: the value is that of the highest-numbered proposal among those accepted by the quorum."""
    paxos, ballot = candidate(1, held=durable((2, 3), mine))
    ready = take(paxos, 2, Promise(ballot, 1, 0, 0, theirs, ()))
    assert proposed(ready, 2) == expected
    assert {m.ballot for m in answers(ready) if isinstance(m, Accept)} == {ballot}


def test_of_several_promises_the_highest_ballot_counts_whoever_comes_first() -> None:
    """P2c for five: the order of the answers says nothing."""
    told = {2: entries((1, (1, 4), b"a")), 3: entries((1, (2, 3), b"b")), 4: entries((1, (1, 5), b"c"))}
    for first, second in permutations(told, 2):
        paxos, ballot = candidate(1, FIVE)
        take(paxos, first, Promise(ballot, 1, 0, 0, told[first], ()))
        ready = take(paxos, second, Promise(ballot, 1, 0, 0, told[second], ()))
        assert proposed(ready, 2) == {1: max(told[first] + told[second], key=lambda entry: entry.ballot).value}


def test_a_new_leader_fills_holes_with_no_ops() -> None:
    """Lamport 2001 s3: to fill the gap it proposes a special no-op; what follows can be handed out then."""
    paxos, ballot = candidate(1)
    ready = take(paxos, 2, Promise(ballot, 1, 0, 0, entries((2, LOW, b"two"), (5, LOW, b"five")), ()))
    assert proposed(ready, 2) == {1: b"", 2: b"two", 3: b"", 4: b"", 5: b"five"}
    assert paxos.propose_opening(b"open", NOW) == 6


def test_a_new_leader_proposes_nothing_at_or_below_what_is_chosen() -> None:
    """Slots that somebody knows chosen are fetched: the others may have forgotten what was accepted there."""
    paxos, ballot = candidate(1)
    ready = take(paxos, 2, Promise(ballot, 1, 2, 0, entries((3, LOW, b"three")), ()))
    assert ready.messages == [(2, Fetch(1))]
    assert paxos.role != "leader"
    ready = take(paxos, 2, Slots(1, 2, False, entries((1, LOW, b"one"), (2, LOW, b"two"))))
    assert paxos.role != "leader"
    ready = sync(paxos, ready)
    assert paxos.role == "leader"
    assert [entry.value for entry in ready.chosen] == [b"one", b"two"]
    assert proposed(ready, 2) == {3: b"three"}


def test_a_rotten_record_does_not_pass_for_nothing_accepted() -> None:
    """Who cannot read a slot does not count for it: another quorum must know it."""
    paxos, ballot = candidate(1)
    ready = take(paxos, 2, Promise(ballot, 1, 0, 0, (), (1,)))
    assert paxos.role != "leader"
    assert proposed(ready, 2) == {}
    ready = take(paxos, 3, Promise(ballot, 1, 0, 0, entries((1, LOW, b"kept")), ()))
    assert proposed(ready, 2) == {1: b"kept"}


# -- what is chosen ----------------------------------------------------------------------------------------


def leader(voters: tuple[int, ...] = THREE) -> tuple[Paxos, Ballot, PaxosReady]:
    """A leader whose opening batch in slot 1 is on its way, to its disk as well."""
    paxos, ballot = candidate(1, voters)
    for peer in voters[1 : len(voters) // 2 + 1]:
        take(paxos, peer, Promise(ballot, 1, 0, 0, (), ()))
    paxos.propose_opening(b"open", NOW)
    return paxos, ballot, paxos.ready()


def test_the_leader_counts_its_own_acceptance_once_it_is_durable() -> None:
    """It is an acceptor like the others; with one follower of two nothing is chosen before its own sync."""
    paxos, ballot, ready = leader()
    after = take(paxos, 2, Accepted(ballot, 1, 0, 0))
    assert after.chosen == []
    assert paxos.chosen_mark == 0
    assert [entry.value for entry in sync(paxos, ready).chosen] == [b"open"]


def test_a_quorum_without_the_leaders_own_disk_chooses_too() -> None:
    """A slow disk of the leader holds nothing up."""
    paxos, ballot, _ = leader()
    take(paxos, 2, Accepted(ballot, 1, 0, 0))
    assert [entry.value for entry in take(paxos, 3, Accepted(ballot, 1, 0, 0)).chosen] == [b"open"]


@pytest.mark.parametrize("voters", [THREE, FIVE, (1, 2, 3, 4)])
def test_nothing_is_chosen_without_a_quorum(voters: tuple[int, ...]) -> None:
    """Exactly at the majority, not one earlier; nobody counts twice, nor for another ballot or slot."""
    paxos, ballot, ready = leader(voters)
    sync(paxos, ready)
    for so_far, peer in enumerate(voters[1:], start=2):
        take(paxos, peer, Accepted(Ballot(ballot.round, 2), 1, 0, 0))
        take(paxos, peer, Accepted(ballot, 2, 0, 0))
        assert paxos.chosen_mark == 0
        take(paxos, peer, Accepted(ballot, 1, 0, 0))
        take(paxos, peer, Accepted(ballot, 1, 0, 0))
        if so_far > len(voters) // 2:
            assert paxos.chosen_mark == 1
            return
        assert paxos.chosen_mark == 0


def test_a_learner_chooses_nothing() -> None:
    """Three voters and two learners: the learners hold everything and count for nothing."""
    cell = Cell(3, learners=2)
    cell.elect(1)
    cell.disconnect(1, 2)
    cell.disconnect(1, 3)
    cell.propose(1, b"v")
    assert cell.values(1) == []
    cell.connect(1, 2)
    cell.settle()
    assert cell.values(1) == cell.values(4) == cell.values(5) == [b"v"]


def test_slots_are_handed_out_in_order_though_chosen_out_of_it() -> None:
    """A later slot may be chosen first; it is visible only after all before it."""
    paxos, ballot, ready = leader()
    sync(paxos, ready)
    take(paxos, 2, Accepted(ballot, 1, 0, 0))
    paxos.propose(b"two", NOW)
    paxos.propose(b"three", NOW)
    sync(paxos, paxos.ready())
    assert take(paxos, 2, Accepted(ballot, 3, 1, 0)).chosen == []
    assert [entry.slot for entry in take(paxos, 2, Accepted(ballot, 2, 1, 0)).chosen] == [2, 3]


def test_a_chosen_value_never_changes() -> None:
    """Lamport 2001 P2: chosen by 1 and 2 and told to nobody, it is what 3 proposes when it leads."""
    cell = Cell()
    cell.elect(1)
    cell.isolate(3)
    cell.up[1].propose(b"v", cell.now)
    cell.settle(drop=lambda a, b, message: isinstance(message, Chosen | Accepted))
    assert cell.values(2) == []
    cell.crash(1)
    cell.connect(2, 3)
    cell.elect(3)
    assert cell.values(3) == [b"v"]
    cell.start(1)
    cell.settle()
    assert cell.values(1) == cell.values(2) == cell.values(3) == [b"v"]


def test_what_was_not_chosen_gives_way_to_what_was() -> None:
    """A value that one disk has at a low ballot does not come back over one that a quorum chose above it."""
    cell = Cell()
    cell.elect(1)
    cell.isolate(1)
    slot = cell.up[1].propose(b"lost", cell.now)
    cell.settle()
    cell.lose = lambda a, b, message: a == 3 and isinstance(message, Chosen)  # 2 has accepted it, and knows no more
    cell.elect(3)
    assert [entry.slot for entry in cell.applied[3]] == [1, slot]
    assert [entry.slot for entry in cell.applied[2]] == [1]
    cell.crash(3)
    cell.crash(1)
    cell.start(1)
    assert cell.disks[1].entries[slot].value == b"lost"
    cell.elect(1)  # at a ballot that 2 refuses, which teaches it a higher one
    cell.elect(1)
    assert cell.applied[1][slot - 1].value == cell.applied[2][slot - 1].value == b"open"
    assert cell.disks[1].entries[slot].value == b"open"


def test_every_minority_may_fail_after_a_value_was_told() -> None:
    """Durability: what one replica has handed out survives the loss of any other, in memory."""
    for lost in THREE:
        cell = Cell()
        cell.elect(1)
        cell.propose(1, b"v")
        for i in THREE:
            cell.crash(i)
        kept = [i for i in THREE if i != lost]
        for i in kept:
            cell.start(i)
        cell.elect(kept[0])
        assert [cell.values(i) for i in kept] == [[b"v"], [b"v"]]


# -- learning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tell", [Chosen(Ballot(2, 3), 1), Heartbeat(Ballot(2, 3), 1, 1, True, False)], ids=["Chosen", "Heartbeat"]
)
def test_a_mark_counts_only_with_entries_of_its_own_ballot(tell: PaxosMessage) -> None:
    """What is held at another ballot may be what lost: it is fetched, written, and only then handed out."""
    paxos = replica()
    sync(paxos, take(paxos, 1, Accept(Ballot(1, 1), 1, 0, 0, b"lost")))
    ready = take(paxos, 3, tell)
    assert ready.chosen == []
    assert (3, Fetch(1)) in ready.messages
    ready = take(paxos, 3, Slots(1, 1, False, entries((1, (2, 3), b"won"))))
    assert ready.chosen == []
    assert [entry.value for entry in sync(paxos, ready).chosen] == [b"won"]


def test_the_mark_on_an_accept_counts_only_with_entries_of_its_own_ballot() -> None:
    """The same for the mark that rides on the next slot."""
    paxos = replica()
    sync(paxos, take(paxos, 1, Accept(Ballot(1, 1), 1, 0, 0, b"lost")))
    assert take(paxos, 3, Accept(Ballot(2, 3), 2, 1, 0, b"next")).chosen == []
    assert paxos.chosen_mark == 0


def test_a_mark_is_taken_at_once_for_entries_of_its_ballot() -> None:
    """No more than that is needed: what the leader of this ballot proposed is what it declares chosen."""
    paxos = replica()
    take(paxos, 3, Accept(Ballot(2, 3), 1, 0, 0, b"v"))
    assert [entry.value for entry in take(paxos, 3, Chosen(Ballot(2, 3), 1)).chosen] == [b"v"]


def test_a_mark_of_a_past_ballot_is_not_taken() -> None:
    """Its leader may be right, but this replica has promised not to listen to it."""
    paxos = replica()
    sync(paxos, take(paxos, 1, Accept(Ballot(1, 1), 1, 0, 0, b"v")))
    sync(paxos, take(paxos, 3, Prepare(Ballot(2, 3), 1)))
    ready = take(paxos, 1, Chosen(Ballot(1, 1), 1))
    assert (ready.chosen, answers(ready)) == ([], [Preempted(Ballot(2, 3))])


def test_a_mark_lasts_for_the_entry_that_comes_later() -> None:
    """The leader says a mark once; the entry that it spoke of may still be on its way."""
    paxos = replica()
    take(paxos, 3, Heartbeat(Ballot(2, 3), 1, 1, True, False))
    assert [entry.value for entry in take(paxos, 3, Accept(Ballot(2, 3), 1, 0, 0, b"v")).chosen] == [b"v"]


def test_what_lies_behind_a_gap_is_not_taken() -> None:
    """A peer that answers with later slots is not believed to have told all before them (ZOOKEEPER-4925)."""
    paxos = replica()
    sync(paxos, take(paxos, 3, Slots(1, 1, False, entries((1, (2, 3), b"one")))))
    ready = take(paxos, 3, Slots(3, 4, False, entries((3, (2, 3), b"three"), (4, (2, 3), b"four"))))
    assert (ready.writes, ready.chosen, paxos.chosen_mark) == ([], [], 1)
    ready = take(paxos, 1, Slots(2, 4, False, entries((2, (2, 3), b"two"), (3, (2, 3), b"three"))))
    assert [entry.value for entry in sync(paxos, ready).chosen] == [b"two", b"three"]


def test_what_the_log_has_behind_a_gap_is_not_told() -> None:
    """Who asks for slots from the log gets those before the gap, or is pointed to the snapshot; never those behind."""
    paxos = replica()
    chosen = entries(*((slot, (2, 3), b"v") for slot in range(1, 6)))
    sync(paxos, take(paxos, 3, Slots(1, 5, False, chosen)))
    for found, told in ((chosen[:2] + chosen[3:], chosen[:2]), (chosen[1:], ())):
        paxos._read_log(1, 1)
        (read,) = paxos.ready().log_reads
        paxos.log_read(read.id, found, NOW)
        assert paxos.ready().messages == [(1, Slots(1, 5, not told, told))]


def test_fetched_entries_are_held_as_if_they_had_been_accepted() -> None:
    """What is held at 5.3 must be reported to whoever asks for promises: so no lower ballot is promised any more."""
    paxos = replica()
    ready = take(paxos, 3, Slots(1, 1, False, entries((1, (5, 3), b"v"))))
    assert [write.promised for write in ready.writes] == [Ballot(5, 3)]
    sync(paxos, ready)
    assert answers(take(paxos, 1, Prepare(Ballot(4, 1), 1))) == [Preempted(Ballot(5, 3))]


# -- reads -------------------------------------------------------------------------------------------------


def test_a_read_of_the_leader_waits_for_a_quorum_that_answers_after_the_ask() -> None:
    """Read-index: an answer to what was sent before the ask proves nothing, however late it comes."""
    cell = Cell(5)
    one = cell.elect(1)
    cell.advance(one.next_deadline() - cell.now - 1)
    cell.now += 1
    one.tick(cell.now)
    for i in FIVE:
        cell.drain(i)
    while cell.deliver(where=lambda a, b, message: isinstance(message, Heartbeat)):
        pass
    for i in FIVE:
        cell.drain(i)
    ask = one.ask(cell.now)
    cell.drain(1)
    for peer in (2, 3, 4, 5):
        assert cell.deliver(where=lambda a, b, message, peer=peer: a == peer and isinstance(message, HeartbeatAck))
        cell.drain(1)
    assert cell.grants[1] == {}
    for peer, granted in ((2, False), (3, True)):
        assert cell.deliver(where=lambda a, b, message, peer=peer: b == peer and isinstance(message, Heartbeat))
        cell.drain(peer)
        assert cell.deliver(where=lambda a, b, message, peer=peer: a == peer and isinstance(message, HeartbeatAck))
        cell.drain(1)
        assert (ask in cell.grants[1]) is granted


def test_a_read_at_a_follower_of_three_takes_one_round_trip() -> None:
    """The ask carries what its sender has promised: with the leader itself that is a quorum."""
    cell = Cell()
    cell.elect(1)
    cell.forget()
    cell.up[2].ask(cell.now)
    cell.settle()
    assert [type(message) for _, _, message in cell.sent] == [ReadAsk, ReadGrant]
    assert cell.grants[2] == {cell.up[2]._asks._last: cell.up[1].chosen_mark}


def test_a_read_at_a_follower_of_five_needs_one_more() -> None:
    """Leader and asker are two of five: nothing is granted before a third has answered."""
    cell = Cell(5)
    cell.elect(1)
    cell.cut = {(i, 1) for i in (3, 4, 5)}
    cell.up[2].ask(cell.now)
    cell.settle()
    assert cell.grants[2] == {}
    cell.cut.discard((3, 1))
    cell.until(lambda: bool(cell.grants[2]), SECOND)


@pytest.mark.parametrize("counts", [False, True])
def test_an_ask_that_is_no_evidence_needs_another_voter(counts: bool) -> None:
    """Who abstains, cannot read a slot, or is no voter confirms nothing by asking."""
    paxos, ballot, ready = leader()
    sync(paxos, ready)
    take(paxos, 2, Accepted(ballot, 1, 0, 0))
    ready = take(paxos, 3, ReadAsk(ballot, 77, counts))
    assert ((3, ReadGrant(77, 1)) in ready.messages) is counts


def test_an_ask_under_another_ballot_is_no_evidence() -> None:
    """Lower: the asker has not promised this ballot. Higher: this leader leads no more."""
    paxos, ballot, ready = leader()
    sync(paxos, ready)
    take(paxos, 2, Accepted(ballot, 1, 0, 0))
    assert not [m for m in answers(take(paxos, 3, ReadAsk(Ballot(0, 0), 77, True))) if isinstance(m, ReadGrant)]
    assert answers(take(paxos, 2, ReadAsk(Ballot(9, 3), 78, True))) == []
    assert paxos.role != "leader"


def test_a_leader_grants_nothing_before_its_opening_slot_is_applied() -> None:
    """Until then it may not know everything that was chosen before it."""
    paxos, ballot, ready = leader()
    assert answers(take(paxos, 2, ReadAsk(ballot, 77, True))) == []
    sync(paxos, ready)
    ready = take(paxos, 3, Accepted(ballot, 1, 0, 0))
    assert (2, ReadGrant(77, 1)) in ready.messages


def test_the_answer_to_an_earlier_reign_confirms_nothing() -> None:
    """Numbers of confirm rounds begin anew with each ballot: an old answer's large number means nothing here."""
    paxos, ballot, ready = leader(FIVE)
    sync(paxos, ready)
    for peer in (2, 3):
        take(paxos, peer, Accepted(ballot, 1, 0, 0))
    paxos.ask(NOW)
    assert paxos.ready().grants == []
    earlier = Ballot(ballot.round - 1, 1)
    for peer in (2, 3, 4, 5):
        assert take(paxos, peer, HeartbeatAck(earlier, 1_000_000, 1, True)).grants == []
    latest = paxos._reign.confirmations.seq
    assert take(paxos, 2, HeartbeatAck(ballot, latest, 1, True)).grants == []
    assert len(take(paxos, 3, HeartbeatAck(ballot, latest, 1, True)).grants) == 1


def test_a_grant_of_an_earlier_life_covers_no_read_of_this_one() -> None:
    """The number of an ask is drawn with chance: what was asked before a restart is not answered after it."""
    cell = Cell()
    cell.elect(1)
    before = cell.up[2].ask(cell.now)
    cell.crash(2)
    cell.start(2)
    cell.settle()
    cell.cut = {(1, 2), (2, 1)}
    now = cell.up[2].ask(cell.now)
    assert now != before
    cell.up[2].step(1, ReadGrant(before + (1 << 20), 1), cell.now)
    assert cell.up[2].ready().grants == []


def test_a_deposed_leader_grants_no_read() -> None:
    """It still believes that it leads; the others have chosen something that its reader would miss."""
    cell = Cell()
    cell.elect(1)
    cell.propose(1, b"old")
    cell.silence(1)
    cell.until(cell.leads(2, 3), 2 * SECOND)
    (new,) = [i for i in cell.serving() if i != 1]
    cell.propose(new, b"new")
    assert cell.up[1].role == "leader"
    cell.up[1].ask(cell.now)
    cell.settle()
    assert cell.grants[1] == {}
    cell.wake(1)
    cell.until(lambda: bool(cell.grants[1]), 2 * SECOND)
    assert max(cell.grants[1].values()) >= next(e.slot for e in cell.applied[new] if e.value == b"new")


def test_a_follower_that_has_promised_another_gets_no_grant_of_the_deposed() -> None:
    """The two quorums share a voter, and that voter's ask is the no."""
    cell = Cell()
    cell.elect(1)
    cell.disconnect(1, 3)
    cell.cut = {(2, 1)}  # its refusals are lost: 1 learns nothing of 3
    cell.elect(3)
    assert cell.up[1].role == "leader"
    cell.cut = {(2, 3), (3, 2)}
    cell.up[1].step(2, ReadAsk(cell.up[2].ballot, 5, True), cell.now)
    assert not [m for _, m in cell.up[1].ready().messages if isinstance(m, ReadGrant)]
    assert cell.up[1].role != "leader"


# -- elections ---------------------------------------------------------------------------------------------


def test_a_hand_over_takes_no_time_and_loses_nothing() -> None:
    """A leader that goes names its heir, who asks nobody whether the leader is gone."""
    cell = Cell()
    cell.elect(1)
    cell.propose(1, b"v")
    cell.up[1].hand_over(cell.now)
    assert not cell.up[1].can_propose
    began = cell.now
    cell.settle()
    assert cell.now == began
    (heir,) = cell.serving()
    assert heir != 1
    cell.propose(heir, b"w")
    assert [cell.values(i) for i in THREE] == [[b"v", b"w"]] * 3


def test_a_hand_over_waits_for_what_is_open() -> None:
    """An heir named too early would have to propose it again."""
    cell = Cell()
    cell.elect(1)
    cell.cut = {(2, 1), (3, 1)}
    cell.propose(1, b"v")
    cell.up[1].hand_over(cell.now)
    cell.settle()
    assert cell.messages(TakeOver) == []
    cell.cut.clear()
    cell.until(cell.leads(2, 3), SECOND)
    assert cell.values(1) == [b"v"]


def test_a_hand_over_that_nobody_takes_up_ends() -> None:
    """Better this leader than none: after two election timeouts it proposes again."""
    cell = Cell()
    one = cell.elect(1)
    ballot = one.ballot
    cell.lose = lambda a, b, message: isinstance(message, TakeOver)
    one.hand_over(cell.now)
    cell.settle()
    assert not one.can_propose
    took = cell.until(lambda: one.can_propose, 3 * SECOND)
    assert took <= 2 * cell.options.election_timeout + cell.options.heartbeat
    assert {to for _, to, m in cell.sent if isinstance(m, TakeOver)} == {2, 3}, "each is asked once the other is silent"
    cell.propose(1, b"v")
    assert cell.values(3) == [b"v"]
    assert one.ballot == ballot


def test_a_take_over_of_a_past_ballot_is_too_late() -> None:
    """The hand-over of a leader that was replaced meanwhile must not unseat its successor."""
    cell = Cell()
    past = cell.elect(1).ballot
    cell.elect(3)
    ballot = cell.up[3].ballot
    cell.up[2].step(1, TakeOver(past), cell.now)
    cell.settle()
    assert cell.up[3].role == "leader"
    assert {cell.up[i].ballot for i in THREE} == {ballot}


def steady(cell: Cell, ballot: Ballot, leader: int = 1) -> bool:
    return cell.up[leader].role == "leader" and {cell.up[i].ballot for i in cell.voters} == {ballot}


@pytest.mark.parametrize("how", ["disconnected", "silent", "deaf"])
def test_a_replica_that_comes_back_disturbs_nobody(how: str) -> None:
    """Ongaro 2014 s9.6: a partitioned replica raises no ballot, so that its return deposes no healthy leader."""
    cell = Cell()
    ballot = cell.elect(1).ballot
    cell.forget()
    if how == "disconnected":
        cell.isolate(3)
    elif how == "silent":
        cell.silence(3)
    else:
        cell.cut = {(1, 3), (2, 3)}
    cell.advance(10 * SECOND)
    assert steady(cell, ballot)
    assert cell.messages(Prepare) == []
    assert how == "disconnected" or cell.messages(Probe, 3)
    cell.cut.clear()
    if how == "disconnected":
        cell.connect(1, 3)
        cell.connect(2, 3)
    cell.advance(3 * SECOND)
    assert steady(cell, ballot)
    assert cell.messages(Prepare) == []
    cell.propose(1, b"v")
    assert cell.values(3) == [b"v"]


def test_a_replica_that_hears_only_a_follower_disturbs_nobody() -> None:
    """The follower in the middle still hears the leader, and says so."""
    cell = Cell()
    ballot = cell.elect(1).ballot
    cell.only((1, 2), (2, 3))
    cell.advance(10 * SECOND)
    assert steady(cell, ballot)
    assert {m.gone for m in cell.messages(ProbeAnswer, 2, 3)} == {False}


def test_a_leader_without_its_quorum_is_replaced_though_it_is_heard() -> None:
    """Ng, Haridi & Carbone 2023: who is connected to a quorum takes over, even if it still hears the old leader."""
    cell = Cell(5)
    cell.elect(1)
    cell.only((1, 3), (2, 3), (3, 4), (3, 5))
    took = cell.until(cell.leads(3), 4 * SECOND)
    assert took < UNCONNECTED_TIMEOUTS_MAX * cell.options.election_timeout, "it had not stood down by itself"
    cell.advance(3 * SECOND)
    ballot = cell.up[3].ballot
    cell.advance(5 * SECOND)
    assert steady(cell, ballot, 3)
    cell.propose(3, b"v")
    assert [cell.values(i) for i in FIVE] == [[b"v"]] * 5


def test_nobody_is_elected_without_a_quorum_and_somebody_once_it_is_back() -> None:
    """Alone for a long time, a replica probes and waits: it has raised no ballot that others must outbid."""
    cell = Cell()
    ballot = cell.elect(1).ballot
    cell.only()
    cell.advance(20 * SECOND)
    assert cell.leaders() == []
    assert {cell.up[i].ballot for i in THREE} == {ballot}
    cell.only((1, 2), (2, 3), (1, 3))
    cell.until(cell.leads(), SECOND)


def test_a_killed_leader_is_replaced_within_200_ms_and_a_silent_one_within_a_second() -> None:
    """A closed connection is noticed at once; silence takes an election timeout and up to half of one more."""
    cell = Cell()
    cell.elect(1)
    cell.crash(1)
    cell.until(cell.leads(2, 3), 200 * MILLISECOND)
    cell = Cell()
    cell.elect(1)
    cell.silence(1)
    cell.until(cell.leads(2, 3), SECOND)


def test_a_leader_whose_disk_hangs_gives_way() -> None:
    """Its heartbeats must not keep it in office while it can promise nothing any more."""
    cell = Cell()
    cell.elect(1)
    cell.held.add(1)
    cell.propose(1, b"v")
    assert cell.values(1) == [b"v"], "the others are a quorum"
    cell.until(cell.leads(2, 3), 3 * SECOND)
    assert cell.up[1].role != "leader"


# -- what the host is handed -------------------------------------------------------------------------------


def test_a_turn_without_news_hands_out_nothing_and_that_stays_empty() -> None:
    """Such turns share one object: whatever comes later is in another one."""
    paxos = replica(me=2)
    quiet = paxos.ready()
    assert quiet.empty
    news = take(paxos, 1, Heartbeat(Ballot(1, 1), 0, 1, True, False))
    assert [type(message) for _, message in news.messages] == [HeartbeatAck]
    assert not news.empty
    assert paxos.ready() is quiet
    assert quiet.empty
    assert [type(message) for _, message in news.messages] == [HeartbeatAck], "what was handed out stays as it was"


def test_who_was_away_while_a_slot_was_chosen_hears_of_it_as_it_comes_back() -> None:
    """The mark is told once to each that is there; who is met later is told by the first heartbeat."""
    cell = Cell()
    cell.elect(1)
    cell.disconnect(1, 3)
    cell.propose(1, b"v")
    assert cell.values(3) == []
    cell.connect(1, 3)
    cell.settle()
    assert cell.values(3) == [b"v"]
