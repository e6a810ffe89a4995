"""`synod status`: what each replica says of itself, side by side.

It asks the clients' ports, with the word `synd`, since those are what a user knows. A replica that serves nobody
answers it as well; one that is down is shown as such.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import textwrap
import time
from typing import Any, Final

from synod.client import parse_hosts

from ._output import DONE, UNAVAILABLE, print_json

Row = dict[str, Any]

COLUMNS: Final = (
    "id",
    "address",
    "state",
    "applied slot",
    "lag",
    "sessions",
    "connections",
    "version",
    "level",
    "last election",
)
NARROW: Final = ("version", "level", "last election")
"""What goes to lines of its own where the terminal is too narrow for the whole table."""

DETAILS: Final = (
    "id",
    "digest slot",
    "snapshot slot",
    "log",
    "batch bytes mean/p99/max",
    "writes per sync mean/p99/max",
    "sync ms p99/max",
    "loop lag ms p99/max",
    "heartbeat gap ms p99/max",
    "stalls",
    "elections",
)
PUNCTUAL: Final = ("sync_seconds", "loop_lag_seconds", "heartbeat_gap_seconds")

UNREACHABLE: Final = "unreachable"
INDENT: Final = "      "


async def ask(host: str, port: int, word: bytes, timeout: float) -> str | None:  # noqa: ASYNC109 -- a user's option
    """What a replica answers to a four-letter word, or None."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(word)
                return (await reader.read()).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None


async def only_reads(hosts: str) -> bool:
    """Whether a replica says that its cell has no room to write."""
    answers = await asyncio.gather(*(ask(host, port, b"isro", 1.0) for host, port in parse_hosts(hosts)))
    return "ro" in answers


def show_status(hosts: str, *, timeout: float, as_json: bool, details: bool = False) -> int:
    """Print a row per replica; the exit code is 0 when somebody serves."""
    addresses = parse_hosts(hosts)

    async def gather() -> list[str | None]:
        return list(await asyncio.gather(*(ask(host, port, b"synd", timeout) for host, port in addresses)))

    rows: list[Row] = []
    for (host, port), answer in zip(addresses, asyncio.run(gather()), strict=True):
        row: Row = {"state": UNREACHABLE} if answer is None else _read(answer)
        rows.append({"address": f"{host}:{port}", **row})
    serving = any(row.get("readable") for row in rows)
    leader = next((row["id"] for row in rows if row["state"] == "leader"), None)
    if as_json:
        print_json({"serving": serving, "leader": leader, "replicas": rows, "silent": silent_members(rows)})
    else:
        width = shutil.get_terminal_size((1000, 24)).columns if sys.stdout.isatty() else 1000
        sys.stdout.write("".join(f"{line}\n" for line in table(rows, width, bold=sys.stdout.isatty())))
        if details:
            sys.stdout.write("".join(f"{line}\n" for line in ("", *details_table(rows))))
    return DONE if serving else UNAVAILABLE


def _read(answer: str) -> Row:
    """The status of a replica, with its `state`; whoever answers otherwise is no replica of synod."""
    try:
        status = json.loads(answer)
        role = str(status["role"])
    except (ValueError, KeyError, TypeError):
        return {"state": "no replica of synod"}
    state = role if status["readable"] else "no leader is heard" if status["leader"] is None else "not ready"
    if status["read_only"]:
        state += ", read-only"
    if status["abstaining"]:
        state += ", abstains"
    return {**status, "state": state}


def silent_members(rows: list[Row]) -> list[Row]:
    """The members that no answer came from, as the others know them: their peer addresses, and who is connected.

    `silent_ms` is how long the leader has had no answer from it, where that is longer than an election timeout.
    """
    known = {row["id"] for row in rows if "id" in row}
    silent: dict[int, Row] = {}
    for row in rows:
        for peer in row.get("peers", ()):
            if peer["id"] not in known:
                unheard = {"id": peer["id"], "peer_address": peer["address"], "connected_to": [], "silent_ms": None}
                entry = silent.setdefault(peer["id"], unheard)
                if peer["connected"]:
                    entry["connected_to"].append(row["id"])
                entry["silent_ms"] = overdue_ms(peer, row) or entry["silent_ms"]
    return [silent[id_] for id_ in sorted(silent)]


