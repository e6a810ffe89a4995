"""What an operation costs as the cell grows: in znodes, in sessions, in watches; and whether it ever stands still.

Ours alone, and beside `make bench`: filling a million znodes takes its time.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ._bench import OURS, make, told
from ._fill import ROOT, fill, path
from ._load import pace
from ._proc import resident_mib, servers_cpu_s, sessions_allowed
from ._report import machine
from ._rows import ROWS, VALUE_BYTES, clients_of, measure
from ._sessions import Sessions
from ._zookeeper import GET, NODE_EXISTS, ZooKeeperClient, create, text
from .peers import Peer, SynodCell

TITLES: Final = ("write 64:1", "write 16:32", "read, linearizable 64:1", "read, linearizable 16:32")
WATCHING: Final = 10
"""Connections that hold the watches."""
STEADY_RATE: Final = 5_000
RESTING: Final = 0.1
"""Cores of all replicas: below that they only keep each other company."""
LOOK_S: Final = 1.0
"""For so long is looked at what the replicas take: the kernel counts it in hundredths of a second."""
REST_S: Final = 120.0
"""A million znodes are hashed and written in half of that, and a cell that is not done by then never will be."""
WRITES_PER_LOOK: Final = 100
"""A tenth of the slots from one digest to the next."""

State = Callable[[Peer, int], AbstractContextManager[None]]
"""Brings a running cell to a size, and back where that is possible."""


@dataclass(frozen=True)
class Sizes:
    """How far each curve goes.

    Args:
        largest: larger sizes are left out.
        measure_s: of each point of each row.
        steady_s: of the steady load that looks for gaps.
    """

    znodes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    sessions: tuple[int, ...] = (10, 1_000, 10_000)
    watches: tuple[int, ...] = (0, 1_000, 10_000, 100_000)
    largest: int = 1_000_000
    measure_s: float = 1.5
    warm_s: float = 0.4
    turns: int = 3
    steady_s: float = 20.0


def growth(names: Sequence[str], sizes: Sizes) -> dict[str, Any]:
    """The curves of the better of our columns that is here."""
    with tempfile.TemporaryDirectory(prefix="synod-bench-") as directory:
        name = next(name for name in names if name in OURS)
        return {"machine": machine(), "growth": [grow(name, Path(directory), sizes)]}


def grow(name: str, directory: Path, sizes: Sizes) -> dict[str, Any]:
    """All curves of one of our columns."""
    curves = []
    sizes = replace(
        sizes,
        znodes=tuple(size for size in sizes.znodes if size <= sizes.largest),
        sessions=tuple(size for size in sizes.sessions if size <= sizes.largest),
        watches=tuple(size for size in sizes.watches if size <= sizes.largest),
    )
    with make(name, directory / "sessions") as cell:
        curves.append(_curve(cell, "sessions", sizes.sessions, sizes, _sessions))
    with make(name, directory / "watches") as cell:
        fill(cell, 0, max(sizes.watches), b"x" * VALUE_BYTES)
        curves.append(_curve(cell, "watches", sizes.watches, sizes, _watches))
    with make(name, directory / "znodes") as cell:
        filled = [0]

        @contextlib.contextmanager
        def znodes(system: Peer, count: int) -> Iterator[None]:
            fill(system, filled[0], count, b"x" * VALUE_BYTES)
            filled[0] = count
            assert isinstance(system, SynodCell)
            _digest(system)
            _rest(system)
            yield

        curves.append(_curve(cell, "znodes", sizes.znodes, sizes, znodes))
        stalls = _steady(cell, max(sizes.znodes), sizes.steady_s)
        memory = resident_mib(cell)
    return {"system": name, "curves": curves, "stalls": stalls, "memory_mib": memory}


def _digest(cell: SynodCell) -> None:
    """Have what was filled hashed now, as a part of the fill: else the rows that come next would pay for it.

    A digest is taken every thousand slots or so, and a fill of large transactions has few.

    Raises:
        RuntimeError: no digest came within `REST_S`.
    """
    numbers = range(len(cell.ports))
    filled = max(int(str(cell.status(number)["applied_slot"])) for number in numbers)
    client = ZooKeeperClient(cell.ports[0], 0, b"", "write")
    until = time.perf_counter() + REST_S
    with contextlib.closing(client):
        while any(int(str(cell.status(number)["digest_slot"])) < filled for number in numbers):
            if time.perf_counter() > until:
                raise RuntimeError(f"the replicas had no digest of slot {filled} within {REST_S:.0f} s")
            for _ in range(WRITES_PER_LOOK):
                client.ask(create(f"{ROOT}/digest", b""), allowed=(NODE_EXISTS,))


def _rest(cell: Peer) -> None:
    """Wait until the replicas have nothing more to do: a fill leaves a snapshot to write and digests to compute.

    Raises:
        RuntimeError: they were not done within `REST_S`.
    """
    until = time.perf_counter() + REST_S
    while time.perf_counter() < until:
        before, began = servers_cpu_s(cell), time.perf_counter()
        time.sleep(LOOK_S)  # no event says that a process rests: what CPU it took in that time does
        if servers_cpu_s(cell) - before < RESTING * (time.perf_counter() - began):
            return
    raise RuntimeError(f"the replicas still had something to do {REST_S:.0f} s after they were filled")


def _curve(cell: Peer, what: str, counts: tuple[int, ...], sizes: Sizes, state: State) -> dict[str, Any]:
    """The rows at every size: operations a second, and microseconds of the servers' CPU for one."""
    rows = [row for row in ROWS if row.title in TITLES]
    found: dict[str, dict[str, list[float]]] = {row.title: {"rate": [], "cost_us": []} for row in rows}
    for count in counts:
        with told(f"{what}: {count:,}"), state(cell, count):
            for row in rows:
                runs = [measure(cell, row, warm_s=sizes.warm_s, measure_s=sizes.measure_s) for _ in range(sizes.turns)]
                best = min(runs, key=lambda one: one.cost_us)
                found[row.title]["rate"].append(max(one.rate for one in runs))
                found[row.title]["cost_us"].append(best.cost_us)
    return {"what": what, "counts": list(counts), "rows": found}


