"""Checking a history against the store: pure functions over what was read from the two.

The promises that are checked, and how:

- every acknowledged write is applied exactly once: its id stands in the ledger once, with the answer's own numbers;
- per-key order: a write that was answered before another of its key was first sent stands before it; a read shows
  a state that is no older than what was acknowledged before it was sent, and no newer than what had been sent;
- fencing tokens never fall along a key's writes;
- each item is the sum of its ledger.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

PROBLEMS_SHOWN_MAX: Final = 10
GAP_WINDOW: Final = 30_000_000
"""Microseconds after a kill in which a gap is put down to it: several session timeouts and elections."""


class Row(NamedTuple):
    """One write as the store has it."""

    position: int
    id: str
    sku: str
    op: str
    quantity: int
    accepted: int
    stock: int
    version: int
    token: int
    instance: str


@dataclass(slots=True)
class Told:
    """One request as the history has it; times in microseconds."""

    type: str
    key: str
    op: str | None
    quantity: int
    sent: int
    sent_last: int
    answered: int | None = None
    answers: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0


@dataclass(slots=True)
class Kill:
    """A process that was killed."""

    at: int
    what: str


@dataclass(slots=True)
class Run:
    """A history, read."""

    told: dict[str, Told] = field(default_factory=dict)
    reads: list[tuple[str, int, int, dict[str, Any]]] = field(default_factory=list)  # key, sent, answered, answer
    successes: list[tuple[int, str, str]] = field(default_factory=list)  # when, type, instance
    kills: list[Kill] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    began: int | None = None
    ended: int = 0


def read_history(lines: Iterable[str]) -> Run:
    """Gather what happened to each request.

    Raises:
        ValueError: a line is no event.
    """
    run = Run()
    open_reads: dict[str, int] = {}
    for line in lines:
        event = json.loads(line)
        at = event["at"]
        run.began = at if run.began is None else run.began
        run.ended = at
        match event["event"]:
            case "sent":
                told = run.told.get(event["id"])
                if told is None:
                    told = run.told[event["id"]] = Told(
                        event["type"], event["key"], event.get("op"), event.get("quantity", 0), at, at
                    )
                told.sent_last = at
                told.attempts += 1
                open_reads[event["id"]] = at
            case "answer":
                told = run.told[event["id"]]
                told.answered = at if told.answered is None else told.answered
                told.answers.append(event)
                run.successes.append((at, told.type, event["instance"]))
                if told.type == "read":
                    run.reads.append((told.key, open_reads[event["id"]], at, event))
            case "failed":
                run.failures[event["why"]] += 1
                run.unknown += bool(event["unknown"])
            case "kill":
                run.kills.append(Kill(at, event["what"]))
            case _:
                pass  # restarts and remarks are for people
    return run


@dataclass(slots=True)
class Check:
    """One promise, and what breaks it."""

    name: str
    examined: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Nothing breaks it."""
        return not self.problems

    def expect(self, holds: bool, problem: str) -> None:
        """Examine one fact."""
        self.examined += 1
        if not holds:
            self.problems.append(problem)


def check_exactly_once(run: Run, rows: Sequence[Row]) -> Check:
    """Every acknowledged write stands in the ledger once, as it was answered; no other of ours twice."""
    check = Check("every acknowledged write applied exactly once")
    by_id: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_id[row.id].append(row)
    for id_, told in run.told.items():
        if told.type != "write":
            continue
        applied = by_id.get(id_, [])
        if told.answered is None:
            check.expect(len(applied) <= 1, f"{id_} was never answered, and was applied {len(applied)} times")
            continue
        check.expect(len(applied) == 1, f"{id_} was acknowledged, and was applied {len(applied)} times")
        for row in applied[:1]:
            check.expect(
                (row.sku, row.op, row.quantity) == (told.key, told.op, told.quantity),
                f"{id_} was applied as {row.op} {row.quantity} of {row.sku}, but asked for {told.op} {told.quantity} "
                f"of {told.key}",
            )
            for answer in told.answers:
                check.expect(
                    (answer["stock"], answer["version"], answer["token"], answer["accepted"])
                    == (row.stock, row.version, row.token, bool(row.accepted)),
                    f"{id_} was answered with version {answer['version']} and stock {answer['stock']}, but the store "
                    f"has {row.version} and {row.stock}",
                )
    return check


def check_order(run: Run, rows: Sequence[Row]) -> Check:
    """Real-time order of each key's writes and reads agrees with the ledger."""
    check = Check("per-key order kept")
    by_key: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_key[row.sku].append(row)
    newest_sent: dict[str, list[int]] = {}
    for key, ledger in by_key.items():
        latest, latest_id = -1, ""
        sent_by = newest_sent[key] = [-1]
        for row in ledger:
            told = run.told.get(row.id)
            if told is not None:
                check.expect(
                    told.answered is None or told.answered >= latest,
                    f"{row.id} was answered before {latest_id} of the same key was sent, but applied after it",
                )
                if told.sent > latest:
                    latest, latest_id = told.sent, row.id
            sent_by.append(latest)
    _check_reads(check, run, by_key, newest_sent)
    return check


