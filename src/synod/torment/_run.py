"""One run, from an empty directory to a verdict, and the judgement of a recorded one."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from synod.base import OutcomeUnknown, SynodError, UserError
from synod.client import Unavailable, connect
from synod.server import event_loop

from ._history import History, read_history
from ._judge import judge
from ._load import ROOT, SESSION_TIMEOUT_MS, Load, read_final
from ._nemesis import Nemesis, chosen
from ._network import Network
from ._plan import draw_plan
from ._processes import NotStarted, Replicas
from ._report import report
from ._spaces import Spaces, spaces_possible
from ._wires import Wires

HOLDS: Final = 0
BROKEN: Final = 1

REACH_S: Final = 5.0
"""A cell of somebody else answers within this, or is not there."""

START_S: Final = 30.0
HEALED_S: Final = 30.0
"""After all faults are healed each replica must be ready, and each worker have a success, within this."""

EQUAL_S: Final = 30.0
"""Time for the thousand slots from one digest to the next, and for computing it."""

CALM_S: Final = 10.0
SESSIONS_END_S: Final = 4.0
"""So long after two session timeouts the last ephemerals are gone: sessions left behind, and a change of leader."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told; see `synod torment --help`."""

    seconds: float = 60.0
    replicas: int = 3
    seed: int | None = None
    faults: str | None = None
    network: Literal["proxy", "namespaces"] = "proxy"
    cell: str | None = None
    history: str | None = None
    check: str | None = None
    json: bool = False
    python: str = sys.executable


def command(options: Options) -> int:
    """Run, or judge a recorded run: 0 when every promise holds, 1 when one does not.

    Raises:
        UserError: the options or the file cannot be used.
        NotStarted: a process did not come up; everything was stopped again.
    """
    if options.check is not None:
        recorded = read_history(Path(options.check))
        verdict = judge(recorded.records)
        report(recorded, verdict, as_json=options.json, path=options.check)
        return HOLDS if verdict.holds else BROKEN
    seed = secrets.randbits(32) if options.seed is None else options.seed
    network = _network(options, seed)
    faults, missing = ([], {}) if options.cell is not None else chosen(options.faults, network.missing)
    directory = Path(tempfile.mkdtemp(prefix="synod-torment-"))
    path = directory / "history.jsonl" if options.history is None else Path(options.history)
    kept = False
    run = Run(options, directory, path, seed, faults, missing, network)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with asyncio.Runner(loop_factory=event_loop()) as runner:
            interrupted = runner.run(_until_told(run))
        signal.signal(signal.SIGTERM, _interrupt)  # the loop has let go of it
        if interrupted:
            raise KeyboardInterrupt
        run.stop()
        recorded = read_history(path)
        verdict = judge(recorded.records)
        kept = not verdict.holds
        told = str(path) if kept or options.history is not None else None
        report(recorded, verdict, as_json=options.json, path=told)
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as failure:
        # Of a cell of somebody else that is not there we know no more than the sentence says.
        kept = options.cell is None or not isinstance(failure, Unavailable)
        raise
    finally:
        run.stop()
        signal.signal(signal.SIGTERM, before)
        if kept:
            sys.stderr.write(f"history and logs are kept in {directory}\n")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return HOLDS if verdict.holds else BROKEN


def _network(options: Options, seed: int) -> Network:
    """The network of a run.

    Raises:
        UserError: it cannot be had here.
    """
    if options.network == "proxy":
        return Wires(seed)
    if options.cell is not None:
        raise UserError("--network is for a cell that torment starts itself: leave it out, or --cell")
    why = spaces_possible()
    if why is not None:
        raise UserError(
            f"--network namespaces cannot be had here: {why}; leave it out for a proxy, which needs nothing"
        )
    return Spaces()


async def _until_told(run: Run) -> bool:
    """Run to the end, or until SIGTERM, which stops it as Ctrl-C does; whether it was that."""
    task = asyncio.current_task()
    assert task is not None
    told = asyncio.Event()

    def tell() -> None:
        told.set()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, tell)
    try:
        await run.run()
    except asyncio.CancelledError:
        if not told.is_set():
            raise
    return told.is_set()


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


