"""Which voters decide a slot: those of the configuration that all slots before it have made.

Ref: Lamport 2001 s3 (the members are part of the state, with alpha = 1); docs/decisions/changing-the-members.md.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
from paxos_cell import Cell, Disk, configuration_of

from synod.base import MILLISECOND, SECOND, Ballot, Change, Configuration, Entry, InvariantViolation, is_change
from synod.paxos import Accept, Accepted, Chosen, Fetch, Heartbeat, HeartbeatAck, PaxosOptions, Prepare, Promise

FOUR_IN_FLIGHT = PaxosOptions(in_flight_slots_max=4)


def grown(size: int = 3) -> Cell:
    """A cell with one learner, which the leader 1 has promoted, with everything delivered."""
    cell = Cell(size, learners=1)
    leader = cell.elect(1)
    cell.change(1, leader.configuration.promoted(size + 1, 0))
    cell.settle()
    return cell


def kinds(cell: Cell, i: int) -> list[str]:
    """What a replica has applied, in short."""
    return ["change" if is_change(e.value) else e.value.decode() for e in cell.applied[i]]


def test_after_a_change_the_leader_has_its_ballot_promised_anew_before_the_next_slot() -> None:
    """A ballot that the old voters promised decides nothing of what comes after."""
    cell = Cell(3, learners=1)
    old = cell.elect(1).ballot
    cell.change(1, cell.up[1].configuration.promoted(4, 0))
    cell.settle()
    leader = cell.up[1]
    assert leader.role == "leader"
    assert leader.ballot > old
    assert leader.voters == (1, 2, 3, 4)
    assert [peer for _, peer, m in cell.sent if isinstance(m, Prepare) and m.ballot == leader.ballot] == [2, 3, 4]
    cell.propose(1, b"after")
    assert all(kinds(cell, i) == ["open", "change", "open", "after"] for i in (1, 2, 3, 4))
    accepts = [(m.slot, m.ballot) for _, _, m in cell.sent if isinstance(m, Accept)]
    assert all(ballot == (old if slot <= 2 else leader.ballot) for slot, ballot in accepts)


def test_nothing_is_proposed_behind_a_change_that_is_not_chosen() -> None:
    """Who decides that slot is not known yet."""
    cell = Cell(3, learners=1, options=FOUR_IN_FLIGHT)
    leader = cell.elect(1)
    cell.change(1, leader.configuration.promoted(4, 0))
    assert not leader.can_propose
    assert not leader.can_change
    with pytest.raises(InvariantViolation):
        leader.propose(b"behind", cell.now)


def test_a_change_waits_until_nothing_else_is_under_way() -> None:
    """It is alone: before it, everything is chosen."""
    cell = Cell(3, learners=1, options=FOUR_IN_FLIGHT)
    leader = cell.elect(1)
    leader.propose(b"first", cell.now)
    assert leader.can_propose
    assert not leader.can_change
    cell.settle()
    assert leader.can_change


def test_a_learner_is_not_counted() -> None:
    """It accepts everything, confirms everything, and is no quorum with anybody."""
    cell = Cell(3, learners=2)
    leader = cell.elect(1)
    for i in (2, 3):
        cell.crash(i)
    leader.propose(b"alone", cell.now)
    cell.settle()
    assert cell.messages(Accepted, 4, 1)
    assert cell.values(1) == []
    ask = leader.ask(cell.now)
    cell.settle()
    assert cell.messages(HeartbeatAck, 4, 1)
    assert ask not in cell.grants[1]


def test_the_promoted_one_counts_from_the_next_slot_on() -> None:
    """Four voters: the leader, one old voter and the new one are a quorum."""
    cell = grown()
    cell.crash(3)
    cell.propose(1, b"with the new one")
    assert cell.values(2)[-1:] == [b"with the new one"]
    cell.crash(4)
    cell.up[1].propose(b"without", cell.now)
    cell.settle()
    assert cell.values(1)[-1:] == [b"with the new one"], "two of four are no quorum"


def test_who_was_removed_is_not_counted_any_more() -> None:
    """Three become two: the leader needs the other one, whatever the removed one says."""
    cell = Cell(3)
    cell.change(1, cell.elect(1).configuration.removed(3))
    cell.settle()
    assert cell.up[1].voters == (1, 2)
    cell.crash(2)
    cell.up[1].propose(b"alone", cell.now)
    cell.settle()
    assert not any(entry.value == b"alone" for entry in cell.applied[1])


def test_a_removed_replica_learns_it_from_the_leader_that_lets_it_go() -> None:
    """The mark is told to the old members as well; after that it neither promises nor stands."""
    cell = Cell(3)
    cell.change(1, cell.elect(1).configuration.removed(3))
    cell.settle()
    assert not cell.up[3].votes
    first = next(at for at, (_, _, m) in enumerate(cell.sent) if isinstance(m, Prepare) and m.from_slot == 3)
    before = [m for a, b, m in cell.sent[:first] if (a, b) == (1, 3) and isinstance(m, Chosen)]
    assert before
    assert before[-1].mark == 2, "it is told before anything else happens: its connection may end now"
    cell.forget()
    cell.crash(1)
    cell.advance(3 * SECOND)
    assert not cell.messages(Prepare, 3)
    assert not cell.messages(Promise, 3)


def test_a_removed_replica_knows_it_when_it_starts_again() -> None:
    """Its peers let it go for good: what it does not find on its disk nobody tells it."""
    cell = Cell(3)
    cell.change(1, cell.elect(1).configuration.removed(3))
    cell.settle(drop=lambda _, b, message: b == 3 and message.ballot.round > 1)
    cell.crash(3)
    cell.start(3, connect=False)
    assert not cell.up[3].votes
    assert cell.up[3].voters == (1, 2)


def test_a_candidate_proposes_again_no_further_than_the_first_change() -> None:
    """What was accepted behind it is for the new voters: phase 1 among the old ones says nothing of it."""
    cell = Cell(3, learners=1, connect=False)
    before = configuration_of((1, 2, 3), (4,))
    after = before.promoted(4, 0)
    change = Change(after, before.digest(), bytes(16)).encode()
    # 3 accepted the change and what came after it, and never heard that anything is chosen.
    cell.disks[3] = Disk(Ballot(6, 1), 0, {1: Entry(1, Ballot(5, 1), change), 2: Entry(2, Ballot(6, 1), b"behind")})
    for i in (1, 3):
        cell.crash(i)
    cell.start(3, connect=False)
    cell.only((2, 3), (3, 4))
    cell.elect(3)
    accepts = {(m.ballot.round, m.slot, m.value) for m in cell.messages(Accept, 3)}
    first = min(m.ballot.round for m in cell.messages(Prepare, 3))
    assert {slot for round_, slot, _ in accepts if round_ == first} == {1}
    assert (first + 1, 2, b"behind") in accepts
    assert all(kinds(cell, i) == ["change", "behind", "open"] for i in (2, 3, 4))


def stuck_change(size: int = 3) -> tuple[Cell, bytes]:
    """Leader 1 has proposed a promotion that reached nobody but 2, and died."""
    cell = Cell(size, learners=1)
    leader = cell.elect(1)
    cell.lose = lambda a, b, m: isinstance(m, Accepted) or (a == 1 and b != 2)
    value = cell.change(1, leader.configuration.promoted(size + 1, 0))
    cell.settle()
    cell.lose = lambda a, b, m: False
    cell.crash(1)
    return cell, value


def test_a_leader_that_proposes_a_change_again_asks_the_new_voters_next() -> None:
    """One ballot for the change, among the old voters; a higher one for what comes after."""
    cell, value = stuck_change()
    cell.forget()
    cell.until(cell.leads(2, 3, 4), 5 * SECOND)
    ballots = sorted({m.ballot for _, _, m in cell.sent if isinstance(m, Accept) and m.value == value})
    opened = {m.ballot for _, _, m in cell.sent if isinstance(m, Accept) and m.value == b"open"}
    assert ballots
    assert opened
    assert min(opened) > ballots[0], "nothing is opened in the ballot of the change"
    assert {cell.up[i].voters for i in (2, 3, 4)} == {(1, 2, 3, 4)}


def test_two_leaders_propose_two_changes_and_one_is_made() -> None:
    """The slot has one value, whoever proposed what; the other change does not fit any more."""
    cell = Cell(3, learners=2)
    first = cell.elect(1)
    cell.isolate(1)
    one = cell.change(1, first.configuration.promoted(4, 0))
    cell.settle()
    second = cell.elect(2)
    two = cell.change(2, second.configuration.promoted(5, 0))
    cell.settle()
    assert second.voters == (1, 2, 3, 5)
    for i in (2, 3, 4, 5):
        cell.connect(1, i)
    cell.advance(2 * SECOND)
    for i in cell.ids:
        made = [entry.value for entry in cell.applied[i] if is_change(entry.value)]
        assert made == [two] != [one]
        assert cell.up[i].voters == (1, 2, 3, 5)


CHANGES: dict[str, Callable[[Configuration], Configuration]] = {
    "add": lambda before: before.promoted(4, 0),
    "remove": lambda before: before.removed(3),
    "remove the first leader": lambda before: before.removed(1),
}


@pytest.mark.parametrize("reached", ["nobody", "another", "a quorum"])
@pytest.mark.parametrize(("one", "two"), [("add", "remove"), ("remove", "add"), ("remove", "remove the first leader")])
def test_of_two_changes_by_two_leaders_one_is_made_and_its_quorums_meet_those_before(
    one: str, two: str, reached: str
) -> None:
    """Each alone would be safe; both would give quorums that do not meet (Ongaro's note of 2015)."""
    cell = Cell(3, learners=1)
    before = cell.elect(1).configuration
    cell.lose = lambda a, b, m: (
        (isinstance(m, Accept) and (b != 3 or reached == "nobody"))
        or (isinstance(m, Accepted | Chosen | Heartbeat) and reached == "another")
    )
    cell.change(1, CHANGES[one](before))
    cell.settle()
    made_by_1 = cell.up[1].configuration != before
    assert made_by_1 == (reached == "a quorum")
    cell.isolate(1)
    cell.lose = lambda a, b, m: False
    cell.elect(2)
    if cell.up[2].configuration == before:
        cell.change(2, CHANGES[two](before))
        cell.settle()
    for i in (2, 3, 4):
        cell.connect(1, i)
    cell.advance(2 * SECOND)
    after = cell.up[2].configuration
    made = {entry.value for i in cell.ids for entry in cell.applied[i] if is_change(entry.value)}
    assert len(made) == 1
    assert after == CHANGES[two if reached == "nobody" else one](before)
    assert {cell.up[i].configuration for i in after.voters} == {after}
    for old in combinations(before.voters, len(before.voters) // 2 + 1):
        for new in combinations(after.voters, len(after.voters) // 2 + 1):
            assert set(old) & set(new)


def test_a_change_that_nobody_else_accepted_may_be_lost() -> None:
    """As any value: its slot takes another one, and the members stay as they are."""
    cell = Cell(3, learners=1)
    leader = cell.elect(1)
    cell.isolate(1)
    cell.change(1, leader.configuration.promoted(4, 0))
    cell.settle()
    cell.elect(2)
    cell.propose(2, b"instead")
    for i in (2, 3, 4):
        cell.connect(1, i)
    cell.advance(SECOND)
    assert {cell.up[i].voters for i in cell.ids} == {(1, 2, 3)}
    assert cell.values(1) == [b"instead"]


def test_a_leader_that_missed_the_change_confirms_no_read() -> None:
    """To leave the old voters behind, a quorum of them has promised a higher ballot; one of any quorum says no."""
    cell = Cell(3, learners=2)
    old = cell.elect(1)
    # The old leader is cut off; the others change the members twice, so that two new ones and 3 are a quorum.
    cell.silence(1)
    new = cell.elect(3)
    cell.change(3, new.configuration.promoted(4, 0))
    cell.settle()
    cell.change(3, new.configuration.promoted(5, 0))
    cell.settle()
    assert new.voters == (1, 2, 3, 4, 5)
    assert new.serving
    cell.propose(3, b"newer")
    ask = old.ask(cell.now)
    cell.cut.clear()
    cell.settle()
    granted = cell.grants[1].get(ask)
    assert granted is None or granted >= cell.up[3].chosen_mark


def test_a_learner_that_missed_its_promotion_is_told_when_it_is_asked_for_its_vote() -> None:
    """Without it there is no quorum of the new voters: it must not wait for a leader."""
    cell = Cell(3, learners=1)
    leader = cell.elect(1)
    cell.lose = lambda a, b, m: 4 in (a, b)
    cell.change(1, leader.configuration.promoted(4, 0))
    cell.settle(drop=None)
    cell.lose = lambda a, b, m: False
    cell.crash(2)
    cell.forget()
    cell.until(cell.leads(1, 3), 5 * SECOND)
    assert cell.messages(Fetch, 4)
    assert cell.up[4].votes
    cell.advance(100 * MILLISECOND)
    cell.propose(cell.serving()[0], b"three of four")
    assert cell.values(4)[-1:] == [b"three of four"]


def test_a_leader_that_its_own_change_removes_hands_over() -> None:
    """Whoever proposed it is gone; the one that finishes the change leads no more, and names an heir."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.lose = lambda a, b, m: isinstance(m, Accepted) or b == 3
    cell.change(1, leader.configuration.removed(2))
    cell.settle()
    cell.lose = lambda a, b, m: False
    cell.isolate(1)
    cell.elect(2)
    assert cell.up[2].role != "leader"
    assert not cell.up[2].votes
    cell.connect(1, 3)
    cell.connect(1, 2)
    cell.until(cell.leads(1, 3), 5 * SECOND)
    assert {cell.up[i].voters for i in (1, 2, 3)} == {(1, 3)}


def test_the_members_are_known_again_after_a_restart() -> None:
    """From the log, up to the mark that it knows; never from a config file."""
    cell = grown()
    cell.propose(1, b"more")
    for i in cell.ids:
        cell.crash(i)
    again = cell.start(4)
    assert again.voters == (1, 2, 3, 4)
    assert again.votes


def test_a_change_that_cannot_be_read_is_not_passed() -> None:
    """Who votes behind it is not known: nothing there is called chosen, and each replica says why it must stop."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose(b"\xfe\x63 of a later version", cell.now)
    cell.settle()
    assert {i: cell.up[i].unreadable is not None for i in cell.up} == {1: True, 2: True, 3: True}
    assert "slot 2" in str(leader.unreadable)
    assert all(kinds(cell, i) == ["open", "change"] for i in cell.up)
    assert not leader.can_propose
    cell.crash(2)
    again = cell.start(2)
    assert again.unreadable is not None or again.chosen_mark == 1


def test_another_disk_than_the_promoted_one_does_not_vote() -> None:
    """The same id and incarnation, wiped after it was promoted: it may have given its word to anybody."""
    cell = Cell(3, learners=1)
    leader = cell.elect(1)
    cell.change(1, leader.configuration.promoted(4, 99))  # this replica's disk is 0
    cell.settle()
    assert cell.up[4].configuration.voters == (1, 2, 3, 4)
    assert not cell.up[4].votes
    assert not cell.messages(Promise, 4)