def table(rows: list[Row], width: int, *, bold: bool = False, now: float | None = None) -> list[str]:
    """The lines of the table, some to a replica where it would be wider than `width`."""
    lag = {peer["id"]: peer["lag"] for row in rows for peer in row.get("peers", ()) if peer["lag"] is not None}
    cells = [list(COLUMNS), *(_cells(row, lag, time.time() if now is None else now) for row in rows)]
    lines = _aligned(cells)
    if max(map(len, lines)) > width:
        first = [at for at, name in enumerate(COLUMNS) if name not in NARROW]
        second = [at for at, name in enumerate(COLUMNS) if name in NARROW]
        short = _aligned([[line[at] for at in first] for line in cells])
        lines = [short[0]]
        for text, line in zip(short[1:], cells[1:], strict=True):
            lines.append(text)
            for at in second if line[-1] else ():
                more = f"{COLUMNS[at]}: {line[at]}"
                lines += textwrap.wrap(more, max(width, 20), initial_indent=INDENT, subsequent_indent=2 * INDENT)
    if bold:
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    for member in silent_members(rows):
        heard = ", ".join(map(str, member["connected_to"]))
        who = f"replica {heard} hears it" if heard else "no replica hears it"
        if member["silent_ms"] is not None:
            who = f"it is connected to replica {heard}, and has been {silent_for(member['silent_ms'])}"
        lines.append(f"replica {member['id']} (peers at {member['peer_address']}) gave no answer here; {who}")
    return lines


def details_table(rows: list[Row]) -> list[str]:
    """The lines of a second table: where each replica is with its disk, how much it writes at once, how punctual it is."""
    return _aligned([list(DETAILS), *(_details(row) for row in rows if "measures" in row)])


def _details(row: Row) -> list[str]:
    measures = row["measures"]
    ms = [f"{measures[name]['p99'] * 1000:.1f} / {measures[name]['max'] * 1000:.1f}" for name in PUNCTUAL]
    batch, shared = measures["batch_bytes"], measures["sync_writes"]
    disk = [
        f"{row['log_bytes'] / 1e6:.1f} MB",
        f"{batch['mean']:.0f} / {batch['p99']:.0f} / {batch['max']:.0f}",
        f"{shared['mean']:.1f} / {shared['p99']:.0f} / {shared['max']:.0f}",
    ]
    stalls = ", ".join(f"{what} {count}" for what, count in measures["stalls"].items())
    elections = ", ".join(f"{reason} {count}" for reason, count in measures["elections"].items() if count)
    slots = [str(row[name]) for name in ("digest_slot", "snapshot_slot")]
    return [str(row["id"]), *slots, *disk, *ms, stalls, elections]


def _aligned(cells: list[list[str]]) -> list[str]:
    widths = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
    return ["  ".join(text.ljust(size) for text, size in zip(line, widths, strict=True)).rstrip() for line in cells]


def _cells(row: Row, lag: dict[int, int], now: float) -> list[str]:
    if "id" not in row:
        return ["-", row["address"], row["state"], *[""] * (len(COLUMNS) - 3)]
    behind = "0" if row["role"] == "leader" else str(lag.get(row["id"], "?"))
    core = "" if row["compiled"] else " (pure)"
    return [
        str(row["id"]),
        row["address"],
        row["state"],
        str(row["applied_slot"]),
        behind,
        str(row["sessions"]),
        str(row["connections"]),
        row["version"] + core,
        f"{row['feature_level']} of {row['supported_level']}",
        _election(row["last_election"], now),
    ]


def _election(last: Row | None, now: float) -> str:
    if last is None:
        return "none"
    return f"{span(now - last['at_ms'] / 1000)} ago: {last['text']}"


def overdue_ms(peer: Row, told: Row) -> int:
    """How long the leader has had no answer of a peer; 0 up to an election timeout, which `told` holds."""
    silent_ms = peer.get("silent_ms") or 0  # a replica of an older version does not tell
    return silent_ms if silent_ms > told.get("election_timeout_ms", 0) else 0


def silent_for(silent_ms: int) -> str:
    """How long a silent peer is silent; an election timeout may be shorter than a second, which is told as one."""
    return f"silent for {span(max(1.0, silent_ms / 1000))}"


def span(seconds: float) -> str:
    """A time in its largest unit, rounded down."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
