"""One run of the benchmark: which system runs when, and what becomes a row of the report."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from ._failover import gap_s
from ._fanout import medians, rounds
from ._floor import REPLICAS as FLOOR_REPLICAS
from ._floor import Floor
from ._load import Measured
from ._proc import disk, resident_mib, sessions_allowed
from ._report import machine, ratios, summary
from ._rows import LOCAL_READS, ROWS, Row, measure
from ._start import first_write_s, up_s
from ._steady import steady
from .peers import COMPILED_PYTHON, Etcd, Peer, SynodCell, ZooKeeper

COMPILED: Final = "synod (compiled)"
SYNOD: Final = "synod"
ZOOKEEPER: Final = "ZooKeeper"
ETCD: Final = "etcd"
OURS: Final = (COMPILED, SYNOD)
TRIES: Final = 3
SLICE_S: Final = 20.0
"""A long load is measured in slices: every latency is kept until its end."""

WARM_UP: Final = Row("warm-up", "mixed", 64, 1)


@dataclass(frozen=True)
class Effort:
    """How long and how often.

    Args:
        turns: how often each system has its turn at every row.
        warm_s: before each measurement.
        measure_s: of each measurement.
        warm_up_s: of each system, once, before the first row: a JVM compiles while it runs.
        faults: leaders to kill, and to silence, of each system.
        watchers: of the fan-out.
        rounds: of the fan-out, in each turn.
        starts: of an empty cell.
        znodes: to fill for the row of memory.
        sessions: idle ones.
        idle_s: for which their cost is watched.
        full_load_s: for which ours is driven as hard as it goes while nobody may call an election; 0 leaves it out.
    """

    turns: int = 5
    warm_s: float = 1.0
    measure_s: float = 4.0
    warm_up_s: float = 10.0
    faults: int = 20
    watchers: int = 1_000
    rounds: int = 20
    starts: int = 10
    znodes: int = 100_000
    sessions: int = 10_000
    idle_s: float = 20.0
    full_load_s: float = 600.0


QUICK: Final = Effort(
    turns=1,
    warm_s=0.2,
    measure_s=0.8,
    warm_up_s=2.0,
    faults=1,
    starts=1,
    znodes=20_000,
    sessions=1_000,
    idle_s=3.0,
    full_load_s=0.0,
)
SMOKE: Final = Effort(
    turns=1,
    warm_s=0.1,
    measure_s=0.3,
    warm_up_s=0.0,
    faults=1,
    watchers=50,
    rounds=3,
    starts=1,
    znodes=1_000,
    sessions=100,
    idle_s=0.5,
    full_load_s=0.5,
)


def make(
    name: str, directory: Path, replicas: int = 3, settings: Mapping[str, object] | None = None
) -> ZooKeeper | Etcd | SynodCell:
    """A system by its name, not yet started."""
    if name == ZOOKEEPER:
        return ZooKeeper(directory, replicas)
    if name == ETCD:
        return Etcd(directory, replicas)
    return SynodCell(directory, replicas, settings=settings, pythons=(python_of(name),))


def python_of(name: str) -> str:
    """The interpreter of one of our columns."""
    return str(COMPILED_PYTHON) if name == COMPILED else sys.executable


class Bench:
    """One run.

    Args:
        names: the systems, ours first.
        effort: how long and how often.
        replicas: of each system.
    """

    def __init__(self, names: Sequence[str], effort: Effort, *, replicas: int) -> None:
        self._names = names
        self._effort = effort
        self._replicas = replicas
        self._rows: list[dict[str, Any]] = []
        self._versions: dict[str, str] = {}

    def run(self, rows: Sequence[Row], *, only: Sequence[str] = ("",)) -> dict[str, Any]:
        """Measure these rows, and everything else whose title holds one of `only`; the report."""
        parts: tuple[tuple[str, Callable[[Path], None]], ...] = (
            ("watch fan-out", self._fan_out_row),
            ("empty cell to first write, synod up", self._start_rows),
            ("memory, CPU, idle sessions", self._steady_rows),
            ("leader killed", lambda directory: self._fault_row(directory, "leader killed", _kill)),
            ("leader silent", lambda directory: self._fault_row(directory, "leader silent", _silence)),
            ("false elections", self._full_load_row),
        )
        with tempfile.TemporaryDirectory(prefix="synod-bench-") as name:
            directory = Path(name)
            facts = machine() | {"disk": disk(directory), "replicas": self._replicas}
            if rows:
                self._load_rows(directory / "load", rows)
            for title, part in parts:
                if any(part in title for part in only):
                    part(directory / title.partition(",")[0].replace(" ", "-"))
        systems = {name: self._versions.get(name, "") for name in self._names}
        return {"machine": facts, "systems": systems, "ours": [n for n in self._names if n in OURS], "rows": self._rows}

    def _make(self, name: str, directory: Path, reads: str = "linearizable") -> Peer:
        return make(name, directory / name.replace(" ", "-"), self._replicas, {"reads": reads})

    @contextmanager
    def _running(self, name: str, directory: Path) -> Iterator[Peer]:
        with self._make(name, directory) as system:
            self._versions.setdefault(name, system.version())
            yield system

    # -- load ------------------------------------------------------------------------------------------------

    def _load_rows(self, directory: Path, rows: Sequence[Row]) -> None:
        """All systems stand idle beside the one that is loaded; A B C A B C, so that drift cancels.

        The cell runs once for each read mode, the peers run through.
        """
        with ExitStack() as stack:
            peers = {
                name: stack.enter_context(self._running(name, directory)) for name in self._names if name not in OURS
            }
            floor = stack.enter_context(Floor(directory / "floor")) if self._replicas == FLOOR_REPLICAS else None
            self._warm_up(peers)
            for reads in dict.fromkeys(row.reads for row in rows):
                with ExitStack() as cells:
                    below = directory / reads
                    ours = {
                        name: cells.enter_context(self._make(name, below, reads))
                        for name in self._names
                        if name in OURS
                    }
                    self._versions |= {name: cell.version() for name, cell in ours.items()}
                    self._warm_up(ours)
                    for row in rows:
                        if row.reads == reads:
                            self._load_row(row, ours | peers, floor if row.has_floor else None)
                    if reads != LOCAL_READS:
                        values = {name: resident_mib(system) for name, system in (ours | peers).items()}
                        self._add("memory of a replica, after the load", "MiB", values, more_is_better=False)

    def _warm_up(self, systems: Mapping[str, Peer]) -> None:
        if self._effort.warm_up_s:
            for name, system in systems.items():
                with told(f"warm-up: {name}"):
                    measure(system, WARM_UP, warm_s=0.0, measure_s=self._effort.warm_up_s)

    def _load_row(self, row: Row, systems: Mapping[str, Peer], floor: Floor | None) -> None:
        found: dict[str, list[Measured]] = defaultdict(list)
        least: list[Measured] = []
        for _ in range(self._effort.turns):
            for name, system in systems.items():
                with told(f"{row.title}: {name}"):
                    found[name].append(self._measured(name, system, row))
            if floor is not None:
                with told(f"{row.title}: floor"):
                    least.append(self._measured("floor", floor, row))

        def medians_of(figure: Callable[[Measured], float]) -> dict[str, float]:
            return {name: median(figure(one) for one in runs) for name, runs in found.items()}

        self._add(row.title, "1/s", medians_of(lambda one: one.rate), more_is_better=True, goal=row.goal)
        self._rows[-1] |= {
            "reads": row.reads,
            "p50_ms": medians_of(lambda one: one.p50_us / 1_000),
            "p99_ms": medians_of(lambda one: one.p99_us / 1_000),
            "max_ms": medians_of(lambda one: one.max_us / 1_000),
            "generator_cores": medians_of(lambda one: one.generator),
            "servers_cpu_us": medians_of(lambda one: one.cost_us),
            "others_cores": medians_of(lambda one: one.others),
            "samples": {name: [round(one.rate) for one in runs] for name, runs in found.items()},
        }
        if least:
            self._rows[-1]["floor"] = {
                "rate": median(one.rate for one in least),
                "servers_cpu_us": median(one.cost_us for one in least),
                "generator_cores": median(one.generator for one in least),
            }

    def _measured(self, name: str, system: Peer, row: Row) -> Measured:
        """One turn; whoever ends a connection in its midst has another one, for the sake of all rows before it."""
        for tries_left in range(TRIES - 1, -1, -1):
            try:
                return measure(system, row, warm_s=self._effort.warm_s, measure_s=self._effort.measure_s)
            except (OSError, RuntimeError) as failure:
                if not tries_left:
                    raise
                print(f"{row.title}: {name}: {failure}; once more", file=sys.stderr)
        raise AssertionError

    # -- watches, starts, idleness ---------------------------------------------------------------------------

    def _fan_out_row(self, directory: Path) -> None:
        """With bare sockets beside it: what the kernel and this generator take in any case."""
        watchers = sessions_allowed(self._effort.watchers)
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        with ExitStack() as stack:
            running: dict[str, Peer | None] = {
                name: stack.enter_context(self._running(name, directory)) for name in self._names
            }
            for _ in range(self._effort.turns):
                for name, system in (running | {"bare sockets": None}).items():
                    with told(f"watch fan-out: {name}"), rounds(system, watchers) as fan_out:
                        fan_out.one()
                        found[name] += [fan_out.one() for _ in range(self._effort.rounds)]
        results = {name: medians(samples) for name, samples in found.items()}
        bare = results.pop("bare sockets")
        values = {name: 1_000 * result.sent_s for name, result in results.items()}
        self._add(f"watch fan-out, {watchers:,} watchers", "ms", values, more_is_better=False, goal=1 / 0.7)
        self._rows[-1] |= {
            "after_acknowledgement_ms": {name: 1_000 * result.acknowledged_s for name, result in results.items()},
            "bare_sockets_ms": 1_000 * bare.sent_s,
            "note": f"bare sockets {1_000 * bare.sent_s:.1f} ms",
        }

    def _start_rows(self, directory: Path) -> None:
        found: dict[str, list[float]] = defaultdict(list)
        ups: dict[str, list[float]] = defaultdict(list)
        for number in range(self._effort.starts):
            for name in self._names:
                with told(f"empty cell to first write: {name}"):
                    found[name].append(first_write_s(self._make(name, directory / str(number))))
                    if name in OURS:
                        below = directory / f"{number}-up-{name.replace(' ', '-')}"
                        below.mkdir(parents=True)
                        ups[name].append(up_s(below, python_of(name)))
        self._add("empty cell to first write", "s", summary(found), more_is_better=False)
        self._add("`synod up` to first write", "s", summary(ups), more_is_better=False)

    def _steady_rows(self, directory: Path) -> None:
        """One system after the other: idle cells would take part in each other's memory and CPU."""
        effort = self._effort
        sessions = sessions_allowed(effort.sessions)
        found: dict[str, tuple[str, dict[str, float]]] = {}
        for name in self._names:
            with told(f"memory and idle sessions: {name}"), self._running(name, directory) as system:
                costs = steady(system, znodes=effort.znodes, sessions=sessions, seconds=effort.idle_s)
                for title, (unit, value) in costs.items():
                    found.setdefault(title, (unit, {}))[1][name] = value
        for title, (unit, values) in found.items():
            self._add(title, unit, values, more_is_better=False)

    # -- faults ----------------------------------------------------------------------------------------------

    def _fault_row(self, directory: Path, title: str, fault: Callable[[Peer, int], None]) -> None:
        faults = self._effort.faults
        if not faults:
            return
        gaps: dict[str, list[float]] = defaultdict(list)
        for name in self._names:
            with self._running(name, directory) as system:
                for number in range(faults):
                    with told(f"{title} {number + 1} of {faults}: {name}"):
                        gaps[name].append(asyncio.run(gap_s(system, lambda leader, s=system: fault(s, leader))))
                        for i, process in enumerate(system.processes.running):
                            if process is None:
                                system.processes.start(i)
                            else:
                                system.processes.resume(i)
                        system.wait_serving()
        self._add(f"{title}: median gap", "s", summary(gaps), more_is_better=False)
        worst = {name: max(values) for name, values in gaps.items()}
        self._add(f"{title}: worst gap", "s", worst, more_is_better=False)
        self._rows[-1]["gaps_s"] = {name: [round(gap, 3) for gap in values] for name, values in gaps.items()}

    def _full_load_row(self, directory: Path) -> None:
        """Nothing fails, and both cores are busy: whoever raises a ballot is mistaken."""
        seconds = self._effort.full_load_s
        if not seconds:
            return
        row = next(row for row in ROWS if row.title == "write 16:32")
        raised, rates = {}, {}
        for name in [name for name in self._names if name in OURS]:
            with told(f"full load, {seconds:.0f} s: {name}"), self._make(name, directory) as cell:
                before, began = _highest_round(cell), time.monotonic()
                slices = []
                while time.monotonic() - began < seconds:
                    slices.append(measure(cell, row, warm_s=0.0, measure_s=min(seconds, SLICE_S)).rate)
                rates[name] = median(slices)
                raised[name] = float(_highest_round(cell) - before)
        if raised:
            self._add(f"false elections in {seconds:.0f} s of {row.title}", "elections", raised, more_is_better=False)
            self._rows[-1]["note"] = " / ".join(f"{rate:,.0f} writes a second" for rate in rates.values())

    def _add(self, title: str, unit: str, values: dict[str, float], *, more_is_better: bool, goal: float = 0.0) -> None:
        self._rows.append(
            {
                "title": title,
                "unit": unit,
                "values": values,
                "ratios": ratios(values, OURS, more_is_better=more_is_better),
            }
            | ({"goal": goal} if goal else {})
        )


def _kill(system: Peer, leader: int) -> None:
    system.processes.kill(leader)


def _silence(system: Peer, leader: int) -> None:
    system.processes.pause(leader)


def _highest_round(cell: Peer) -> int:
    """Of the ballots that the replicas know."""
    assert isinstance(cell, SynodCell)
    ballots = [cell.status(number)["ballot"] for number in range(cell.replicas)]
    return max(int(ballot[0]) for ballot in ballots if isinstance(ballot, list))


@contextmanager
def told(text: str) -> Iterator[None]:
    """What is measured now, on a terminal's last line."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
    yield
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
