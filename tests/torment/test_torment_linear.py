"""The search for an order: against a twin that tries all of them, on cases that are known to be hard, and in time."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import event, given, settings

from synod.sim import Attempt, explain, linearizable, witnessed

NEVER = 1 << 62
INITIAL = (0, "")


def attempt(kind: str, value: str, version: int, called: int, returned: int, **more) -> Attempt:
    given_ = {"id": called, "client": 1, "zxid": 100 + version, "expected": -1, **more}
    return Attempt(kind=kind, value=value, version=version, called=called, returned=returned, **given_)


def write(value: str, version: int, called: int, returned: int = NEVER, **more) -> Attempt:
    return attempt("write", value, version if returned < NEVER else -1, called, returned, **more)


def read(value: str, version: int, called: int, returned: int) -> Attempt:
    return attempt("read", value, version, called, returned)


def cas(
    value: str, version: int, called: int, returned: int = NEVER, *, expected: int, refused: bool = False
) -> Attempt:
    answered = returned < NEVER and not refused
    return attempt(
        "cas", value, version if answered else -1, called, returned, expected=expected, refused=refused
    )  # fmt: skip


# -- the slow twin -------------------------------------------------------------------------------------------


def obvious(attempts: list[Attempt]) -> bool:
    """Try every order of every choice of those that nobody knows the outcome of."""
    known = [a for a in attempts if not a.open]
    unknown = [a for a in attempts if a.open and a.kind != "read"]
    return any(
        explains(order)
        for count in range(len(unknown) + 1)
        for chosen in itertools.combinations(unknown, count)
        for order in itertools.permutations([*known, *chosen])
    )


def explains(order: tuple[Attempt, ...]) -> bool:
    """Whether each answer is right if things happened in this order."""
    latest = -1
    version, value = INITIAL
    for a in order:
        if a.returned < latest:
            return False
        latest = max(latest, a.called)
        if a.kind == "read":
            if (a.version, a.value) != (version, value):
                return False
        elif a.kind == "cas" and a.refused:
            if a.expected == version:
                return False
        elif (a.kind == "cas" and a.expected != version) or (not a.open and a.version != version + 1):
            return False
        else:
            version, value = version + 1, a.value
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Attempt]:
    """What a few clients saw of a right register, often with some answers changed afterwards."""
    count = draw(st.integers(1, 6))
    spans = []
    for number in range(count):
        called = draw(st.integers(0, 12))
        effect = called + draw(st.integers(0, 5))
        returned = effect + draw(st.integers(0, 5))
        kind = draw(st.sampled_from(["read", "read", "write", "cas"]))
        lost = draw(st.sampled_from(["no", "no", "no", "done", "never"])) if kind != "read" else "no"
        spans.append((effect, number, called, returned, kind, lost, draw(st.integers(0, 2))))
    attempts = []
    version, value = INITIAL
    for _, number, called, returned, kind, lost, expected in sorted(spans):
        name = f"v{number}"
        expected = expected if kind == "cas" else -1
        refused = kind == "cas" and expected != version
        if kind != "read" and lost != "never" and not refused:
            version, value = version + 1, name
        open_ = lost != "no"
        attempts.append(
            Attempt(
                id=number,
                client=number,
                kind=kind,
                value=value if kind == "read" else name,
                version=-1 if open_ or refused else version,
                zxid=0 if open_ or refused else 100 + version,
                expected=expected,
                called=called,
                returned=NEVER if open_ else returned,
                refused=refused and not open_,
            )
        )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, count - 1))
        attempts[at] = draw(st.sampled_from(list(changed(attempts[at], attempts))))
    return attempts


def changed(a: Attempt, attempts: list[Attempt]) -> list[Attempt]:
    """The same attempt with another answer, or at another time. A zxid goes with its version."""
    found = [replace(a, called=max(0, a.called - 4))]
    if not a.open:
        found.append(replace(a, called=a.called + 4, returned=a.returned + 4))
    if a.kind == "read":
        found += [replace(a, value=b.value, version=b.version, zxid=100 + b.version) for b in attempts if b.version > 0]
        found += [replace(a, version=a.version + 1, zxid=a.zxid + 1), replace(a, value="", version=0, zxid=100)]
    elif a.refused:
        found += [replace(a, expected=version) for version in range(3)]
    elif not a.open:
        found += [replace(a, version=a.version + by, zxid=a.zxid + by) for by in (1, -1)]
    return found


@given(histories())
@settings(max_examples=400)
def test_the_search_agrees_with_a_twin_that_tries_everything(attempts: list[Attempt]) -> None:
    """Wing & Gong 1993, with Lowe's memo: the pruning loses no order and invents none."""
    verdict = linearizable(attempts)
    event(f"linearizable: {verdict}")
    assert verdict == obvious(attempts)
    assert (explain(attempts) is None) == verdict


