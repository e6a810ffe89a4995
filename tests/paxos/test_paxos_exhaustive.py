"""Agreement and durability in every state that small cells can reach; see `paxos_explorer` for what may happen.

A simulator tries some of the histories of a large world; here are all the histories of small ones. That the scopes
are not empty is asserted as well: how many states there are, and how many different outcomes.
"""

from __future__ import annotations

import pytest
from paxos_cell import configuration_of
from paxos_explorer import ALL_VOTE, Explorer, Scope

import synod.paxos._gate as gate_module
import synod.paxos._leader as leader_module
from synod.paxos import Chosen, Fetch, Heartbeat, HeartbeatAck, Paxos, Preempted, Slots

BEATS = (Heartbeat, HeartbeatAck, Preempted)
LEARNING = (Fetch, Slots, Chosen)

TWO_AND_A_LEARNER = configuration_of((1, 2), (3,))
PROMOTED = TWO_AND_A_LEARNER.promoted(3, 0)

SCOPES = {
    "one leader, a wire in no order": (Scope(ordered=False, stands=1), 20_000, 3),
    "two leaders, every message": (Scope(), 200_000, 8),
    "two leaders, a wire in no order": (Scope(ordered=False, ignored=(*BEATS, *LEARNING)), 90_000, 8),
    "three ballots": (Scope(stands=3, ignored=(*BEATS, *LEARNING)), 85_000, 16),
    "two slots": (Scope(proposals=1, ignored=BEATS), 120_000, 18),
    "a connection breaks": (Scope(resets=1, ignored=BEATS), 160_000, 8),
    "one leader, anybody crashes, two slots, slow disks": (
        Scope(stands=1, proposals=1, crashes=1, late=(1, 2, 3)),
        65_000,
        5,
    ),
    "two leaders, the replica between them crashes, its disk is slow": (
        Scope(crashes=1, crashing=(2,), late=(2,), ignored=BEATS),
        170_000,
        8,
    ),
    "a leader crashes and stands again, its disk is slow": (
        Scope(standing=(1,), crashes=1, crashing=(1,), late=(1,), ignored=BEATS),
        9_000,
        4,
    ),
    "two leaders promote a learner": (
        Scope(members=TWO_AND_A_LEARNER, after=PROMOTED, changes=2, standing=(1, 2), ignored=BEATS),
        75_000,
        12,
    ),
    "two leaders remove a voter": (Scope(after=ALL_VOTE.removed(3), changes=2, ignored=BEATS), 200_000, 16),
    "a leader is removed by what it leaves behind": (
        Scope(after=ALL_VOTE.removed(1), changes=1, ignored=(*BEATS, Fetch, Slots)),
        70_000,
        16,
    ),
    "two leaders, a read": (Scope(asks=1, ignored=(Fetch, Slots, Chosen, Preempted)), 250_000, 8),
}
QUICK_STATES = 30_000

pytestmark = pytest.mark.skipif(not hasattr(Paxos.step, "__code__"), reason="compiled objects cannot be looked into")


@pytest.mark.timeout(900)  # the largest takes a minute on a quick machine, and three of them may share two slow cores
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if few < QUICK_STATES else pytest.mark.slow) for name, (_, few, _) in SCOPES.items()],
)
def test_in_every_state_there_is_one_value_per_slot_and_a_quorum_of_disks_has_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was handed out stays the only value of its slot; nothing is told before it is durable; reads are new."""
    scope, states_min, outcomes_min = SCOPES[name]
    explorer = Explorer(scope)
    states = explorer.explore()
    outcomes = {state.decided for state in explorer.parents}
    with capsys.disabled():
        print(f"\n{name}: {states} states of the cell, {len(explorer.frozen)} of a replica, {len(outcomes)} outcomes")
    assert states >= states_min
    assert len(outcomes) >= outcomes_min


def test_the_explorer_finds_two_values_in_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds nothing must be able to: with quorums of one, two leaders choose two values."""
    monkeypatch.setattr(leader_module, "is_quorum", lambda agreeing, voters: len(agreeing) >= 1)
    monkeypatch.setattr("synod.paxos._paxos.is_quorum", lambda agreeing, voters: len(agreeing) >= 1)
    with pytest.raises(AssertionError, match=r"lies on 1 disks|two values in one slot"):
        Explorer(Scope(ignored=BEATS)).explore()


def answers_that_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = gate_module.Gate
    waits = gate.after
    monkeypatch.setattr(gate, "after", lambda self, what: isinstance(what, gate_module.Send) or waits(self, what))


def test_the_explorer_finds_a_promise_that_is_told_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that overtakes its own write is seen, even if nothing comes of it."""
    answers_that_do_not_wait(monkeypatch)
    with pytest.raises(AssertionError, match="told before it is durable: Promise"):
        Explorer(Scope(late=(1, 2, 3), ignored=BEATS)).explore()


def test_the_explorer_tells_how_it_got_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad state without its history is of little use."""
    answers_that_do_not_wait(monkeypatch)
    with pytest.raises(AssertionError, match=r"1 stands\n1 syncs\n\(after: .*"):
        Explorer(Scope(standing=(1,), late=(1, 2, 3), ignored=BEATS)).explore()
