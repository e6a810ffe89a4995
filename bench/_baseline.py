"""`make bench-self`: the cell alone on a few rows, against the figures that the previous release left behind.

Machines differ, so a figure is stored and compared as a ratio to a calibration: what one Python thread of the same
machine does with small messages over a socket pair. It informs and fails nothing: a shared machine varies more than
a release does.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from synod import __version__

from ._bench import OURS, SYNOD, make, told
from ._report import machine
from ._rows import ROWS, measure

BASELINE: Final = Path(__file__).parent / "baseline.json"
TITLES: Final = ("write 1:1", "write 64:1", "write 16:32", "read, linearizable 64:1", "mixed, 90 % local reads 64:1")
TURNS: Final = 2
WARM_S: Final = 0.3
MEASURE_S: Final = 1.0
CALIBRATION_S: Final = 0.2
CALIBRATIONS: Final = 5
NOTEWORTHY: Final = 0.15

_MESSAGE: Final = struct.Struct(">iiq64s")


def calibrate() -> float:
    """Round trips a second of one thread with itself: the best of a few short tries."""
    ours, theirs = socket.socketpair()
    best = 0.0
    with ours, theirs:
        for _ in range(CALIBRATIONS):
            count = 0
            seen: dict[int, bytes] = {}
            began = time.perf_counter()
            while (took := time.perf_counter() - began) < CALIBRATION_S:
                for number in range(50):
                    ours.send(_MESSAGE.pack(number, count, 0, b"calibration"))
                    key, _, _, text = _MESSAGE.unpack(theirs.recv(_MESSAGE.size))
                    seen[key] = text
                count += 50
            best = max(best, count / took)
    return best


def figures(names: list[str]) -> dict[str, Any]:
    """Each of our columns on the few rows: medians, and ratios to the calibration."""
    rows = [row for row in ROWS if row.title in TITLES]
    unit = calibrate()
    found: dict[str, dict[str, float]] = {}
    for name in [name for name in names if name in OURS]:
        rates: dict[str, list[float]] = {row.title: [] for row in rows}
        for reads in dict.fromkeys(row.reads for row in rows):
            with (
                tempfile.TemporaryDirectory(prefix="synod-bench-") as directory,
                make(name, Path(directory), settings={"reads": reads}) as cell,
            ):
                for _ in range(TURNS):
                    for row in rows:
                        if row.reads == reads:
                            with told(f"{row.title}: {name}"):
                                one = measure(cell, row, warm_s=WARM_S, measure_s=MEASURE_S)
                            rates[row.title].append(one.rate)
        found[name] = {title: median(values) for title, values in rates.items()}
    return {"version": __version__, "machine": machine(), "calibration": unit, "rates": found}


def compare(now: dict[str, Any], before: dict[str, Any] | None) -> str:
    """A table: what it is now, and how it went since the stored figures."""
    since = f"since {before['version']}" if before else "nothing stored"
    lines = [f"calibration: {now['calibration']:,.0f} round trips a second", ""]
    lines.append(f"{'row':32} {'core':18} {'1/s':>10} {'ratio':>8} {since:>16}")
    for name, rates in now["rates"].items():
        for title, rate in rates.items():
            ratio = rate / now["calibration"]
            told_ = ""
            old = before and before["rates"].get(name, {}).get(title)
            if before and old:
                change = ratio / (old / before["calibration"]) - 1
                told_ = f"{change:+.0%}" + (" !" if abs(change) > NOTEWORTHY else "")
            lines.append(f"{title:32} {name:18} {rate:10,.0f} {ratio:8.3f} {told_:>16}")
    return "\n".join(lines)


def run(names: list[str], *, save: bool) -> None:
    """Measure, compare, and keep the figures for the next release where that is asked for."""
    if names == [SYNOD]:
        sys.stderr.write("only the pure core is measured here; `make compiled` makes the other\n")
    now = figures(names)
    before = json.loads(BASELINE.read_text()) if BASELINE.exists() else None
    sys.stdout.write(compare(now, before) + "\n")
    if save:
        BASELINE.write_text(json.dumps(now, indent=1) + "\n")
