"""The judges of transactions, lists and lasting watches: each catches what it is there for, and lets go what is right."""

from __future__ import annotations

import pytest

from synod.sim import NEVER
from synod.sim._access import OPEN, Access, AccessOutcome, Rule, admitted
from synod.sim._checkers import Event, Span, watches_complete
from synod.sim._transactions import Transaction, serializable
from synod.wire import EVENT_CHILDREN_CHANGED, EVENT_CREATED, EVENT_DATA_CHANGED, PERM_READ


def both(zxid: int, x: int, y: int, called: int, returned: int) -> Transaction:
    """Both registers are written at once."""
    return Transaction(1, zxid, called, returned, writes=(("/x", x, f"x{x}"), ("/y", y, f"y{y}")))


def unknown(x: int, y: int, called: int) -> Transaction:
    return Transaction(1, 0, called, NEVER, writes=(("/x", -1, f"x{x}"), ("/y", -1, f"y{y}")))


def one(zxid: int, x: int, called: int, returned: int) -> Transaction:
    return Transaction(2, zxid, called, returned, writes=(("/x", x, f"x{x}"),))


def read(zxid: int, x: tuple[int, int], y: tuple[int, int] | None, called: int, returned: int) -> Transaction:
    """Both registers are read at once: the version and the zxid of each."""
    found = [("/x", *x)] if y is None else [("/x", *x), ("/y", *y)]
    values = tuple(f"{path[1]}{version}" if version else "" for path, version, _ in found)
    return Transaction(3, zxid, called, returned, reads=tuple(found), values=values)


def check(zxid: int, version: int, *, granted: bool, called: int, returned: int) -> Transaction:
    """Y is written if X has a version."""
    writes = (("/y", 1, "y1"),) if granted else ()
    return Transaction(4, zxid, called, returned, writes=writes, demands=(("/x", version),), refused=not granted)


@pytest.mark.parametrize(
    ("history", "wrong"),
    [
        ([], ""),
        ([both(5, 1, 1, 1, 2), read(5, (1, 5), (1, 5), 3, 4)], ""),
        ([both(5, 1, 1, 1, 4), read(4, (0, 2), (0, 3), 2, 3)], ""),  # before it
        ([both(5, 1, 1, 1, 4), read(6, (1, 5), (0, 3), 2, 3)], "without its part in"),  # half of it
        ([unknown(1, 1, 1), read(6, (1, 5), (0, 3), 2, 3)], "without its part in"),
        ([unknown(1, 1, 1), read(6, (1, 5), None, 2, 3), read(7, (1, 5), (1, 5), 4, 5)], ""),
        ([unknown(1, 1, 1), read(6, (0, 2), (0, 3), 2, 3)], ""),  # not yet, or never
        ([unknown(1, 1, 1), read(7, (1, 5), (1, 6), 2, 3)], "took effect at zxid 5, and again at 6"),
        ([unknown(1, 1, 1), read(6, (1, 5), None, 2, 3), one(8, 1, 4, 5)], "too few"),  # there were two versions
        ([both(5, 1, 1, 1, 2), read(4, (0, 2), (0, 3), 3, 4)], "had been answered before it was asked"),
        (
            [both(5, 1, 1, 3, 4), read(6, (1, 5), (1, 5), 1, 2)],
            "had been answered before it was asked",
        ),  # from the future
        ([read(4, (1, 5), None, 1, 2)], "which is after it"),
        ([one(5, 1, 1, 2), check(6, 1, granted=True, called=3, returned=4)], ""),
        ([one(5, 1, 1, 2), check(6, 0, granted=True, called=3, returned=4)], "though it demanded version 0"),
        ([one(5, 1, 1, 2), check(6, 2, granted=True, called=3, returned=4)], "though it demanded version 2"),
        ([one(5, 1, 1, 2), unknown(2, 1, 3), check(7, 2, granted=True, called=4, returned=5)], ""),
        ([one(5, 1, 1, 2), check(6, 0, granted=False, called=3, returned=4)], ""),
        ([one(5, 1, 1, 2), check(6, 1, granted=False, called=3, returned=4)], "what it demanded was so"),
        ([one(5, 1, 1, 2), unknown(2, 1, 3), check(7, 1, granted=False, called=4, returned=5)], ""),
        (
            [one(5, 1, 1, 2), unknown(3, 1, 3), check(7, 1, granted=False, called=4, returned=5), one(8, 2, 6, 7)],
            "what it demanded was so",  # the unknown one came later, or never
        ),
    ],
)
def test_the_judge_of_transactions_knows_right_from_wrong(history: list[Transaction], wrong: str) -> None:
    """All or nothing, at one place in an order that agrees with time."""
    found = serializable(history)
    assert wrong in (found or "")
    assert (found is None) is (not wrong)


