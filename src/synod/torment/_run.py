"""One run, from an empty directory to a verdict, and the judgement of a recorded one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from synod.base import SynodError, UserError
from synod.client import connect

from ._history import History, Record, read_history
from ._judge import Verdict, judge
from ._load import ROOT, SESSION_TIMEOUT_MS, Load, read_final
from ._nemesis import Nemesis, chosen
from ._plan import draw_plan
from ._processes import NotStarted, Replicas
from ._wires import Wires

HOLDS: Final = 0
BROKEN: Final = 1

START_S: Final = 30.0
HEALED_S: Final = 30.0
"""After all faults are healed each replica must be ready, and each worker have a success, within this."""

EQUAL_S: Final = 20.0
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
    cell: str | None = None
    history: str | None = None
    check: str | None = None
    json: bool = False


def command(options: Options) -> int:
    """Run, or judge a recorded run: 0 when every promise holds, 1 when one does not.

    Raises:
        UserError: the options or the file cannot be used.
        NotStarted: a process did not come up; everything was stopped again.
    """
    if options.check is not None:
        records = read_history(Path(options.check))
        return _report(records, judge(records), options, options.check)
    faults, missing = ([], {}) if options.cell is not None else chosen(options.faults)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    directory = Path(tempfile.mkdtemp(prefix="synod-torment-"))
    path = directory / "history.jsonl" if options.history is None else Path(options.history)
    kept = False
    run = Run(options, directory, path, seed, faults, missing)
    before = signal.signal(signal.SIGTERM, _interrupt)  # stops as Ctrl-C does
    try:
        asyncio.run(run.run())
        run.stop()
        records = read_history(path)
        code = _report(records, judge(records), options, str(path))
        kept = code == BROKEN
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException:
        kept = True
        raise
    finally:
        run.stop()
        signal.signal(signal.SIGTERM, before)
        if kept:
            sys.stderr.write(f"history and logs are kept in {directory}\n")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return code


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
    """

    def __init__(
        self, options: Options, directory: Path, path: Path, seed: int, faults: list[str], missing: Mapping[str, str]
    ) -> None:
        self._options = options
        self._directory = directory
        self._path = path
        self._seed = seed
        self._faults = faults
        self._missing = missing
        self._wires = Wires(seed)
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
        }
        with History(self._path, about) as history:
            if own:
                few = (options.replicas - 1) // 2
                small = range(options.replicas - few + 1, options.replicas + 1) if "disk-full" in self._faults else ()
                self._replicas = Replicas(self._directory, options.replicas, self._wires, tuple(small))
                self._wires.start()
                for i in self._replicas.ids:
                    history.event("started", replica=i)
                    self._replicas.start(i)
                late = await self._replicas.wait_ready(START_S)
                if late:
                    raise NotStarted(f"replica {late[0]} did not start: {self._replicas.last_words(late[0])}")
                hosts = self._replicas.hosts
            else:
                assert options.cell is not None
                hosts = options.cell
            root = f"{ROOT}/{secrets.token_hex(6)}"
            async with connect(hosts, timeout=START_S, session_timeout_ms=SESSION_TIMEOUT_MS) as cell:
                load = Load(hosts, root, history, self._seed)
                await load.prepare(cell)
                granted_s = cell.session_timeout_ms / 1000
            if not own:
                self._say(f"everything is done below {root}, which goes at the end")
            await self._torment(load, history)
            await asyncio.sleep(2 * granted_s + SESSIONS_END_S)
            await self._end(load, history, hosts)

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
                self._nemesis = Nemesis(self._replicas, self._wires, history, plan, self._directory)
                await self._nemesis.run()
            await asyncio.sleep(max(0.0, until - time.monotonic()))
            if self._nemesis is not None:
                await self._nemesis.heal()
            history.event("healed", held=self._wires.held)
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
            await self._digests(replicas, history)
        with contextlib.suppress(SynodError):  # what could not be read was noted above
            async with connect(hosts, timeout=START_S) as cell:
                await cell.delete(load.root, recursive=True)
                await cell.delete(ROOT)  # unless another run is below it

    async def _digests(self, replicas: Replicas, history: History) -> None:
        until = time.monotonic() + EQUAL_S
        seen: dict[int, set[int]] = {}
        while time.monotonic() < until:
            for status in await asyncio.gather(*(replicas.status(i) for i in replicas.ids)):
                if status is None:
                    continue
                slot, i = status["applied_slot"], status["id"]
                if i not in seen.setdefault(slot, set()):
                    seen[slot].add(i)
                    history.event("digest", replica=i, slot=slot, digest=status["digest"])
                if len(seen[slot]) == len(replicas.ids):
                    history.event("equal", slot=slot)
                    return
            await asyncio.sleep(0.1)

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
        self._wires.stop()