@given(histories())
@settings(max_examples=300)
def test_the_order_that_answers_name_blames_nobody_who_is_right(attempts: list[Attempt]) -> None:
    """Where it finds something wrong, no order explains the answers."""
    wrong = witnessed(attempts)
    event(f"found: {wrong is not None}")
    if wrong is not None:
        assert not obvious(attempts)


# -- hard cases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempts", "verdict"),
    [
        ([], True),
        ([read("", 0, 1, 2)], True),
        ([write("a", 1, 1, 2), read("", 0, 3, 4)], False),
        ([write("a", 1, 1, 4), read("", 0, 2, 3)], True),
        # Unknown outcomes: it happened; it did not yet; it cannot be taken back; it came late.
        ([write("a", 1, 1), read("a", 1, 2, 3)], True),
        ([write("a", 1, 1), read("", 0, 50, 60)], True),
        ([write("a", 1, 1), read("a", 1, 2, 3), read("", 0, 4, 5)], False),
        ([write("a", 1, 1), write("b", 1, 2, 3), read("a", 2, 4, 5)], True),
        ([write("a", 1, 5), read("a", 1, 2, 3)], False),
        # Two reads see two concurrent writes in different orders.
        (
            [
                write("a", 1, 1, 10),
                write("b", 2, 1, 10),
                read("a", 1, 2, 3),
                read("b", 2, 4, 5),
                read("a", 1, 6, 7),
            ],
            False,
        ),
        # Two writes, each of which answered that it had come second.
        ([write("a", 2, 1, 10), write("b", 2, 1, 10)], False),
        # A version that only an unanswered write can have made, and one that nobody can.
        ([write("a", 1, 1), write("b", 2, 5, 6)], True),
        ([write("a", 1, 1), write("b", 3, 5, 6)], False),
        ([write("a", 1, 1), write("x", 1, 2), write("b", 3, 5, 6)], True),
        # Of two unanswered ones the read names the later; the other one may never have come.
        ([write("a", 1, 1), write("x", 1, 1), read("x", 1, 5, 6)], True),
        # Compare and set.
        ([cas("a", 1, 1, 2, expected=0), cas("b", -1, 3, 4, expected=0, refused=True)], True),
        ([cas("a", 1, 1, 2, expected=0), cas("b", -1, 3, 4, expected=1, refused=True)], False),
        ([cas("a", 1, 1, expected=0), cas("b", -1, 3, 4, expected=0, refused=True)], True),
        ([cas("a", 1, 1, expected=1), cas("b", -1, 3, 4, expected=0, refused=True)], False),
        ([cas("a", 1, 1, 9, expected=0), cas("b", 1, 1, 9, expected=0)], False),
        ([cas("a", 1, 1, 2, expected=1)], False),
    ],
)
def test_hard_cases(attempts: list[Attempt], verdict: bool) -> None:
    """Herlihy & Wing 1990 s2; each of them is one that a wrong pruning gets wrong."""
    assert linearizable(attempts) is verdict
    assert obvious(attempts) is verdict


def test_what_is_wrong_is_said_in_a_sentence() -> None:
    """With who, what and when, so that the line in the history is found."""
    attempts = [write("a", 1, 1, 2), write("b", 2, 3, 4), read("a", 1, 5, 6)]
    assert "'a' of version 1" in (explain(attempts) or "")
    assert "client 1 wrote 'b'" in (witnessed(attempts) or "")


# -- time ----------------------------------------------------------------------------------------------------


def crowd(rounds: int, clients: int, lost: int) -> list[Attempt]:
    """Rounds in which all write at once, and some are never answered; each round is read."""
    attempts = []
    version = number = 0
    for turn in range(rounds):
        at = 10 * turn
        for client in range(clients):
            number += 1
            open_ = client < lost and turn % 5 == 0
            version += not open_
            returned = NEVER if open_ else at + 5
            attempts.append(
                replace(write(f"w{number}", version, at + 1, returned), id=number, zxid=0 if open_ else 100 + version)
            )
        number += 1
        attempts.append(replace(read(attempts[-1].value, version, at + 6, at + 8), id=number))
    return attempts


def test_a_long_history_of_many_at_once_is_judged_in_linear_time() -> None:
    """Ten thousand operations, sixteen at a time, two hundred of them without an answer: steps, not seconds, are held."""
    attempts = crowd(625, 16, 2)
    assert sum(a.open for a in attempts) == 250
    assert linearizable(attempts, steps_max=2 * len(attempts))
    assert witnessed(attempts) is None


def test_a_history_that_is_too_concurrent_is_no_verdict() -> None:
    """The search gives up; it neither accuses nor acquits."""
    attempts = [write(f"w{n}", 1, 1) for n in range(12)] + [write("last", 30, 5, 6)]
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        linearizable([*attempts, *crowd(40, 4, 0)], steps_max=1)
    assert time.monotonic() - began < 5
