"""What a history says about the promises of a cell: pure, from its records alone.

Read `judge`; each promise is one function that takes the records and returns a sentence for each breach it finds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from synod.sim import (
    NEVER,
    STEPS_MAX,
    Attempt,
    Holding,
    Seen,
    exclusive,
    explain,
    watches_ordered,
    witnessed,
)

from ._history import Record

KEPT_MAX: Final = 20
"""So many breaches of one promise are told; the first one is what matters."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A breach of a promise."""

    promise: str
    what: str


@dataclass(slots=True)
class Verdict:
    """What was looked at, and what was found.

    Args:
        examined: how many facts each promise was held against.
        findings: empty when all promises hold.
    """

    examined: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class Attempted:
    """A call and its answer, joined."""

    id: int
    client: int
    op: str
    key: str
    asked: Record
    called: int
    returned: int
    answer: Record | None
    refused: str | None


class Facts:
    """The records, sorted by what they are about."""

    def __init__(self, records: Sequence[Record]) -> None:
        calls: dict[int, Record] = {}
        ends: dict[int, Record] = {}
        self.events: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if "event" in record:
                self.events[record["event"]].append(record)
            elif "call" in record:
                calls[record["id"]] = record
            else:
                ends[record["id"]] = record
        self.attempts: dict[str, list[Attempted]] = defaultdict(list)
        for id_, call in calls.items():
            end = ends.get(id_, {})
            told = "ok" in end or "refused" in end
            self.attempts[call["call"]].append(
                Attempted(
                    id=id_,
                    client=call["client"],
                    op=call["call"],
                    key=call["key"],
                    asked=call,
                    called=call["at"],
                    returned=end["at"] if told else NEVER,
                    answer=end.get("ok"),
                    refused=end.get("refused"),
                )
            )


Kind = Literal["armed", "event", "reply"]

Judge = Callable[[Facts], tuple[int, list[str]]]
"""How many facts were looked at, and a sentence for each breach."""


def judge(records: Sequence[Record], *, steps_max: int = STEPS_MAX) -> Verdict:
    """Hold a history against every promise."""
    facts = Facts(records)
    promises: dict[str, Judge] = {
        "each register is linearizable, by the order that answers name": _witnessed,
        "each register is linearizable, by search": lambda f: _searched(f, steps_max),
        "a lock has one holder, and its tokens rise": _locks,
        "an ephemeral lives as long as its session, and no longer": _ephemerals,
        "a counter counts each addition once": _counters,
        "what was acknowledged is there at the end, once": _kept,
        "a watch tells of a change before a reply shows it": _watches,
        "replicas have equal digests at equal slots": _digests,
        "no replica ends by itself, or goes on with a disk that failed": _ends,
        "once all faults are healed, everybody comes on": _progress,
    }
    verdict = Verdict()
    for promise, examine in promises.items():
        verdict.examined[promise], breaches = examine(facts)
        verdict.findings.extend(Finding(promise, what) for what in breaches[:KEPT_MAX])
    return verdict


def _registers(facts: Facts) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = defaultdict(list)
    for kind in ("read", "write", "cas"):
        for a in facts.attempts[kind]:
            if a.refused is not None and (a.op != "cas" or a.refused != "BadVersion"):
                continue  # it did not happen, and says nothing about the register
            if kind == "read" and a.answer is None:
                continue
            answer = a.answer or {}
            found[a.key].append(
                Attempt(
                    id=a.id,
                    client=a.client,
                    kind=a.op,  # type: ignore[arg-type]  # one of the three above
                    value=answer["value"] if kind == "read" else a.asked["value"],
                    version=answer.get("version", -1),
                    zxid=answer.get("mzxid", 0),
                    expected=a.asked.get("expected", -1),
                    called=a.called,
                    returned=a.returned,
                    refused=a.refused is not None,
                )
            )
    return found


def _witnessed(facts: Facts) -> tuple[int, list[str]]:
    registers = _registers(facts)
    breaches = [f"{key}: {wrong}" for key, attempts in sorted(registers.items()) if (wrong := witnessed(attempts))]
    return sum(map(len, registers.values())), breaches


