"""One run of the demo, from empty directory to verdict."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from synod.client import connect
from synod.service import http_module

from ._history import History
from ._ledger import Ledger
from ._load import Load
from ._processes import Process, Replicas
from ._progress import Progress
from ._stream import Wanted, generate, read_stream

INSTANCES: Final = ("a", "b", "c")
KILLED: Final = "b"
RESTART_S: Final = 1.0  # as a supervisor would
INTERRUPTED: Final = 130

Broken = Literal["guard", "duplicates"]
"""A safeguard that can be switched off, to see the audit fail."""


def run(
    *,
    requests: str | None = None,
    keep: bool = False,
    seed: int = 0,
    json: bool = False,
    broken: Broken | None = None,
) -> int:
    """Run the demo; the exit code: 0 when the audit holds, 1 when it fails, 130 after Ctrl-C.

    Args:
        requests: a file of JSON lines, `-` for standard input; None generates 20,000.
        keep: go on serving after the audit, until Ctrl-C.
        seed: of the generated stream and of the balancer's chance.
        json: the report as one JSON document on standard output.
        broken: switched off in every instance, to see the audit fail.

    Raises:
        UserError: the stream cannot be used, or there is no HTTP client; nothing was started.
        NotStarted: a process did not come up; everything was stopped again.
    """
    http_module()
    stream = read_stream(requests) if requests is not None else generate(seed=seed)
    directory = Path(tempfile.mkdtemp(prefix="synod-demo-"))
    demo = Demo(directory, stream, seed=seed, json=json, broken=broken)
    code = None
    try:
        code = demo.run(keep=keep)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped\n")
        return INTERRUPTED
    finally:
        demo.stop()
        if code in (0, None):
            shutil.rmtree(directory, ignore_errors=True)
        else:
            sys.stderr.write(f"history, store and logs are kept in {directory}\n")
    return code


class Demo:
    """The processes of one run, and what happens to them.

    Args:
        directory: for everything that is written.
        stream: the requests.
        seed: of the balancer's chance.
        json: report in JSON.
        broken: what is switched off.
    """

    def __init__(
        self, directory: Path, stream: Sequence[Wanted], *, seed: int, json: bool, broken: Broken | None
    ) -> None:
        self._directory = directory
        self._stream = stream
        self._seed = seed
        self._json = json
        self._broken = broken
        self._replicas: Replicas | None = None
        self._instances: dict[str, Process] = {}
        self._addresses: dict[str, str] = {}

    def run(self, *, keep: bool) -> int:
        """Start, load, audit; the exit code."""
        signal.signal(signal.SIGTERM, _interrupt)  # stops as Ctrl-C does
        replicas = self._replicas = Replicas(self._directory)
        Ledger.create(self._store)
        for name in INSTANCES:
            self._start(name, replicas.hosts)
        for name in INSTANCES:
            self._await(name)
        self._say(f"cell       {replicas.hosts}")
        for name in INSTANCES:
            self._say(f"instance {name} {self._addresses[name]}")
        import uvloop

        gave_up = uvloop.run(self._load(replicas))
        code = self._audit(replicas)
        if gave_up:
            self._say(f"{gave_up} requests were never answered")
            code = 1
        if keep:
            item = f"{self._addresses[INSTANCES[0]]}/items/sku-0"
            self._say(f"curl {item}")
            self._say(f"""curl -X PUT -d '{{"op": "reserve", "quantity": 2}}' {item}""")
            self._say("still serving; Ctrl-C stops everything")
            while True:
                signal.pause()
        return code

    def stop(self) -> None:
        """End whatever runs."""
        for process in self._instances.values():
            process.terminate()
        for process in self._instances.values():
            process.wait()
        if self._replicas is not None:
            self._replicas.stop()

    def _say(self, text: str) -> None:
        sys.stderr.write(text + "\n")

    # -- instances -----------------------------------------------------------------------------------------

    def _start(self, name: str, hosts: str) -> None:
        arguments = ["-m", "synod.demo.instance", "--cell", hosts, "--store", str(self._store), "--name", name]
        if self._broken == "duplicates":
            arguments.append("--no-duplicate-check")
        if self._broken == "guard":
            # Without the guard nothing goes wrong until a holder is late: one is, once, on a busy key.
            arguments += ["--no-guard", "--pause-on", self._busiest_key()]
        if name in self._addresses:  # at its old address, so that it takes its old entry's place
            arguments += ["--port", self._addresses[name].rpartition(":")[2]]
        self._instances[name] = Process(arguments, self._directory / f"instance-{name}.log")

    def _await(self, name: str) -> None:
        self._addresses[name] = self._instances[name].greeting()["address"]

    def _busiest_key(self) -> str:
        writes = [wanted.key for wanted in self._stream if wanted.type == "write"]
        return max(sorted(set(writes)), key=writes.count, default="")

    # -- load ----------------------------------------------------------------------------------------------

    @property
    def _store(self) -> Path:
        return self._directory / "store.sqlite"

    @property
    def _history(self) -> Path:
        return self._directory / "history.jsonl"

    async def _load(self, replicas: Replicas) -> int:
        """Send everything, with a kill at each third; how many requests were given up."""
        total = len(self._stream)
        with History(self._history) as history, Progress(total) as progress:
            faults = Faults(
                {
                    max(1, total // 3): lambda: self._kill_leader(replicas, history, progress),
                    max(2, 2 * total // 3): lambda: self._kill_instance(replicas, history, progress),
                }
            )

            def done(count: int) -> None:
                progress.update(count)
                faults.reached(count)

            async with connect(replicas.hosts) as cell:
                load = Load(cell, history, progress=done, seed=self._seed)
                await load.run(self._stream)
                await faults.finish()
            return load.gave_up

    async def _kill_leader(self, replicas: Replicas, history: History, progress: Progress) -> None:
        what = await asyncio.to_thread(replicas.kill_leader)
        history.write("kill", what=what)
        progress.remark(f"killed {what}; it is started again")

    async def _kill_instance(self, replicas: Replicas, history: History, progress: Progress) -> None:
        history.write("kill", what=f"instance {KILLED}")
        self._instances[KILLED].kill()
        progress.remark(f"killed instance {KILLED}")
        await asyncio.sleep(RESTART_S)
        self._start(KILLED, replicas.hosts)
        await asyncio.to_thread(self._await, KILLED)
        history.write("restart", what=f"instance {KILLED}")
        progress.remark(f"instance {KILLED} serves again at {self._addresses[KILLED]}")

    # -- audit ---------------------------------------------------------------------------------------------

    def _audit(self, replicas: Replicas) -> int:
        """A process of its own, which knows nothing but the files and the addresses."""
        arguments = ["-m", "synod.demo.audit", str(self._history), str(self._store)]
        arguments += ["--cell", replicas.hosts, "--status", ",".join(replicas.urls)]
        if self._json:
            arguments.append("--json")
        return subprocess.run([sys.executable, *arguments], check=False).returncode


class Faults:
    """Each fault begins once, when its number of requests is done, and runs beside the load."""

    def __init__(self, at: dict[int, Callable[[], Coroutine[Any, Any, None]]]) -> None:
        self._at = at
        self._running: list[asyncio.Task[None]] = []

    def reached(self, count: int) -> None:
        """So many requests are done."""
        for due in [due for due in self._at if due <= count]:
            self._running.append(asyncio.ensure_future(self._at.pop(due)()))

    async def finish(self) -> None:
        """Wait for those that began."""
        await asyncio.gather(*self._running)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
