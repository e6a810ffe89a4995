"""The audit finds what it is there to find: each doctored history or store breaks the promise that it should."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from synod.demo._audit import (
    Check,
    Row,
    Run,
    check_exactly_once,
    check_items,
    check_order,
    check_tokens,
    longest_gap,
    read_history,
    report,
    slowest_answer,
)
from synod.demo.audit import check_digests, text_of

README = Path(__file__).parent.parent.parent / "README.md"


def sent(at: int, id_: str, quantity: int = 5) -> dict[str, Any]:
    return {"event": "sent", "at": at, "id": id_, "type": "write", "key": "k", "op": "restock", "quantity": quantity}


def answer(at: int, id_: str, stock: int, version: int, token: int) -> dict[str, Any]:
    return {
        "event": "answer", "at": at, "id": id_, "instance": "a", "stock": stock, "version": version, "token": token,
        "accepted": True,
    }  # fmt: skip


def read(at: int, done: int, id_: str, stock: int, version: int) -> list[dict[str, Any]]:
    return [
        {"event": "sent", "at": at, "id": id_, "type": "read", "key": "k"},
        {"event": "answer", "at": done, "id": id_, "instance": "b", "stock": stock, "version": version},
    ]


def row(position: int, id_: str, stock: int, token: int, quantity: int = 5) -> Row:
    return Row(position, id_, "k", "restock", quantity, 1, stock, position, token, "a")


def run_of(*events: dict[str, Any]) -> Run:
    ordered = sorted(events, key=lambda event: event["at"])
    return read_history(json.dumps(event) for event in ordered)


HISTORY = [
    sent(10, "w-1"),
    answer(20, "w-1", 5, 1, 100),
    sent(30, "w-2"),
    answer(40, "w-2", 10, 2, 101),
    *read(50, 60, "r-1", 10, 2),
]
ROWS = [row(1, "w-1", 5, 100), row(2, "w-2", 10, 101)]


def test_a_true_history_passes() -> None:
    """Every check examines something and finds nothing."""
    run = run_of(*HISTORY)
    for check in (check_exactly_once(run, ROWS), check_order(run, ROWS), check_tokens(ROWS)):
        assert check.holds, check.problems
        assert check.examined > 0
    assert check_items(ROWS, {"k": (10, 2)}).holds


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (ROWS[:1], "w-2 was acknowledged, and was applied 0 times"),
        ([*ROWS, row(3, "w-1", 15, 102)], "w-1 was acknowledged, and was applied 2 times"),
        ([ROWS[0], row(2, "w-2", 10, 101, quantity=6)], "but asked for restock 5"),
        ([ROWS[0], row(2, "w-2", 11, 101)], "but the store has"),
    ],
)
def test_a_lost_doubled_or_changed_write_is_found(rows: list[Row], problem: str) -> None:
    """Exactly once means once, as asked and as answered."""
    check = check_exactly_once(run_of(*HISTORY), rows)
    assert any(problem in found for found in check.problems), check.problems


def test_a_write_of_unknown_outcome_may_be_applied_once_but_not_twice() -> None:
    """What was never answered is open."""
    run = run_of(sent(10, "w-1"))
    assert check_exactly_once(run, []).holds
    assert check_exactly_once(run, ROWS[:1]).holds
    assert not check_exactly_once(run, [ROWS[0], row(2, "w-1", 10, 101)]).holds


def test_writes_out_of_real_time_order_are_found() -> None:
    """w-1 was answered before w-2 was sent, so that it stands first."""
    swapped = [row(1, "w-2", 5, 100), row(2, "w-1", 10, 101)]
    assert any("w-1 was answered before w-2" in found for found in check_order(run_of(*HISTORY), swapped).problems)


@pytest.mark.parametrize(
    ("stock", "version", "problem"),
    [(5, 1, "after 2 was acknowledged"), (11, 2, "not 10"), (15, 3, "saw version 3 of 2")],
)
def test_a_stale_or_wrong_read_is_found(stock: int, version: int, problem: str) -> None:
    """A read shows no less than what was acknowledged before it, and nothing that never was."""
    run = run_of(*HISTORY[:4], *read(50, 60, "r-1", stock, version))
    assert any(problem in found for found in check_order(run, ROWS).problems)


def test_a_read_from_the_future_is_found() -> None:
    """Nothing is seen before it was asked for."""
    run = run_of(*read(1, 5, "r-0", 5, 1), *HISTORY)
    assert any("before it was asked for" in found for found in check_order(run, ROWS).problems)


def test_a_falling_token_is_found() -> None:
    """A write of a former holder after one of a later holder."""
    check = check_tokens([row(1, "w-1", 5, 101), row(2, "w-2", 10, 100)])
    assert check.problems == ["w-2 was applied to k under token 100 after w-1 under 101"]


def test_an_item_that_is_not_its_sum_is_found() -> None:
    """Both in the ledger and in the item."""
    assert not check_items(ROWS, {"k": (11, 2)}).holds
    assert not check_items([ROWS[0], row(2, "w-2", 11, 101)], {"k": (11, 2)}).holds


def test_a_gap_belongs_to_the_kill_before_it() -> None:
    """The longest silence after a kill, up to the next one."""
    run = run_of(
        sent(10, "w-1"),
        answer(20, "w-1", 5, 1, 100),
        {"event": "kill", "at": 25, "what": "one"},
        sent(26, "w-2"),
        answer(40, "w-2", 10, 2, 101),
        {"event": "kill", "at": 41, "what": "two"},
        sent(42, "w-3"),
        answer(140, "w-3", 15, 3, 102),
    )
    assert [longest_gap(run, kill, None) for kill in run.kills] == [20, 100]


def test_the_slowest_answer_is_put_down_to_the_kill_that_it_met() -> None:
    """From its first attempt to its answer; who was on the way at a kill waited for that one, not for an earlier."""
    run = run_of(
        sent(10, "w-1"),
        answer(300, "w-1", 5, 1, 100),
        sent(310, "w-2"),
        {"event": "kill", "at": 320, "what": "one"},
        {"event": "failed", "at": 321, "id": "w-2", "why": "ReadError", "unknown": True},
        sent(330, "w-2"),
        answer(350, "w-2", 10, 2, 101),
        sent(399, "w-3"),
        {"event": "kill", "at": 400, "what": "two"},
        sent(410, "w-4"),
        answer(490, "w-4", 15, 3, 102),
        answer(500, "w-3", 20, 4, 103),
    )
    assert [slowest_answer(run, kill) for kill in run.kills] == [40, 101]


def test_the_report_says_whether_all_holds() -> None:
    """One broken promise is enough; the figures come from the history."""
    run = run_of(*HISTORY)
    good = [check_tokens(ROWS)]
    document = report(run, good)
    assert document["holds"]
    assert document["requests"] | {"per_second": 0} == {
        "distinct": 3, "answered": 3, "per_second": 0, "reads": 1, "writes": 2, "sent": 3, "never_answered": 0,
        "outcome_unknown": 0, "failures": {},
    }  # fmt: skip
    assert document["instances"] == {"a": {"write": 2}, "b": {"read": 1}}
    assert not report(run, [*good, check_items(ROWS, {})])["holds"]


def test_the_readme_shows_what_is_printed_today() -> None:
    """Figure by figure another run, word by word the same lines in the same order."""
    kills = [
        {"event": "kill", "at": 61, "what": "replica 1, the leader"},
        {"event": "kill", "at": 62, "what": "instance b"},
    ]
    answers = [{"event": "answer", "at": 50, "id": "r-1", "instance": name, "stock": 10, "version": 2} for name in "bc"]
    run = run_of(*HISTORY, *answers, *kills)
    checks = [
        check_exactly_once(run, ROWS),
        check_order(run, ROWS),
        check_tokens(ROWS),
        check_items(ROWS, {"k": (10, 2)}),
    ]
    document = report(run, [*checks, Check(check_digests("", []).name)])
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    [shown] = [block for language, block in blocks if not language and "The audit holds." in block]
    lines = [line for line in shown.splitlines() if not line.startswith(("killed ", "instance b serves again"))]
    assert [shape(line) for line in lines] == [shape(line) for line in text_of(document).splitlines()]


def shape(line: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "0", line)