def _searched(facts: Facts, steps_max: int) -> tuple[int, list[str]]:
    registers = _registers(facts)
    breaches = []
    for key, attempts in sorted(registers.items()):
        try:
            wrong = explain(attempts, steps_max=steps_max)
        except TimeoutError:
            wrong = f"no verdict after {steps_max} steps: too many attempts were under way at once"
        if wrong:
            breaches.append(f"{key}: {wrong}")
    return sum(map(len, registers.values())), breaches


def _locks(facts: Facts) -> tuple[int, list[str]]:
    """A holding is proven from the answer to the last moment at which the lock's own check passed."""
    until = {event["id"]: event["until"] for event in facts.events["held"]}
    return _owners(facts.attempts["lock"], "token", until)


def _owners(attempts: Sequence[Attempted], number: str, until: dict[int, int]) -> tuple[int, list[str]]:
    """Things that one client has at a time, with a number that rises from one to the next."""
    by_key: dict[str, list[Attempted]] = defaultdict(list)
    for a in attempts:
        if a.answer is not None:
            by_key[a.key].append(a)
    breaches = []
    for key, got in sorted(by_key.items()):
        wrong = exclusive(
            [
                Holding(key, a.client, _of(a, number), a.returned, until[a.id])
                for a in got
                if until.get(a.id, 0) >= a.returned  # else nothing proves that it was still held when that was known
            ]
        )
        if wrong:
            breaches.append(f"{wrong} (microseconds)")
        breaches += [f"{key}: the {number} {n} was given twice" for n in _twice([_of(a, number) for a in got])]
        breaches += [
            f"{key}: id {a.id} was given the {number} {_of(a, number)}, and {n} had been given before it was asked for"
            for a, n in _falling(got, number)
        ]
    return sum(map(len, by_key.values())), breaches


def _falling(attempts: Sequence[Attempted], number: str) -> list[tuple[Attempted, int]]:
    """Those whose number is below one that was known to somebody before they were asked for, and that number."""
    done = sorted(attempts, key=lambda a: a.returned)
    found = []
    at = highest = 0
    for a in sorted(attempts, key=lambda a: a.called):
        while at < len(done) and done[at].returned < a.called:
            highest = max(highest, _of(done[at], number))
            at += 1
        if _of(a, number) < highest:
            found.append((a, highest))
    return found


def _of(a: Attempted, number: str) -> int:
    """A number in an answer."""
    assert a.answer is not None
    return int(a.answer[number])


def _twice(numbers: Sequence[int]) -> list[int]:
    return sorted(number for number, count in Counter(numbers).items() if count > 1)


def _ephemerals(facts: Facts) -> tuple[int, list[str]]:
    until = {event["id"]: event["until"] for event in facts.events["owned"]}
    examined, breaches = _owners(facts.attempts["create"], "czxid", until)
    created = {a.id: a for a in facts.attempts["create"]}
    deletions: dict[str, list[Attempted]] = defaultdict(list)
    for d in facts.attempts["delete"]:
        if d.refused is None:
            deletions[d.key].append(d)
    for event in facts.events["vanished"]:
        a = created[event["id"]]
        # A client that lost its session meanwhile deletes what it takes for its own by name.
        if not any(
            d.client != a.client and d.called <= event["at"] and d.returned >= a.called for d in deletions[a.key]
        ):
            breaches.append(
                f"{a.key} of client {a.client} (id {a.id}) was gone at {event['at'] / 1e6:.6f} s: {event['what']}, though "
                f"nobody had deleted it and its session was served afterwards"
            )
    for final in facts.events["final"]:
        breaches += [f"{path} is there at the end, and its session is over" for path in final.get("ephemerals", ())]
    return examined, breaches


def _counters(facts: Facts) -> tuple[int, list[str]]:
    adds: dict[str, list[Attempted]] = defaultdict(list)
    for a in facts.attempts["add"]:
        adds[a.key].append(a)
    breaches: list[str] = []
    for key, attempts in sorted(adds.items()):
        acked = [a for a in attempts if a.answer is not None]
        maybe = sum(a.answer is None and a.refused is None for a in attempts)
        values = [_of(a, "value") for a in acked]
        breaches += [f"{key}: two additions were told that they made it {value}" for value in _twice(values)]
        breaches += [
            f"{key}: id {a.id} made it {_of(a, 'value')}, and {value} had been answered before it was asked"
            for a, value in _falling(acked, "value")
        ]
        for final in facts.events["final"]:
            value = final["counters"].get(key)
            if value is not None and not len(acked) <= value <= len(acked) + maybe:
                breaches.append(
                    f"{key} is {value} at the end (replica {final['replica']}), after {len(acked)} acknowledged additions "
                    f"and {maybe} of unknown outcome"
                )
    return sum(map(len, adds.values())), breaches


