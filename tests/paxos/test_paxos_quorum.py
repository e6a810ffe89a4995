"""The arithmetic of agreement against a twin that enumerates subsets and cannot be wrong."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synod.paxos._quorum import is_quorum, quorum_mark, quorum_size, verdict

VOTERS = st.sets(st.integers(1, 9), min_size=1, max_size=7).map(lambda ids: tuple(sorted(ids)))
REPLICAS = st.sets(st.integers(1, 12))


def twin_is_quorum(agreeing: set[int], voters: tuple[int, ...]) -> bool:
    """A set is a quorum when no quorum could stand among the others: count those outside, by hand."""
    inside = [voter for voter in voters if voter in agreeing]
    outside = [voter for voter in voters if voter not in agreeing]
    return len(inside) > len(outside)


def twin_mark(reached: dict[int, int], voters: tuple[int, ...]) -> int:
    """The best of the worst: over every quorum, the mark that all of it has reached."""
    quorums = [q for n in range(1, len(voters) + 1) for q in combinations(voters, n) if twin_is_quorum(set(q), voters)]
    return max(min(reached.get(voter, 0) for voter in quorum) for quorum in quorums)


@given(VOTERS, REPLICAS)
def test_a_quorum_is_more_than_half_of_the_voters(voters: tuple[int, ...], agreeing: set[int]) -> None:
    """Only voters count, each once."""
    assert is_quorum(agreeing, voters) == twin_is_quorum(agreeing, voters)


@pytest.mark.parametrize("size", range(1, 8))
def test_any_two_quorums_share_a_voter_and_smaller_sets_need_not(size: int) -> None:
    """Lamport 1998 s2.1 B2: any two quorums have a member in common. And no smaller set would do."""
    voters = tuple(range(size))
    need = quorum_size(size)
    assert all(set(a) & set(b) for a in combinations(voters, need) for b in combinations(voters, need))
    if 2 * (need - 1) <= size and need > 1:
        assert any(not set(a) & set(b) for a in combinations(voters, need - 1) for b in combinations(voters, need - 1))


@given(VOTERS, REPLICAS, REPLICAS)
def test_a_verdict_is_final_exactly_when_no_further_answer_can_change_it(
    voters: tuple[int, ...], yes: set[int], no: set[int]
) -> None:
    """Won: a quorum said yes. Lost: even if all the others said yes there would be none."""
    no -= yes
    undecided = [voter for voter in voters if voter not in yes and voter not in no]
    futures = [
        twin_is_quorum(yes | set(more), voters)
        for n in range(len(undecided) + 1)
        for more in combinations(undecided, n)
    ]
    expected = "won" if all(futures) else "lost" if not any(futures) else "pending"
    assert verdict(yes, no, voters) == expected


@given(VOTERS, st.dictionaries(st.integers(1, 12), st.integers(0, 20)))
def test_the_mark_of_a_quorum_is_the_best_that_all_of_some_quorum_reached(
    voters: tuple[int, ...], reached: dict[int, int]
) -> None:
    """Who is not heard of stands at 0, and who is no voter is not asked."""
    assert quorum_mark(reached, voters) == twin_mark(reached, voters)


@pytest.mark.parametrize(("voters", "faults"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3)])
def test_a_cell_survives_as_many_failures_as_the_documents_say(voters: int, faults: int) -> None:
    """n replicas survive floor((n - 1) / 2) failures; an even one more adds nothing."""
    assert voters - quorum_size(voters) == faults
