"""`python -m bench.snapshots`: what snapshots, backups, starts and transfers cost with a million znodes.

A cell of three is filled; then each part is measured under a steady load of writes where that is asked for.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ._fill import fill
from ._load import Paced, pace
from ._proc import resident_mib
from ._rows import ROWS, measure
from ._zookeeper import ZooKeeperClient
from .peers import COMPILED_PYTHON, SynodCell

LOG_BYTES_MAX: Final = 1 << 34
"""No replica takes a snapshot by itself: they are asked for, one at a time."""

LOG_BYTES: Final = 128 << 20
RATE: Final = 5_000
FULL: Final = next(row for row in ROWS if row.title == "write 64:1")
FULL_S: Final = 60.0
"""For so long at least while snapshots are taken at full load: one must be whole within it."""
WRITERS: Final = 16
WITHIN_S: Final = 120.0
LOOK_S: Final = 0.1
"""Between two looks at a replica under load: 200 a second took a third of a core, and were what the writes waited for."""
_IGNORED: Final[array[float]] = array("d")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.snapshots", description=__doc__)
    parser.add_argument("--znodes", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--compiled", action="store_true", help="the core of make compiled")
    options = parser.parse_args()
    gc.freeze()
    gc.disable()
    python = str(COMPILED_PYTHON) if options.compiled else sys.executable
    with tempfile.TemporaryDirectory(prefix="synod-bench-") as name:
        directory = Path(name)
        cell = SynodCell(directory / "cell", settings={"limits.snapshot_log_bytes": LOG_BYTES_MAX}, pythons=(python,))
        with cell:
            run(cell, directory, options.znodes, options.seconds)
    return 0


def run(cell: SynodCell, directory: Path, znodes: int, seconds: float) -> None:
    """All parts, on a cell that has just started."""
    began = time.perf_counter()
    fill(cell, 0, znodes, b"x" * 100)
    tell("fill", seconds=time.perf_counter() - began, znodes=znodes, resident_mib=round(resident_mib(cell)))
    settle(cell)
    tell("steady load", **loaded(cell, seconds, lambda: None))
    leader = cell.leader()
    assert leader is not None
    full = driven(cell, seconds)
    tell("full load", **full)
    done = threading.Event()
    hosts = f"127.0.0.1:{cell.ports[leader]}"
    each: list[float] = []
    helper = threading.Thread(target=back_up_again, args=(cell, leader, hosts, directory / "full.synod", done, each))
    helper.start()
    found = driven(cell, max(seconds, FULL_S))
    whole = each[:]  # without the last, whose end has an easier time
    tell("full load, while the leader takes snapshots", **found, took_s=whole)
    done.set()
    helper.join()
    for who, number in (("a follower", (leader + 1) % 3), ("the leader", leader)):
        file = directory / f"{number}.synod"
        took: list[float] = []

        def back_up(number: int = number, file: Path = file, took: list[float] = took) -> None:
            started = time.perf_counter()
            hosts = f"127.0.0.1:{cell.ports[number]}"
            synod(cell, number, "backup", "--cell", hosts, str(file))
            took.append(time.perf_counter() - started)

        found = loaded(cell, seconds, back_up)
        tell(f"backup of {who} under load", took_s=took, bytes=file.stat().st_size, **found)
    recover(cell, leader)
    settle(cell)
    half = int(full["rate"]) // 2
    tell("half load", **loaded(cell, seconds, lambda: None, rate=half))
    install(cell, directory, half)


def loaded(cell: SynodCell, seconds: float, work: Callable[[], None], rate: int = RATE) -> dict[str, Any]:
    """Write at a steady rate while `work` is done in another thread."""
    clients = [ZooKeeperClient(cell.ports[i % 3], i, b"x" * 100, "write") for i in range(WRITERS)]
    for client in clients:
        client.prepare()
    helper = threading.Thread(target=work)
    helper.start()
    try:
        found: Paced = pace(clients, rate, seconds)
    finally:
        helper.join()
        for client in clients:
            with suppress(OSError, RuntimeError):
                client.close()
    return {key: value for key, value in asdict(found).items() if key != "gaps"} | {"gaps": found.gaps[:10]}


def driven(cell: SynodCell, seconds: float) -> dict[str, Any]:
    """What 64 connections that do not wait get, and what it costs."""
    found = measure(cell, FULL, warm_s=2.0, measure_s=seconds)
    return {"rate": found.rate, "p99_ms": found.p99_us / 1_000, "servers_cpu_us": found.cost_us}


def back_up_again(
    cell: SynodCell, number: int, hosts: str, file: Path, done: threading.Event, took: list[float]
) -> None:
    """One backup after the other, each of a snapshot of its own, and the seconds that each took."""
    while not done.is_set():
        file.unlink(missing_ok=True)
        began = time.perf_counter()
        synod(cell, number, "backup", "--cell", hosts, str(file))
        took.append(time.perf_counter() - began)


def recover(cell: SynodCell, leader: int) -> None:
    """A follower with its snapshot and so much log behind it is killed and started again."""
    number = (leader + 1) % 3
    before = int(str(cell.status(number)["log_bytes"]))
    client = ZooKeeperClient(cell.ports[leader], 0, b"x" * 10_000, "write")
    client.prepare()
    while int(str(cell.status(number)["log_bytes"])) < before + LOG_BYTES:
        for _ in range(200):
            client.sock.sendall(client.next())
        while client.waiting():
            client.take(client.sock.recv(1 << 20), 0.0, _IGNORED)
    client.close()
    settle(cell)
    slot = int(str(cell.status(leader)["applied_slot"]))
    cell.processes.kill(number)
    began = time.perf_counter()
    cell.processes.start(number)
    ready = wait(lambda: is_ready(cell, number))
    behind = wait(lambda: int(str(cell.status(number)["applied_slot"])) >= slot)
    tell("start with snapshot and log", ready_s=ready - began, caught_up_s=behind - began, log_bytes=LOG_BYTES)


def install(cell: SynodCell, directory: Path, rate: int) -> None:
    """A follower whose disk was wiped is re-admitted, and takes a snapshot over, under so many writes a second."""
    settle(cell)
    leader = cell.leader()
    assert leader is not None
    number = (leader + 2) % 3
    others = [other for other in range(3) if other != number]
    for round_ in range(2):  # two snapshots are kept, and the log from the older one on: it must not reach back
        for other in others:
            hosts = f"127.0.0.1:{cell.ports[other]}"
            synod(cell, other, "backup", "--cell", hosts, str(directory / f"{round_}-{other}.synod"))
    cell.processes.kill(number)
    shutil.rmtree(cell.directory / f"replica-{number + 1}")
    listens = ("--client", f"127.0.0.1:{cell.ports[number]}", "--http", f"127.0.0.1:{cell.http_ports[number]}")
    hosts = ",".join(f"127.0.0.1:{cell.ports[other]}" for other in others)
    config = synod(cell, number, "member", "replace", str(number + 1), *listens, "--cell", hosts)
    (cell.directory / f"replica-{number + 1}.toml").write_text(config)
    synod(cell, number, "format", str(cell.directory / f"replica-{number + 1}.toml"))
    times: list[float] = []
    silent: list[float] = []
    done = threading.Event()

    def work() -> None:
        slot = int(str(cell.status(leader)["applied_slot"]))
        began = time.perf_counter()
        cell.processes.start(number)
        while time.perf_counter() - began < WITHIN_S:
            asked = time.perf_counter()
            with suppress(OSError):
                status = cell.status(number)
                now = time.perf_counter()
                silent.append(now - asked)
                if int(str(status["applied_slot"])) >= slot and is_ready(cell, number):
                    times.append(now - began)
                    break
            time.sleep(LOOK_S)  # a replica tells nobody outside when it serves

    def until_done() -> None:
        try:
            work()
        finally:
            done.set()

    ports = [cell.ports[other] for other in others]
    clients = [ZooKeeperClient(ports[i % 2], i, b"x" * 100, "write") for i in range(WRITERS)]
    for client in clients:
        client.prepare()
    helper = threading.Thread(target=until_done)
    helper.start()
    found = pace(clients, rate, WITHIN_S, done=done)
    helper.join()
    for client in clients:
        client.close()
    notes = (directory / "cell" / f"output-{number}").read_text(errors="replace").splitlines()
    elections = [line for line in notes if "election" in line][-3:]
    tell(
        "a snapshot taken over, under load",
        ready_s=times,
        longest_silence_s=max(silent, default=0.0),
        resident_mib=round(resident_mib(cell)),
        elections=elections,
        rate=found.rate,
        widest_s=found.widest_s,
        p99_s=found.p99_s,
        max_s=found.max_s,
        own_pause_s=found.own_pause_s,
    )


def synod(cell: SynodCell, number: int, *words: str) -> str:
    """What a command prints, of the installation that this replica runs."""
    command = [*cell.processes.commands[number][:3], *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def settle(cell: SynodCell) -> None:
    """Wait until all replicas that run are at one slot and no digest is under way."""

    def done() -> bool:
        with suppress(OSError):
            numbers = [n for n, process in enumerate(cell.processes.running) if process is not None]
            return len({str(cell.status(n)["applied_slot"]) for n in numbers}) == 1
        return False

    wait(done)


def is_ready(cell: SynodCell, number: int) -> bool:
    """Whether a replica serves linearizable reads."""
    url = f"http://127.0.0.1:{cell.http_ports[number]}/readyz"
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def wait(condition: Callable[[], bool]) -> float:
    """When a condition came true.

    Raises:
        RuntimeError: it did not.
    """
    until = time.perf_counter() + WITHIN_S
    while time.perf_counter() < until:
        with suppress(OSError):
            if condition():
                return time.perf_counter()
        time.sleep(0.01)  # between two looks at the condition
    raise RuntimeError("it did not come to pass")


def tell(what: str, **figures: object) -> None:
    """One line of JSON."""
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"what": what} | rounded), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main())