# -- the report ----------------------------------------------------------------------------------------------


def figures(records: list[Record]) -> dict[str, Any]:
    """What a history has in it, counted."""
    calls: dict[int, Record] = {}
    outcomes: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    gap, gap_at, last = 0, 0, None
    calm = False
    for record in records:
        calm = calm or record.get("event") == "calm"
        if "call" in record:
            calls[record["id"]] = record
            operations[record["call"]] += 1
            last = record["at"] if last is None else last
        elif "id" in record and "event" not in record:
            for outcome in ("ok", "refused", "unknown"):
                outcomes[outcome] += outcome in record
            if "ok" in record and last is not None and not calm:
                if record["at"] - last > gap:
                    gap, gap_at = record["at"] - last, last
                last = record["at"]
    fired = Counter(record["fault"] for record in records if record.get("event") == "fault")
    # The steps of a rolling restart are one fault.
    fired["restart"] -= sum(
        record.get("event") == "fault" and record["fault"] == "restart" and record["nth"] > 1 for record in records
    )
    about = records[0]
    return {
        "seed": about["seed"],
        "seconds": about["seconds"],
        "replicas": about["replicas"],
        "faults": {fault: fired[fault] for fault in about["faults"]},
        "not_here": about["missing"],
        "operations": dict(operations),
        "answered": outcomes["ok"],
        "refused": outcomes["refused"],
        "unknown": outcomes["unknown"],
        "unanswered": len(calls) - sum(outcomes.values()),
        "longest_gap_ms": round(gap / 1000),
        "longest_gap_at_s": round(gap_at / 1e6, 3),
    }


def _report(records: list[Record], verdict: Verdict, options: Options, path: str) -> int:
    found = figures(records)
    if options.json:
        document = {
            **found,
            "holds": verdict.holds,
            "examined": verdict.examined,
            "findings": [{"promise": f.promise, "what": f.what} for f in verdict.findings],
            "history": path if options.history or options.check or not verdict.holds else None,
        }
        sys.stdout.write(json.dumps(document) + "\n")
        return HOLDS if verdict.holds else BROKEN
    lines = []
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    if found["faults"]:
        lines.append("faults      " + ", ".join(f"{fault} {count}" for fault, count in found["faults"].items()))
        never = [fault for fault, count in found["faults"].items() if not count]
        if never:
            lines.append(f"never fired {', '.join(never)}")
    lines.append("operations  " + ", ".join(f"{op} {count}" for op, count in found["operations"].items()))
    lines.append(
        f"outcomes    answered {found['answered']}, refused {found['refused']}, unknown {found['unknown']}, "
        f"never answered {found['unanswered']}"
    )
    lines.append(f"longest gap {found['longest_gap_ms']} ms without any answer, from {found['longest_gap_at_s']:.3f} s")
    broken = {finding.promise for finding in verdict.findings}
    for promise, examined in verdict.examined.items():
        lines.append(f"{'BROKEN' if promise in broken else 'holds '}      {promise} ({examined} facts)")
        lines += [f"            {finding.what}" for finding in verdict.findings if finding.promise == promise]
    lines.append(f"seed {found['seed']}: " + ("every promise holds" if verdict.holds else "PROMISES ARE BROKEN"))
    if options.history or not verdict.holds:
        lines.append(f"the history is {path}; judge it again with: synod torment --check {path}")
    sys.stdout.write("\n".join(lines) + "\n")
    return HOLDS if verdict.holds else BROKEN
