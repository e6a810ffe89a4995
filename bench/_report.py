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


def ratio(values: Mapping[str, float], *, more_is_better: bool) -> float | None:
    """The first system's figure against the better of the others; above 1 it is ahead."""
    ours, *others = values.values()
    if not others or not ours:
        return None
    return ours / max(others) if more_is_better else min(others) / ours


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report as a Markdown table."""
    names = list(document["systems"])
    head = ["row", *(f"{name}" for name in names), "ratio to the better peer", "p99 ms " + " / ".join(names)]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for row in document["rows"]:
        cells = [row["title"]]
        cells += [_figure(row["values"].get(name), row["unit"]) for name in names]
        cells.append(f"{row['ratio']:.2f}" if row["ratio"] is not None else "-")
        p99 = row.get("p99_ms") or {}
        cells.append(" / ".join(f"{p99[name]:.1f}" if name in p99 else "-" for name in names) if p99 else "")
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "1/s":
        return f"{value:,.0f}"
    return f"{value:.3f} {unit}" if unit == "s" else f"{value:.1f} {unit}"
