"""`synod status`: what each replica says of itself in answer to the word `mntr`."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from synod.client import parse_hosts

from ._output import DONE, UNAVAILABLE, print_json

COLUMNS: Final = {
    "applied_slot": "zk_synod_applied_slot",
    "znode_count": "zk_znode_count",
    "sessions": "zk_global_sessions",
    "num_alive_connections": "zk_num_alive_connections",
}
"""What a row holds beside address and state, and how `mntr` calls it; ZooKeeper knows all but the first."""


async def ask(host: str, port: int, word: bytes, timeout: float) -> str | None:  # noqa: ASYNC109 -- a user's option
    """What a replica answers to a four-letter word, or None."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(word)
            data = await reader.read()
            writer.close()
            return data.decode(errors="replace")
    except (OSError, TimeoutError):
        return None


def show_status(hosts: str, *, timeout: float, as_json: bool) -> int:
    """Print a row per replica; the exit code is 0 when a leader serves."""
    addresses = parse_hosts(hosts)

    async def gather() -> list[str | None]:
        return list(await asyncio.gather(*(ask(host, port, b"mntr", timeout) for host, port in addresses)))

    rows: list[dict[str, str]] = []
    for (host, port), answer in zip(addresses, asyncio.run(gather()), strict=True):
        row = {"address": f"{host}:{port}", "state": "unreachable"}
        if answer is not None:
            values = dict(line.split("\t", 1) for line in answer.splitlines() if "\t" in line)
            row["state"] = values.get("zk_server_state", "no leader is heard")
            for column, name in COLUMNS.items():
                row[column] = values.get(name, "")
        rows.append(row)
    serving = any(row["state"] in ("leader", "standalone") for row in rows) or any(
        row["state"] == "follower" for row in rows
    )
    if as_json:
        print_json({"serving": serving, "replicas": rows})
    else:
        _print_table(rows)
    return DONE if serving else UNAVAILABLE


def _print_table(rows: list[dict[str, str]]) -> None:
    columns = ["address", "state", *COLUMNS]
    titles = ["replica", "state", "applied slot", "znodes", "sessions", "connections"]
    cells = [titles] + [[row.get(column, "") for column in columns] for row in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    for at, line in enumerate(cells):
        text = "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip()
        if at == 0 and sys.stdout.isatty():
            text = f"\x1b[1m{text}\x1b[0m"
        sys.stdout.write(text + "\n")
