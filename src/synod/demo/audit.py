"""The audit as a process of its own: `python -m synod.demo.audit HISTORY STORE [--cell HOSTS --status URL,URL,...]`.

It reads what the load client wrote and what the store holds, and asks each replica for its digest. It shares no
memory with whom it judges. Exit code 0 when every promise holds, 1 when one does not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from synod.base import NodeExists, SynodError
from synod.client import connect

from ._audit import Check, Row, check_exactly_once, check_items, check_order, check_tokens, read_history, report

DIGESTS_S: Final = 30.0  # a replica that was killed may still be catching up
NUDGES_MAX: Final = 4_096  # a digest is due at every 1,024th slot; several writes may share a slot
NUDGE_PATH: Final = "/demo-audit"


def read_store(path: Path) -> tuple[list[Row], dict[str, tuple[int, int]]]:
    """The ledger in its order, and the items."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        rows = [Row(*row) for row in store.execute("SELECT * FROM ledger ORDER BY position")]
        items = {
            sku: (stock, version) for sku, stock, version in store.execute("SELECT sku, stock, version FROM items")
        }
    return rows, items


def check_digests(hosts: str, urls: list[str]) -> Check:
    """All replicas have the same digest at the same slot, one that lies after the end of the run."""
    check = Check("the replicas' digests equal at one slot")
    try:
        beyond = max(status["applied_slot"] for status in map(_status, urls))
        asyncio.run(_nudge(hosts, urls, beyond))
        statuses = _equal_slots(urls, beyond)
    except (OSError, ValueError, SynodError) as failure:
        check.expect(holds=False, problem=f"the replicas could not be compared: {failure}")
        return check
    slots = {status["id"]: status["digest_slot"] for status in statuses}
    check.expect(
        len(set(slots.values())) == 1, f"the replicas have no digest of one slot after {DIGESTS_S:g} s: {slots}"
    )
    digests = {status["id"]: status["digest"] for status in statuses}
    check.expect(len(set(digests.values())) == 1, f"the digests differ: {digests}")
    return check


async def _nudge(hosts: str, urls: list[str], beyond: int) -> None:
    """Write until a digest of a slot after `beyond` was due."""
    async with connect(hosts) as cell:
        with contextlib.suppress(NodeExists):
            await cell.create(NUDGE_PATH)
        for number in range(NUDGES_MAX):
            if number % 64 == 0 and max(status["digest_slot"] for status in map(_status, urls)) > beyond:
                return
            await cell.set(NUDGE_PATH, b"")


def _equal_slots(urls: list[str], beyond: int) -> list[dict[str, Any]]:
    until = time.monotonic() + DIGESTS_S
    while True:
        statuses = [_status(url) for url in urls]
        slots = {status["digest_slot"] for status in statuses}
        if (len(slots) == 1 and min(slots) > beyond) or time.monotonic() > until:
            return statuses
        time.sleep(0.05)


def _status(url: str) -> dict[str, Any]:
    with urlopen(f"{url}/status", timeout=5) as answer:  # noqa: S310 - the parent's own addresses
        status: dict[str, Any] = json.load(answer)
        return status


def audit(history: Path, store: Path, *, cell: str = "", status: tuple[str, ...] = ()) -> dict[str, Any]:
    """The whole audit, as a JSON document."""
    with history.open(encoding="utf-8") as lines:
        run = read_history(lines)
    rows, items = read_store(store)
    checks = [check_exactly_once(run, rows), check_order(run, rows), check_tokens(rows), check_items(rows, items)]
    if status:
        checks.append(check_digests(cell, list(status)))
    return report(run, checks)


def text_of(document: dict[str, Any]) -> str:
    """The report for people."""
    requests, lines = document["requests"], []
    lines.append(
        f"{requests['answered']} answers in {document['seconds']:.1f} s ({requests['per_second']} a second): "
        f"{requests['reads']} reads, {requests['writes']} writes; {requests['sent']} attempts, "
        f"{requests['outcome_unknown']} with unknown outcome, {requests['never_answered']} never answered"
    )
    for kind, latency in document["latency_ms"].items():
        if latency:
            lines.append(f"  {kind}s: " + ", ".join(f"{name} {value:g} ms" for name, value in latency.items()))
    total = max(1, requests["answered"])
    for name, counts in document["instances"].items():
        share = sum(counts.values()) / total
        lines.append(
            f"  instance {name}: {counts.get('read', 0)} reads, {counts.get('write', 0)} writes ({share:.1%} of all)"
        )
    lines.extend(
        f"  at {kill['at_s']:.1f} s killed {kill['what']}: longest gap {kill['longest_gap_ms']:g} ms "
        f"(reads {kill['longest_gap_reads_ms']:g}, writes {kill['longest_gap_writes_ms']:g}), "
        f"slowest answer {kill['slowest_answer_ms']:g} ms"
        for kill in document["kills"]
    )
    for check in document["checks"]:
        verdict = "ok    " if check["holds"] else "FAILED"
        lines.append(f"{verdict} {check['promise']} ({check['examined']} facts)")
        lines.extend(f"         {problem}" for problem in check["first_problems"])
        if check["problems"] > len(check["first_problems"]):
            lines.append(f"         ... {check['problems']} in all")
    lines.append("The audit holds." if document["holds"] else "THE AUDIT FAILED.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m synod.demo.audit", description=__doc__)
    parser.add_argument("history", type=Path, help="the JSON lines of the load client")
    parser.add_argument("store", type=Path, help="the SQLite file of the instances")
    parser.add_argument("--cell", default="", help="host:port,... of the cell, with --status")
    parser.add_argument("--status", default="", help="http://host:port,... of the replicas")
    parser.add_argument("--json", action="store_true", help="a JSON document instead of text")
    options = parser.parse_args(arguments)
    status = tuple(url for url in options.status.split(",") if url)
    document = audit(options.history, options.store, cell=options.cell, status=status)
    print(json.dumps(document) if options.json else text_of(document))  # noqa: T201 - a command
    return 0 if document["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