def _kept(facts: Facts) -> tuple[int, list[str]]:
    """Entries: sequential znodes with a text of their own each."""
    breaches: list[str] = []
    acked = {a.asked["value"]: a for a in facts.attempts["append"] if a.answer is not None}
    refused = {a.asked["value"]: a for a in facts.attempts["append"] if a.refused is not None}
    asked = {a.asked["value"] for a in facts.attempts["append"]}
    examined = len(acked)
    for final in facts.events["final"]:
        entries: dict[str, str] | None = final.get("entries")
        if entries is None:
            continue
        where = f"at the end (replica {final['replica']})"
        names: dict[str, list[str]] = defaultdict(list)
        for name, value in entries.items():
            names[value].append(name)
        for value, a in acked.items():
            assert a.answer is not None
            if a.answer["name"] not in names.get(value, ()):
                breaches.append(
                    f"the entry {value!r}, acknowledged as {a.answer['name']} (id {a.id}), is not there {where}"
                )
        for value, many in names.items():
            if len(many) > 1:
                breaches.append(f"the entry {value!r} is there {len(many)} times {where}: {', '.join(sorted(many))}")
            if value in refused:
                breaches.append(
                    f"the entry {value!r} is there {where}, though it was refused ({refused[value].refused})"
                )
            elif value not in asked:
                breaches.append(f"the entry {value!r} is there {where}, and nobody asked for it")
    finals = facts.events["final"]
    for one in finals[1:]:
        breaches += [
            f"replicas {finals[0]['replica']} and {one['replica']} show different {part} at the end, after a sync"
            for part in ("registers", "counters", "names")
            if one.get(part) != finals[0].get(part)
        ]
    return examined, breaches


def _watches(facts: Facts) -> tuple[int, list[str]]:
    seen: dict[tuple[int, int], list[Seen]] = defaultdict(list)
    for record in facts.events["watch"]:
        # Whoever takes a watch back, or loses it with its session, waits for no event: as if it had come.
        kind: Kind = "event" if record["kind"] == "over" else record["kind"]
        seen[record["client"], record["session"]].append(Seen(kind, record["key"], record["mzxid"]))
    breaches = []
    for (client, session), items in sorted(seen.items()):
        wrong = watches_ordered(items)
        if wrong:
            breaches.append(f"client {client}, session {session:#x}: {wrong}")
    return sum(record["kind"] == "event" for record in facts.events["watch"]), breaches


def _digests(facts: Facts) -> tuple[int, list[str]]:
    by_slot: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for record in facts.events["digest"]:
        by_slot[record["slot"]][record["digest"]].append(record["replica"])
    breaches = [
        f"at slot {slot} the replicas differ: "
        + "; ".join(f"{digest} of {', '.join(map(str, who))}" for digest, who in sorted(found.items()))
        for slot, found in sorted(by_slot.items())
        if len(found) > 1
    ]
    begun = facts.events["torment"][0]
    if facts.events["end"] and begun["replicas"] and not facts.events["equal"]:
        breaches.append("the replicas were never seen at one slot after all faults were healed")
    return len(facts.events["digest"]), breaches


def _ends(facts: Facts) -> tuple[int, list[str]]:
    breaches = [
        f"replica {record['replica']} ended with {record['code']} at {record['at'] / 1e6:.3f} s: {record['said']}"
        for record in facts.events["ended"]
    ]
    breaches += [
        f"replica {record['replica']} went on for {record['seconds']:.1f} s after its disk had failed"
        for record in facts.events["went-on"]
    ]
    breaches += [
        f"replica {record['replica']} asked its disk {record['times']} times for {record['calls']}, though the first had "
        f"failed"
        for record in facts.events["tried-again"]
    ]
    return len(facts.events["started"]), breaches


def _progress(facts: Facts) -> tuple[int, list[str]]:
    breaches = [
        f"{record['what']} had no success within {record['seconds']:g} s after all faults were healed"
        for record in facts.events["stuck"]
    ]
    return len(facts.events["came-on"]), breaches
