"""The judges of histories: each must catch what it is there for, and let go what is right."""

from __future__ import annotations

import itertools
import random

import pytest

from synod.sim import NEVER, Attempt, Holding, Seen, exclusive, explain, linearizable, watches_ordered, witnessed

ids = itertools.count(1)


def write(value: str, version: int, called: int, returned: int) -> Attempt:
    return Attempt(next(ids), 1, "write", value, version, 10 + version, 0, called, returned)


def unknown(value: str, called: int) -> Attempt:
    return Attempt(next(ids), 1, "write", value, -1, 0, 0, called, NEVER)


def read(value: str, version: int, called: int, returned: int) -> Attempt:
    return Attempt(next(ids), 2, "read", value, version, 10 + version, 0, called, returned)


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        ([], True),
        ([read("", 0, 1, 2)], True),
        ([write("a", 1, 1, 2), read("a", 1, 3, 4)], True),
        ([write("a", 1, 1, 2), read("", 0, 3, 4)], False),  # a lost write
        ([write("a", 1, 1, 4), read("", 0, 2, 3)], True),  # concurrent: before it
        ([write("a", 1, 1, 4), read("a", 1, 2, 3)], True),  # concurrent: after it
        ([unknown("a", 1), read("a", 1, 2, 3)], True),  # unknown, and happened
        ([unknown("a", 1), read("", 0, 5, 6)], True),  # unknown, and did not (yet)
        ([unknown("a", 1), read("a", 1, 2, 3), read("", 0, 4, 5)], False),  # cannot be taken back
        ([write("a", 1, 1, 2), write("b", 2, 3, 4), read("a", 1, 5, 6)], False),  # stale
        ([write("a", 1, 1, 10), write("b", 2, 1, 10), read("a", 1, 11, 12)], False),  # the other one came last
        ([write("a", 1, 1, 10), read("a", 1, 2, 3), read("", 0, 4, 5)], False),  # a read that saw it fixes it
        ([write("a", 1, 1, 2), write("b", 3, 3, 4)], False),  # a version that nobody made
        ([write("a", 1, 5, 6), read("a", 1, 2, 3)], False),  # from the future
    ],
)
def test_both_judges_of_registers_know_right_from_wrong(history: list[Attempt], verdict: bool) -> None:
    """Herlihy & Wing 1990: real time order, and each read returns the last write."""
    assert linearizable(history) is verdict
    assert (explain(history) is None) is verdict
    assert (witnessed(history) is None) is verdict


def obvious(history: list[Attempt]) -> bool:
    """The slow twin: try every order of every choice of unknown writes."""
    known = [a for a in history if not a.open]
    unknowns = [a for a in history if a.open]
    for count in range(len(unknowns) + 1):
        for chosen in itertools.combinations(unknowns, count):
            for order in itertools.permutations([*known, *chosen]):
                if any(
                    later.returned < earlier.called for at, earlier in enumerate(order) for later in order[at + 1 :]
                ):
                    continue
                version, value = 0, ""
                for a in order:
                    if a.kind == "write":
                        version, value = version + 1, a.value
                    if not a.open and (a.version, a.value) != (version, value):
                        break
                else:
                    return True
    return False


def test_the_search_agrees_with_its_slow_twin() -> None:
    """Small random histories, both verdicts."""
    rng = random.Random(5)
    verdicts = {True: 0, False: 0}
    for _ in range(600):
        history = []
        versions = 0
        for n in range(rng.randrange(1, 6)):
            called = rng.randrange(10)
            returned = called + rng.randrange(1, 8)
            if rng.random() < 0.5:
                versions += 1
                history.append(
                    write(str(n), versions, called, returned) if rng.random() < 0.7 else unknown(str(n), called)
                )
            else:
                value, version = rng.choice([("", 0), ("0", 1), ("1", 1), ("1", 2), ("2", 2)])
                history.append(read(value, version, called, returned))
        verdict = linearizable(history)
        assert verdict == obvious(history), history
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 50


def test_two_holders_at_once_are_found() -> None:
    """At most one client may believe that it holds a lock."""
    assert exclusive([Holding("l", 1, 5, 0, 10), Holding("l", 2, 6, 10, 20)]) is None
    assert "was held by client 1" in (exclusive([Holding("l", 1, 5, 0, 11), Holding("l", 2, 6, 10, 20)]) or "")
    assert exclusive([Holding("l", 1, 5, 0, 11), Holding("m", 2, 6, 10, 20)]) is None


def test_a_token_that_does_not_rise_is_found() -> None:
    """Fencing tokens rise with every holder."""
    assert "token" in (exclusive([Holding("l", 1, 6, 0, 10), Holding("l", 2, 6, 10, 20)]) or "")
    assert "token" in (exclusive([Holding("l", 1, 6, 0, 10), Holding("l", 1, 5, 10, 20)]) or "")


def test_watch_events_out_of_order_are_found() -> None:
    """An event comes before the reply that shows the change, once, and only for an armed watch."""
    armed = Seen("armed", "/a", 5)
    assert watches_ordered([armed, Seen("event", "/a", 6), Seen("reply", "/a", 6)]) is None
    assert "before the event" in (watches_ordered([armed, Seen("reply", "/a", 6)]) or "")
    assert "twice" in (watches_ordered([armed, Seen("event", "/a", 6), Seen("event", "/a", 7)]) or "")
    assert watches_ordered([armed, Seen("reply", "/a", 5)]) is None