@contextlib.contextmanager
def _sessions(cell: Peer, count: int) -> Iterator[None]:
    """So many idle sessions beside the active ones; they outlive the measurement without a ping."""
    with Sessions(cell.ports, sessions_allowed(count), 60_000):
        yield


@contextlib.contextmanager
def _watches(cell: Peer, count: int) -> Iterator[None]:
    """So many data watches, each on a znode of its own, spread over a few connections."""
    clients = [ZooKeeperClient(cell.ports[i % len(cell.ports)], 9_000 + i, b"", "read") for i in range(WATCHING)]
    try:
        for number in range(count):
            clients[number % WATCHING].ask(struct.pack(">i", GET) + text(path(number)) + b"\1")
        yield
    finally:
        for client in clients:
            client.close()


def _steady(cell: Peer, znodes: int, seconds: float) -> dict[str, Any]:
    """A fixed rate of writes on the full cell, and the gaps between acknowledgements."""
    row = next(row for row in ROWS if row.title == "write 64:1")
    with told(f"{STEADY_RATE:,} writes a second with {znodes:,} znodes"), clients_of(cell, row) as clients:
        began = time.perf_counter()
        paced = pace(clients, STEADY_RATE, seconds)
        took = time.perf_counter() - began
    return {
        "znodes": znodes,
        "wanted": STEADY_RATE,
        "rate": paced.rate,
        "seconds": took,
        "widest_gap_ms": 1_000 * paced.widest_s,
        "max_latency_ms": 1_000 * paced.max_s,
        "generators_own_pause_ms": 1_000 * paced.own_pause_s,
        "gaps_over_20_ms": [[round(at, 2), round(1_000 * width, 1)] for at, width in paced.gaps],
    }