def test_sequential_reads_may_be_of_the_past_but_not_of_halves() -> None:
    """What they promise is a state that there was."""
    late = read(4, (0, 2), (0, 3), 3, 4)
    assert serializable([both(5, 1, 1, 1, 2), late], timely=False) is None
    half = read(6, (1, 5), (0, 3), 3, 4)
    assert serializable([both(5, 1, 1, 1, 2), half], timely=False) is not None


MINE = Rule(1, 0)
READABLE = Rule(1, PERM_READ)
CLOSED = Access(1, True, "change", "done", 10, 1, 0, MINE)
OPENED = Access(1, True, "change", "done", 20, 2, 1, OPEN)
MAYBE_CLOSED = Access(1, True, "change", "unknown", 0, -1, 0, MINE)


def knock(zxid: int, outcome: AccessOutcome, aversion: int = -1, *, client: int = 2, known: bool = True) -> Access:
    return Access(client, known, "read", outcome, zxid, aversion)


@pytest.mark.parametrize(
    ("history", "wrong"),
    [
        ([knock(5, "done", 0)], ""),
        ([knock(5, "no auth")], "and was refused at zxid 5"),  # it is open
        ([CLOSED, knock(9, "done", 0)], ""),
        ([CLOSED, knock(10, "no auth")], ""),
        ([CLOSED, knock(15, "done", 1)], "and got it at zxid 15"),
        ([CLOSED, knock(15, "no auth"), OPENED, knock(19, "no auth"), knock(20, "done", 2)], ""),
        ([CLOSED, OPENED, knock(20, "no auth")], "and was refused at zxid 20"),
        ([CLOSED, knock(9, "no auth")], "and was refused at zxid 9"),  # by a list that came later
        ([CLOSED, knock(11, "done", 1, client=1)], ""),
        ([CLOSED, knock(11, "no auth", client=1)], "and was refused at zxid 11"),  # it is its own
        ([CLOSED, knock(11, "done", 1, client=1, known=False)], "nobody to the cell, asked to read and got it"),
        ([CLOSED, knock(11, "no auth", client=1, known=False)], ""),  # it has not said who it is
        ([MAYBE_CLOSED, knock(15, "no auth"), knock(16, "done", 0)], "and was refused at zxid 15"),
        ([MAYBE_CLOSED, knock(15, "no auth")], ""),
        ([MAYBE_CLOSED, knock(15, "done", 0), knock(16, "no auth")], ""),
        ([MAYBE_CLOSED, knock(15, "done", 1)], "and got it at zxid 15"),
        ([CLOSED, Access(2, True, "event", "done", 15)], "was told of a change of the znode"),
        ([CLOSED, Access(2, True, "event", "done", 10)], "was told of a change of the znode"),
        ([CLOSED, Access(2, True, "event", "done", 9)], ""),
        ([Access(1, True, "change", "done", 10, 1, 0, READABLE), knock(15, "done", 1)], ""),
        (
            [Access(1, True, "change", "done", 10, 1, 0, READABLE), Access(2, True, "write", "done", 15, 1)],
            "asked to write and got it",
        ),
        ([CLOSED, Access(2, True, "change", "done", 15, 2, 1, OPEN)], "asked for another list and got it"),
        ([CLOSED, Access(1, True, "change", "bad version", 15, -1, 0, OPEN)], ""),
        ([CLOSED, Access(1, True, "change", "bad version", 15, -1, 1, OPEN)], "was told of another version"),
        ([CLOSED, Access(1, True, "read", "done", 15, 1, rule=OPEN)], "was shown"),
        ([CLOSED, knock(15, "done", 0)], "the list has version 1 at zxid 10, and version 0 at 15"),
        ([OPENED, knock(15, "done", 2)], "the list has version 2 at zxid 15"),  # before it was set
    ],
)
def test_the_judge_of_lists_knows_who_may_enter(history: list[Access], wrong: str) -> None:
    """The list in force where an answer stands decides, and no other."""
    found = admitted(history)
    assert wrong in (found or "")
    assert (found is None) is (not wrong)


