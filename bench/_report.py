"""The figures as a table, as ratios, as JSON."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any


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
    head = ["row", *names, *(f"{name}: better peer" for name in ours), "p99 ms: " + " / ".join(names)]
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * (len(head) - 1))]
    for row in document["rows"]:
        cells = [row["title"]]
        cells += [_figure(row["values"].get(name), row["unit"]) for name in names]
        cells += [f"{row['ratios'][name]:.2f}" if name in row["ratios"] else "-" for name in ours]
        p99 = row.get("p99_ms")
        cells.append(" / ".join(f"{p99[name]:.1f}" for name in names) if p99 else row.get("note", ""))
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "1/s":
        return f"{value:,.0f}"
    return f"{value:.3f} {unit}" if unit in ("s", "cores") else f"{value:.1f} {unit}"
