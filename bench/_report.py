"""The figures as a table, as ratios, as JSON."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def summary(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each system's samples."""
    return {system: median(values) for system, values in samples.items() if values}


def ratios(values: Mapping[str, float], ours: Sequence[str], *, more_is_better: bool) -> dict[str, float]:
    """Each of our figures against the better of the peers'; above 1 it is ahead. Nothing where there is no peer."""
    peers = [value for name, value in values.items() if name not in ours]
    if not peers:
        return {}
    best = max(peers) if more_is_better else min(peers)
    found = {name: (values[name], best) if more_is_better else (best, values[name]) for name in ours if name in values}
    return {name: above / below for name, (above, below) in found.items() if below}


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report as a Markdown table."""
    names, ours = list(document["systems"]), document["ours"]
    head = ["row", *names, *(f"{name}: better peer" for name in ours), "goal"]
    each = " / ".join(names)
    head += [
        "floor",
        f"p99 ms: {each}",
        f"CPU us of all servers: {each}",
        f"generator, cores: {each}",
        f"others, cores: {each}",
    ]
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * (len(head) - 1))]
    for row in document["rows"]:
        cells = [row["title"]]
        cells += [_figure(row["values"].get(name), row["unit"]) for name in names]
        cells += [f"{row['ratios'][name]:.2f}" if name in row["ratios"] else "-" for name in ours]
        cells.append(f"{row['goal']:.2g}" if row.get("goal") else goal_of(row["title"]))
        floor = row.get("floor")
        cells.append(f"{floor['rate']:,.0f} ({floor['servers_cpu_us']:.1f} us)" if floor else "")
        cells.append(_each(row, "p99_ms", names, "1f") or row.get("note", ""))
        cells += [_each(row, key, names, form) for key, form in EACH]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


EACH: Final = (("servers_cpu_us", "1f"), ("generator_cores", "2f"), ("others_cores", "2f"))


def _each(row: Mapping[str, Any], key: str, names: Sequence[str], form: str) -> str:
    """One cell with the figure of every system; for gaps, how many there were."""
    if key == "p99_ms" and (gaps := row.get("gaps_s")):
        return "of " + " / ".join(str(len(gaps.get(name, ()))) for name in names)
    figures = row.get(key)
    return " / ".join(f"{figures[name]:.{form}}" if name in figures else "-" for name in names) if figures else ""


GOALS: Final = {
    "leader killed: median": "0.2 s",
    "leader killed: worst": "0.5 s",
    "leader silent: worst": "1 s",
    "empty cell to first write": "0.5 s",
    "`synod up` to first write": "0.9 s",
    "memory of a replica, empty": "45 / 50 MB",
    "memory of a replica, 100,000 znodes": "110 / 140 MB",
    "memory of a replica, and 10,000 idle": "160 / 200 MB",
    "CPU of all replicas, 10,000 idle sessions of 30": "0.1 core",
    "CPU of all replicas, 10,000 idle sessions of 10": "0.15 core",
    "false elections": "none",
}
"""The goals that are no ratios, by how the title of their row begins."""


def goal_of(title: str) -> str:
    """The absolute goal of a row, or nothing."""
    return next((goal for start, goal in GOALS.items() if title.startswith(start)), "")


def merged(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report out of several runs of parts of it; of what was measured twice the last counts."""
    systems: dict[str, str] = {}
    ours: dict[str, None] = {}
    rows: dict[str, dict[str, Any]] = {}
    for document in documents:
        systems |= {name: version for name, version in document["systems"].items() if version or name not in systems}
        ours |= dict.fromkeys(document["ours"])
        for row in document["rows"]:
            known = rows.setdefault(row["title"], {})
            for key, value in row.items():
                known[key] = {**known.get(key, {}), **value} if isinstance(value, dict) else value
    order = sorted(systems, key=lambda name: name not in ours)
    for row in rows.values():
        row["ratios"] = ratios(row["values"], list(ours), more_is_better=row["unit"] == "1/s")
    return {**documents[0], "systems": {n: systems[n] for n in order}, "ours": list(ours), "rows": list(rows.values())}


def heading(document: Mapping[str, Any]) -> str:
    """On what, of what and when."""
    facts = document["machine"]
    disk = facts.get("disk")
    where = (
        f"{facts['date']}, {facts['cores']} cores of {facts['cpu']}, {facts['memory_gb']} GB, "
        f"Linux {facts['kernel']}, Python {facts['python']}, {facts.get('replicas', 3)} replicas"
    )
    lines = [where, ", ".join(f"{name} {version}" for name, version in document["systems"].items())]
    if disk:
        lines.append(f"the disk: {disk['synced_mb_s']} MB/s synced, {disk['sync_us']} us for one small sync")
    return "  \n".join(lines)


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit in ("1/s", "elections"):
        return f"{value:,.0f}"
    return f"{value:.3f} {unit}" if unit in ("s", "cores") else f"{value:.1f} {unit}"
