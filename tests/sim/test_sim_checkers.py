"""The judges themselves: each must catch what it is there for, and let go what is right."""

from __future__ import annotations

import itertools
import random

import pytest

from synod.sim import NEVER, Holding, Operation, Seen, exclusive, linearizable, watches_ordered


def write(value: str, called: int, returned: int = NEVER) -> Operation:
    return Operation(1, "write", value.encode(), called, returned)


def read(value: str | None, called: int, returned: int) -> Operation:
    return Operation(2, "read", None if value is None else value.encode(), called, returned)


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        ([], True),
        ([read(None, 1, 2)], True),
        ([write("a", 1, 2), read("a", 3, 4)], True),
        ([write("a", 1, 2), read(None, 3, 4)], False),  # a lost write
        ([write("a", 1, 4), read(None, 2, 3)], True),  # concurrent: before it
        ([write("a", 1, 4), read("a", 2, 3)], True),  # concurrent: after it
        ([write("a", 1), read("a", 2, 3)], True),  # unknown, and happened
        ([write("a", 1), read(None, 5, 6)], True),  # unknown, and did not (yet)
        ([write("a", 1), read("a", 2, 3), read(None, 4, 5)], False),  # cannot be taken back
        ([write("a", 1, 2), write("b", 3, 4), read("a", 5, 6)], False),  # stale
        ([write("a", 1, 10), write("b", 1, 10), read("a", 11, 12), read("b", 13, 14)], False),  # one came last
        ([write("a", 1, 10), read("a", 2, 3), read(None, 4, 5)], False),  # a read that saw it fixes it
    ],
)
def test_linearizable_knows_right_from_wrong(history: list[Operation], verdict: bool) -> None:
    """Herlihy & Wing 1990: real time order, and each read returns the last write."""
    assert linearizable(history) is verdict


def obvious(history: list[Operation]) -> bool:
    """The slow twin: try every order of every choice of unknown writes."""
    known = [op for op in history if op.returned < NEVER]
    unknown = [op for op in history if op.returned == NEVER]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *chosen]):
                if any(
                    later.returned < earlier.called for at, earlier in enumerate(order) for later in order[at + 1 :]
                ):
                    continue
                state = None
                for op in order:
                    if op.kind == "write":
                        state = op.value
                    elif op.value != state:
                        break
                else:
                    return True
    return False


def test_linearizable_agrees_with_its_slow_twin() -> None:
    """Small random histories, both verdicts."""
    rng = random.Random(5)
    verdicts = {True: 0, False: 0}
    for _ in range(400):
        history = []
        for n in range(rng.randrange(1, 6)):
            called = rng.randrange(10)
            returned = called + rng.randrange(1, 6)
            if rng.random() < 0.5:
                history.append(write(str(n), called, returned if rng.random() < 0.7 else NEVER))
            else:
                value = rng.choice([None, "0", "1", "2"])
                history.append(read(value, called, returned))
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