def span(*told: Event, path: str = "/x", recursive: bool = False, since: int = 10, until: int = 20) -> Span:
    return Span(1, path, recursive, since, until, list(told))


def changed(zxid: int, path: str = "/x") -> Event:
    return Event(zxid, EVENT_DATA_CHANGED, path)


@pytest.mark.parametrize(
    ("spans", "known", "wrong"),
    [
        ([span()], set(), ""),
        ([span(changed(11), changed(15))], {changed(11), changed(15)}, ""),
        ([span(changed(15))], {changed(11), changed(15)}, "was never told of Event(zxid=11"),
        ([span()], {changed(10), changed(21)}, ""),  # before it and after it
        ([span(changed(11), until=10)], {changed(11)}, ""),  # it has heard more than it knows to be whole
        ([span(changed(15), changed(11))], {changed(11), changed(15)}, "after zxid 15"),
        ([span(changed(11), changed(11))], {changed(11)}, "twice"),
        ([span(changed(10))], {changed(10)}, "after zxid 10"),  # what was there when it was set
        ([span(changed(11, "/y"))], {changed(11, "/y")}, "was told of Event(zxid=11"),  # which it does not watch
        ([span(changed(11))], set(), ""),  # by the write without an answer
        ([span(changed(11), changed(12))], set(), "2 writes there have no answer".replace("2", "1")),
        ([span(changed(11)), span()], set(), "was never told of Event(zxid=11"),  # another has heard of it
        ([span(changed(11, "/y/z"), path="/y", recursive=True)], {changed(11, "/y/z")}, ""),
        ([span(path="/y", recursive=True)], {changed(11, "/y/z")}, "and below since 10, was never told"),
        ([span(path="/y", recursive=True)], {changed(11, "/yz")}, ""),
        ([span(path="/y")], {changed(11, "/y/z")}, ""),
        ([span(path="/", recursive=True)], {Event(11, EVENT_CREATED, "/n")}, "was never told"),
        ([span(path="/", recursive=True)], {Event(11, EVENT_CHILDREN_CHANGED, "/")}, ""),
        ([span(path="/y")], {Event(11, EVENT_CHILDREN_CHANGED, "/y")}, "was never told"),
        ([span(path="/", recursive=True)], {changed(11, "/hidden")}, ""),
        ([span(*[Event(11, EVENT_CHILDREN_CHANGED, "/x")] * 2)], set(), ""),  # two ephemerals of one session
    ],
)
def test_the_judge_of_lasting_watches_misses_nothing(spans: list[Span], known: set[Event], wrong: str) -> None:
    """Everything, once, in order, and nothing else."""
    found = watches_complete(spans, known, spare={"/x": 1}, secret=("/hidden",))
    assert wrong in (found or "")
    assert (found is None) is (not wrong)