def _check_reads(check: Check, run: Run, by_key: dict[str, list[Row]], newest_sent: dict[str, list[int]]) -> None:
    """Each read shows a state between what was acknowledged before it and what was sent before its end."""
    acknowledged: dict[str, list[tuple[int, int]]] = defaultdict(list)  # when answered, highest version so far
    for key, ledger in by_key.items():
        answered = sorted(
            (told.answered, row.version)
            for row in ledger
            if (told := run.told.get(row.id)) is not None and told.answered is not None
        )
        highest = 0
        for at, version in answered:
            highest = max(highest, version)
            acknowledged[key].append((at, highest))
    for key, sent, answered_at, answer in run.reads:
        version, stock = answer["version"], answer["stock"]
        ledger = by_key.get(key, [])
        if not 0 <= version <= len(ledger):
            check.expect(holds=False, problem=f"a read of {key} saw version {version} of {len(ledger)}")
            continue
        true_stock = ledger[version - 1].stock if version else 0
        check.expect(stock == true_stock, f"a read of {key} saw stock {stock} at version {version}, not {true_stock}")
        before = bisect_left(acknowledged[key], (sent, -1))
        floor = acknowledged[key][before - 1][1] if before else 0
        check.expect(version >= floor, f"a read of {key} saw version {version} after {floor} was acknowledged")
        newest = newest_sent[key][version] if version else -1
        check.expect(newest <= answered_at, f"a read of {key} saw version {version} before it was asked for")


def check_tokens(rows: Sequence[Row]) -> Check:
    """Along each key the tokens never fall."""
    check = Check("fencing tokens never falling")
    highest: dict[str, Row] = {}
    for row in rows:
        before = highest.get(row.sku)
        if before is not None:
            check.expect(
                row.token >= before.token,
                f"{row.id} was applied to {row.sku} under token {row.token} after {before.id} under {before.token}",
            )
        if before is None or row.token > before.token:
            highest[row.sku] = row
    return check


def check_items(rows: Sequence[Row], items: dict[str, tuple[int, int]]) -> Check:
    """Each item is what its ledger adds up to, with versions 1, 2, 3 without a gap."""
    check = Check("every item is the sum of its ledger")
    sums: dict[str, tuple[int, int]] = {}
    for row in rows:
        stock, version = sums.get(row.sku, (0, 0))
        after = stock + row.quantity if row.op == "restock" else stock - row.quantity
        stock = after if row.accepted else stock
        check.expect(
            (row.stock, row.version, bool(row.accepted)) == (stock, version + 1, after >= 0),
            f"{row.id} left {row.sku} at version {row.version} and stock {row.stock}, not {version + 1} and {stock}",
        )
        sums[row.sku] = (row.stock, row.version)
    check.expect(items == sums, "the items are not what the ledger ends with")
    return check


def longest_gap(run: Run, kill: Kill, kind: str | None) -> int:
    """The longest time without an answered request (of one type) between a kill and the next, in microseconds."""
    until = min((other.at for other in run.kills if other.at > kill.at), default=kill.at + GAP_WINDOW)
    times = [at for at, type_, _ in run.successes if kind is None or type_ == kind]
    before = max((at for at in times if at <= kill.at), default=kill.at)
    after = [at for at in times if kill.at < at <= until]
    points = [before, *after]
    if not after:
        return max(0, min(run.ended, until) - before)
    return max(later - earlier for earlier, later in pairwise(points))


def slowest_answer(run: Run, kill: Kill) -> int:
    """How long the slowest of the requests took, first attempt to answer, that are put down to a kill.

    That is the first kill which met the request on its way; else the last one before it.
    """
    slowest = 0
    for told in run.told.values():
        if told.answered is None:
            continue
        met = next((one for one in run.kills if told.sent <= one.at < told.answered), None)
        if met is None:
            met = next((one for one in reversed(run.kills) if one.at < told.sent), None)
        if met is kill:
            slowest = max(slowest, told.answered - told.sent)
    return slowest


def report(run: Run, checks: Sequence[Check]) -> dict[str, Any]:
    """What a user wants to know, as a JSON document."""
    seconds = (run.ended - (run.began or 0)) / 1_000_000
    types = Counter(type_ for _, type_, _ in run.successes)
    instances: dict[str, Counter[str]] = defaultdict(Counter)
    for _, type_, instance in run.successes:
        instances[instance][type_] += 1
    return {
        "holds": all(check.holds for check in checks),
        "seconds": round(seconds, 3),
        "requests": {
            "distinct": len(run.told),
            "answered": len(run.successes),
            "per_second": round(len(run.successes) / seconds, 1) if seconds else None,
            "reads": types["read"],
            "writes": types["write"],
            "sent": sum(told.attempts for told in run.told.values()),
            "never_answered": sum(told.answered is None for told in run.told.values()),
            "outcome_unknown": run.unknown,
            "failures": dict(sorted(run.failures.items())),
        },
        "instances": {name: dict(sorted(counts.items())) for name, counts in sorted(instances.items())},
        "latency_ms": {kind: _latency(run, kind) for kind in ("read", "write")},
        "kills": [
            {
                "what": kill.what,
                "at_s": round((kill.at - (run.began or 0)) / 1_000_000, 3),
                "longest_gap_ms": round(longest_gap(run, kill, None) / 1_000, 1),
                "longest_gap_reads_ms": round(longest_gap(run, kill, "read") / 1_000, 1),
                "longest_gap_writes_ms": round(longest_gap(run, kill, "write") / 1_000, 1),
                "slowest_answer_ms": round(slowest_answer(run, kill) / 1_000, 1),
            }
            for kill in run.kills
        ],
        "checks": [
            {
                "promise": check.name,
                "holds": check.holds,
                "examined": check.examined,
                "problems": len(check.problems),
                "first_problems": check.problems[:PROBLEMS_SHOWN_MAX],
            }
            for check in checks
        ],
    }


def _latency(run: Run, kind: str) -> dict[str, float]:
    """Percentiles from the first attempt to the answer, retries included."""
    times = sorted(
        (told.answered - told.sent) / 1_000
        for told in run.told.values()
        if told.type == kind and told.answered is not None
    )
    if not times:
        return {}
    return {
        f"p{percent}": round(times[min(len(times) - 1, len(times) * percent // 100)], 2) for percent in (50, 99)
    } | {"max": round(times[-1], 2)}
