"""The command `python -m bench`: the systems in turns, row by row, and a table of medians and ratios."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ._failover import gap_s
from ._report import machine, markdown, ratio, summary
from ._rows import LOCAL_READS, ROWS, Row, measure
from .peers import Etcd, Peer, SynodCell, ZooKeeper, resident_bytes, zookeeper_command

SYNOD, ZOOKEEPER, ETCD = "synod", "ZooKeeper", "etcd"


class Bench:
    """One run.

    Args:
        names: the systems, synod first.
        turns: how often each system has its turn at every row.
        warm_s: before each measurement.
        measure_s: of each measurement.
        faults: leaders to kill, and to silence, of each system.
        replicas: of each system.
    """

    def __init__(
        self, names: list[str], *, turns: int, warm_s: float, measure_s: float, faults: int, replicas: int
    ) -> None:
        self._names = names
        self._turns = turns
        self._warm_s = warm_s
        self._measure_s = measure_s
        self._faults = faults
        self._replicas = replicas
        self._rows: list[dict[str, Any]] = []
        self.versions: dict[str, str] = {}

    def run(self, rows: tuple[Row, ...]) -> dict[str, Any]:
        """Measure everything; the report."""
        with tempfile.TemporaryDirectory(prefix="synod-bench-") as directory:
            self._load_rows(Path(directory) / "load", rows)
            for title, fault in (("leader killed", _kill), ("leader silent", _silence)):
                if self._faults:
                    self._fault_row(Path(directory) / title, title, fault)
        return {"machine": machine(), "systems": self.versions, "rows": self._rows}

    def _make(self, name: str, directory: Path, reads: str = "linearizable") -> Peer:
        if name == ZOOKEEPER:
            return ZooKeeper(directory, self._replicas)
        if name == ETCD:
            return Etcd(directory, self._replicas)
        return SynodCell(directory, self._replicas, settings={"reads": reads})

    # -- load ------------------------------------------------------------------------------------------------

    def _load_rows(self, directory: Path, rows: tuple[Row, ...]) -> None:
        """All systems stand idle beside the one that is loaded; A B C A B C, so that drift cancels."""
        with ExitStack() as stack:
            running = {name: stack.enter_context(self._make(name, directory / name)) for name in self._names}
            local = stack.enter_context(self._make(SYNOD, directory / "local", LOCAL_READS))
            self.versions = {name: system.version() for name, system in running.items()}
            self._memory_row("memory of a replica, empty", running)
            for row in rows:
                rates, slow, load = defaultdict(list), defaultdict(list), defaultdict(list)
                for _ in range(self._turns):
                    for name, system in running.items():
                        system = local if name == SYNOD and row.reads == LOCAL_READS else system
                        with told(f"{row.title}: {name}"):
                            measured = measure(system, row, warm_s=self._warm_s, measure_s=self._measure_s)
                        rates[name].append(measured.rate)
                        slow[name].append(measured.p99_us / 1_000)
                        load[name].append(measured.generator)
                self._add(row.title, "1/s", summary(rates), more_is_better=True)
                self._rows[-1] |= {"p99_ms": summary(slow), "generator_cores": summary(load)}
            self._memory_row("memory of a replica, after the load", running)

    def _memory_row(self, title: str, running: dict[str, Peer]) -> None:
        values = {
            name: max(resident_bytes(system.processes.pid(i)) for i in range(system.replicas)) / 2**20
            for name, system in running.items()
        }
        self._add(title, "MiB", values, more_is_better=False)

    # -- faults ----------------------------------------------------------------------------------------------

    def _fault_row(self, directory: Path, title: str, fault: Callable[[Peer, int], None]) -> None:
        gaps: dict[str, list[float]] = defaultdict(list)
        for name in self._names:
            with self._make(name, directory / name) as system:
                for number in range(self._faults):
                    with told(f"{title} {number + 1} of {self._faults}: {name}"):
                        gaps[name].append(asyncio.run(gap_s(system, lambda leader, s=system: fault(s, leader))))
                        for i, process in enumerate(system.processes.running):
                            if process is None:
                                system.processes.start(i)
                            else:
                                system.processes.resume(i)
                        system.wait_serving()
        self._add(f"{title}: median gap", "s", summary(gaps), more_is_better=False)
        worst = {name: max(values) for name, values in gaps.items()}
        self._add(f"{title}: worst gap of {self._faults}", "s", worst, more_is_better=False)

    def _add(self, title: str, unit: str, values: dict[str, float], *, more_is_better: bool) -> None:
        self._rows.append(
            {"title": title, "unit": unit, "values": values, "ratio": ratio(values, more_is_better=more_is_better)}
        )


def _kill(system: Peer, leader: int) -> None:
    system.processes.kill(leader)


def _silence(system: Peer, leader: int) -> None:
    system.processes.pause(leader)


@contextmanager
def told(text: str) -> Iterator[None]:
    """What is measured now, on a terminal's last line."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
    yield
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about three minutes")
    parser.add_argument("--smoke", action="store_true", help="only that everything can be measured; no figures")
    parser.add_argument("--rows", default="", help="only rows whose title holds this text")
    parser.add_argument("--faults", type=int, help="leaders to kill and to silence")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the report to this file as well")
    options = parser.parse_args()
    names = [SYNOD]
    names += [ZOOKEEPER] if zookeeper_command() else []
    names += [ETCD] if shutil.which("etcd") else []
    for missing in {ZOOKEEPER, ETCD} - set(names):
        print(f"{missing} is not installed here: its column is missing", file=sys.stderr)
    turns, warm_s, measure_s, faults = (5, 1.0, 4.0, 20)
    if options.quick:
        turns, warm_s, measure_s, faults = (1, 0.5, 2.0, 3)
    if options.smoke:
        turns, warm_s, measure_s, faults = (1, 0.1, 0.3, 1)
    faults = faults if options.faults is None else options.faults
    bench = Bench(names, turns=turns, warm_s=warm_s, measure_s=measure_s, faults=faults, replicas=options.replicas)
    rows = tuple(row for row in ROWS if options.rows in row.title)[:: 4 if options.smoke else 1]
    document = bench.run(rows)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    facts = document["machine"]
    print(f"{facts['date']}, {facts['cores']} cores of {facts['cpu']}, Python {facts['python']}")
    print(", ".join(f"{name} {version}" for name, version in document["systems"].items()), end="\n\n")
    print(markdown(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