class Run:
    """The processes of one run, and what happens to them.

    Args:
        options: what the user wants.
        directory: for everything that is written.
        path: of the history.
        seed: of the plan and of the clients.
        faults: classes of faults.
        missing: classes that cannot be had here, and why.
        network: between the replicas, not laid yet.
    """

    def __init__(
        self,
        options: Options,
        directory: Path,
        path: Path,
        seed: int,
        faults: list[str],
        missing: Mapping[str, str],
        network: Network,
    ) -> None:
        self._options = options
        self._directory = directory
        self._path = path
        self._seed = seed
        self._faults = faults
        self._missing = missing
        self._network = network
        self._replicas: Replicas | None = None
        self._nemesis: Nemesis | None = None

    async def run(self) -> None:
        """Start, load, torment, heal, read, and write it all down."""
        options = self._options
        own = options.cell is None
        about: dict[str, object] = {
            "seed": self._seed,
            "seconds": options.seconds,
            "replicas": options.replicas if own else 0,
            "faults": self._faults,
            "missing": dict(self._missing),
            "network": options.network if own else None,
        }
        with History(self._path, about) as history:
            if own:
                hosts = await self._start_cell(history)
            else:
                assert options.cell is not None
                hosts = options.cell
            root = f"{ROOT}/{secrets.token_hex(6)}"
            patience = START_S if own else REACH_S
            async with connect(hosts, timeout=patience, session_timeout_ms=SESSION_TIMEOUT_MS) as cell:
                load = Load(hosts, root, history, self._seed)
                await load.prepare(cell)
                granted_s = cell.session_timeout_ms / 1000
            if not own:
                self._say(f"everything is done below {root}, which goes at the end")
            try:
                await self._torment(load, history)
            finally:
                await load.abandon()
            await asyncio.sleep(2 * granted_s + SESSIONS_END_S)
            await self._end(load, history, hosts)
            history.event("end")

    async def _start_cell(self, history: History) -> str:
        """The addresses of a cell that serves."""
        count = self._options.replicas
        few = (count - 1) // 2
        small = range(count - few + 1, count + 1) if "disk-full" in self._faults else ()
        self._replicas = replicas = Replicas(
            self._directory,
            count,
            self._network,
            seed=self._seed,
            small_disks=tuple(small),
            python=(self._options.python,),
        )
        self._network.start()
        for i in replicas.ids:
            history.event("started", replica=i)
            replicas.start(i)
        late = await replicas.wait_ready(START_S)
        if late:
            raise NotStarted(f"replica {late[0]} did not start: {replicas.last_words(late[0])}")
        return replicas.hosts

    async def _torment(self, load: Load, history: History) -> None:
        history.last_answer = history.now()
        plan = draw_plan(self._seed, self._options.seconds, self._faults)
        self._say(
            f"seed {self._seed}: {len(plan)} faults in {self._options.seconds:g} s, {len(load.workers)} clients"
            + "".join(f"; no {fault}: {why}" for fault, why in self._missing.items())
        )
        load.start()
        until = time.monotonic() + self._options.seconds
        showing = asyncio.create_task(self._show(history, until))
        try:
            if self._replicas is not None:
                self._nemesis = Nemesis(self._replicas, self._network, history, plan, self._directory)
                await self._nemesis.run()
            await asyncio.sleep(max(0.0, until - time.monotonic()))
            if self._nemesis is not None:
                await self._nemesis.heal()
            history.event("healed")
            await self._demand_progress(load, history)
        finally:
            showing.cancel()
        history.event("calm")
        await load.stop(CALM_S)
        failure = load.failed()
        if failure is not None:
            raise failure

    async def _demand_progress(self, load: Load, history: History) -> None:
        before = {worker.number: worker.successes for worker in load.workers}
        late = {worker.number: worker for worker in load.workers}
        until = time.monotonic() + HEALED_S
        ready = asyncio.create_task(self._replicas.wait_ready(HEALED_S)) if self._replicas is not None else None
        while late and time.monotonic() < until and load.failed() is None:
            await asyncio.sleep(0.05)
            for number, worker in tuple(late.items()):
                if worker.successes > before[number]:
                    del late[number]
                    history.event("came-on", client=number, what=worker.name)
        for number, worker in late.items():
            history.event("stuck", what=f"client {number} ({worker.name})", seconds=HEALED_S)
        if ready is not None:
            for i in await ready:
                history.event("stuck", what=f"replica {i}", seconds=HEALED_S)

    async def _end(self, load: Load, history: History, hosts: str) -> None:
        """Read everything through each replica, and compare their digests."""
        replicas = self._replicas
        readers = {0: hosts} if replicas is None else {i: replicas.host(i) for i in replicas.ids}
        whole = True
        for i, host in readers.items():
            try:
                async with connect(host, timeout=START_S) as cell:
                    await read_final(cell, load.root, history, i, whole=whole)
                    whole = False
            except SynodError as failure:
                history.event("stuck", what=f"reading through {host} ({failure})", seconds=START_S)
        if replicas is not None:
            await self._digests(replicas, history, hosts)
            led, reasons = replicas.elections()
            history.event("elections", led=led, reasons=reasons, disturbed=self._network.evidence())
        await self._clean_up(load.root, hosts)

    async def _clean_up(self, root: str, hosts: str) -> None:
        """Leave nothing behind in somebody else's cell: an election that comes between is no reason to."""
        until = time.monotonic() + START_S
        for path in (root, ROOT):
            while time.monotonic() < until:
                try:
                    async with connect(hosts, timeout=START_S) as cell:
                        await cell.delete(path, recursive=path == root)
                except (OutcomeUnknown, Unavailable):
                    continue
                except SynodError:  # gone by an earlier attempt, or another run is below it; else it was noted before
                    pass
                break

    async def _digests(self, replicas: Replicas, history: History, hosts: str) -> None:
        """Write on until all replicas have a digest of one slot: who is busy with an earlier one leaves some out."""
        writing = asyncio.create_task(self._write_on(hosts))
        until = time.monotonic() + EQUAL_S
        seen: dict[int, set[int]] = {}
        try:
            while time.monotonic() < until:
                for status in await asyncio.gather(*(replicas.status(i) for i in replicas.ids)):
                    if status is None or not status["digest_slot"]:
                        continue
                    slot, i = status["digest_slot"], status["id"]
                    if i not in seen.setdefault(slot, set()):
                        seen[slot].add(i)
                        history.event("digest", replica=i, slot=slot, digest=status["digest"])
                    if len(seen[slot]) == len(replicas.ids):
                        history.event("equal", slot=slot)
                        return
                await asyncio.sleep(0.1)
        finally:
            writing.cancel()

    async def _write_on(self, hosts: str) -> None:
        """One write after the other, so that each has a slot of its own; it ends when it is cancelled."""
        while True:
            with contextlib.suppress(SynodError):
                async with connect(hosts, timeout=START_S) as cell:
                    while True:
                        await cell.set(ROOT, b"")

    async def _show(self, history: History, until: float) -> None:
        """A live line on a terminal, a line every ten seconds elsewhere."""
        live = sys.stderr.isatty()
        step = 0.5 if live else 10.0
        before = 0
        while True:
            await asyncio.sleep(step)
            history.flush()
            done = history.counts["ok"]
            left = until - time.monotonic()
            silent = (history.now() - history.last_answer) / 1e6
            fired = 0 if self._nemesis is None else sum(self._nemesis.fired.values())
            text = (
                f"{left:4.0f} s left" if left > 0 else "healing    "
            ) + f"  {done} answers, {(done - before) / step:.0f}/s, {history.counts['unknown']} unknown, {fired} faults"
            if silent > 1:
                text += f", silent for {silent:.1f} s"
            if self._nemesis is not None and self._nemesis.now:
                text += f"  [{self._nemesis.now}]"
            before = done
            sys.stderr.write(f"\r\x1b[K{text[:110]}" if live else text + "\n")
            sys.stderr.flush()

    def _say(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def stop(self) -> None:
        """End whatever runs; may be called again."""
        if self._nemesis is not None:
            self._nemesis.stop()
        if self._replicas is not None:
            self._replicas.stop()
        self._network.stop()
