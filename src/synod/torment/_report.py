"""What a history has in it, counted, and the verdict on it: for people, and for programs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from ._history import Record, Recorded
from ._judge import Verdict


def figures(records: list[Record]) -> dict[str, Any]:
    """What a history has in it, counted."""
    calls: dict[int, Record] = {}
    outcomes: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    gap, gap_at, last = 0, 0, None
    calm = False
    for record in records:
        calm = calm or record.get("event") == "calm"
        if "call" in record:
            calls[record["id"]] = record
            operations[record["call"]] += 1
            last = record["at"] if last is None else last
        elif "id" in record and "event" not in record:
            for outcome in ("ok", "refused", "unknown"):
                outcomes[outcome] += outcome in record
            if "ok" in record and last is not None and not calm:
                if record["at"] - last > gap:
                    gap, gap_at = record["at"] - last, last
                last = record["at"]
    fired = Counter(record["fault"] for record in records if record.get("event") == "fault")
    # The steps of a rolling restart are one fault.
    fired["restart"] -= sum(
        record.get("event") == "fault" and record["fault"] == "restart" and record["nth"] > 1 for record in records
    )
    about = records[0]
    elections: Record = next((record for record in records if record.get("event") == "elections"), {})
    return {
        "seed": about["seed"],
        "seconds": about["seconds"],
        "replicas": about["replicas"],
        "network": about["network"],
        "faults": {fault: fired[fault] for fault in about["faults"]},
        "not_here": about["missing"],
        "elections": elections.get("led"),
        "election_reasons": elections.get("reasons", {}),
        "operations": dict(operations),
        "answered": outcomes["ok"],
        "refused": outcomes["refused"],
        "unknown": outcomes["unknown"],
        "unanswered": len(calls) - sum(outcomes.values()),
        "longest_gap_ms": round(gap / 1000),
        "longest_gap_at_s": round(gap_at / 1e6, 3),
    }


def report(recorded: Recorded, verdict: Verdict, *, as_json: bool, path: str | None) -> None:
    """Print it.

    Args:
        recorded: the history.
        verdict: on it.
        as_json: one line of JSON, for programs.
        path: of the file, where it is kept.
    """
    found = figures(recorded.records)
    if as_json:
        document = {
            **found,
            "holds": verdict.holds,
            "examined": verdict.examined,
            "findings": [{"promise": f.promise, "what": f.what} for f in verdict.findings],
            "ended": recorded.ended,
            "history": path,
        }
        sys.stdout.write(json.dumps(document) + "\n")
        return
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    lines = [f"note        {note}" for note in recorded.notes]
    lines += _lines(found)
    broken = {finding.promise for finding in verdict.findings}
    for promise, examined in verdict.examined.items():
        lines.append(f"{'BROKEN' if promise in broken else 'holds '}      {promise} ({examined} facts)")
        lines += [f"            {finding.what}" for finding in verdict.findings if finding.promise == promise]
    lines.append(f"seed {found['seed']}: " + ("every promise holds" if verdict.holds else "PROMISES ARE BROKEN"))
    if path is not None:
        lines.append(f"the history is {path}; judge it again with: synod torment --check {path}")
    sys.stdout.write("\n".join(lines) + "\n")


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    if found["faults"]:
        lines.append("faults      " + ", ".join(f"{fault} {count}" for fault, count in found["faults"].items()))
        never = [fault for fault, count in found["faults"].items() if not count]
        if never:
            lines.append(f"never fired {', '.join(never)}")
    lines += [f"NOT HERE    {fault}: {why}" for fault, why in found["not_here"].items()]
    if found["elections"] is not None:
        reasons = ", ".join(f"{reason} {count}" for reason, count in found["election_reasons"].items())
        lines.append(f"elections   {found['elections']} won; reasons that replicas had to hold one: {reasons}")
    lines.append("operations  " + ", ".join(f"{op} {count}" for op, count in found["operations"].items()))
    lines.append(
        f"outcomes    answered {found['answered']}, refused {found['refused']}, unknown {found['unknown']}, "
        f"never answered {found['unanswered']}"
    )
    lines.append(f"longest gap {found['longest_gap_ms']} ms without any answer, from {found['longest_gap_at_s']:.3f} s")
    return lines
