"""Carries out a plan of faults on running replicas, and undoes all of it.

Read `run`, then `_fault` and the methods below it, one for each class.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from synod.base import UserError

from ._history import History
from ._network import CLIENTS, Link, Network
from ._operator import Operator
from ._plan import FAULTS, Planned
from ._processes import STOP_S, Replicas

NEEDS_STRACE: Final = ("sync-error", "write-error", "slow-disk", "disk-hang")
NEEDS_ROOT: Final = ("disk-full",)

NOTICED_S: Final = 8.0
"""In so much time something is synced: every replica takes part in each write."""

WENT_ON_S: Final = 10.0
"""A replica whose disk refused it ends far sooner; a busy machine is given this much."""

DELAY_S: Final = (0.005, 0.25)
LOST: Final = (0.02, 0.3)
"""The share of what is sent."""

SYNC_S: Final = (0.02, 0.4)
JUMPS_S: Final = (2.0, 3_600.0, 86_400.0, 10 * 365 * 86_400.0)
LET_GO_S: Final = 5.0
MEMBERS_S: Final = 15.0
SETTLED_S: Final = 30.0
EXIT_LEFT: Final = 1
EXIT_UNAVAILABLE: Final = 3

SYNCS: Final = "fsync,fdatasync"
WRITES: Final = "pwrite64"


def possible(fault: str) -> str | None:
    """Why a class of faults cannot be had on this machine, or None."""
    if fault in NEEDS_STRACE and shutil.which("strace") is None:
        return "strace is not installed"
    if fault in (*NEEDS_ROOT, *NEEDS_STRACE) and os.geteuid() != 0:
        return "it needs root"
    return None


def chosen(wanted: str | None, missing: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The classes to use, and those left out with the reason.

    Args:
        wanted: names with commas between; None is all that can be had.
        missing: what cannot be had for other reasons than `possible` knows.

    Raises:
        UserError: one that was asked for is unknown, or cannot be had here.
    """
    out = {fault: why for fault in FAULTS if (why := missing.get(fault) or possible(fault)) is not None}
    if wanted is None:
        return [fault for fault in FAULTS if fault not in out], out
    faults = list(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip()))
    for fault in faults:
        if fault not in FAULTS:
            raise UserError(f"--faults: there is no fault {fault!r}; there are {', '.join(FAULTS)}")
        if fault in out:
            raise UserError(f"--faults: {fault} cannot be had here: {out[fault]}; leave it out")
    if not faults:
        raise UserError(f"--faults names none; there are {', '.join(FAULTS)}")
    return faults, {}


class Nemesis:
    """What goes wrong.

    Args:
        replicas: running.
        network: theirs.
        history: is told of each fault.
        plan: the faults in order of time.
        scratch: a directory for notes.
    """

    def __init__(
        self, replicas: Replicas, network: Network, history: History, plan: Sequence[Planned], scratch: Path
    ) -> None:
        self.fired: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.now = ""
        self._replicas = replicas
        self._network = network
        self._history = history
        self._plan = plan
        self._scratch = scratch
        self._operator = Operator(replicas)
        self._changing = False
        self._busy: set[int] = set()
        self._tracing: dict[int, subprocess.Popen[bytes]] = {}
        self._active: list[str] = []
        self._faults: dict[str, Callable[[Planned], Awaitable[bool]]] = {
            "kill": self._kill,
            "pause": self._pause,
            "partition": self._partition,
            "one-way": self._one_way,
            "isolate": self._isolate,
            "chain": self._chain,
            "loss": self._loss,
            "delay": self._delay,
            "restart": self._restart,
            "power": self._power,
            "answers": self._answers,
            "transfer": self._transfer,
            "members": self._members,
            "clock": self._clock,
            "sync-error": lambda planned: self._disk_error(planned, SYNCS),
            "write-error": lambda planned: self._disk_error(planned, WRITES),
            "slow-disk": self._slow_disk,
            "disk-hang": self._disk_hang,
            "disk-full": self._disk_full,
        }
        assert self._faults.keys() == FAULTS.keys()

    async def run(self) -> None:
        """Carry out the plan, and wait until the last fault is over."""
        began = time.monotonic()
        watching = asyncio.create_task(self._watch())
        try:
            async with asyncio.TaskGroup() as group:
                for planned in self._plan:
                    await asyncio.sleep(max(0.0, began + planned.at - time.monotonic()))
                    group.create_task(self._fault(planned))
        finally:
            watching.cancel()

    async def heal(self) -> None:
        """Nothing is wrong any more, and every replica runs."""
        self._network.heal()
        for i in tuple(self._tracing):
            await self._untrace(i)
        for i in self._replicas.small_disks:
            self._replicas.empty_disk(i)
        self._note_ends()
        for i in self._replicas.ids:
            if self._replicas.running(i):
                self._replicas.resume(i)
            elif i not in self._operator.lost:
                self._start(i)
        if not await self._operator.settle(SETTLED_S):
            self._history.event("stuck", what="whoever changes the members of the cell", seconds=SETTLED_S)

    async def _watch(self) -> None:
        """A replica that ends by itself is noted, and started again."""
        while True:
            self._note_ends()
            await asyncio.sleep(0.05)

    def _note_ends(self) -> None:
        for i, code in self._replicas.ended().items():
            if code == EXIT_LEFT and i in self._operator.gone:
                self._replicas.expect_end(i)  # another fault had started it again, and it knows that it was removed
                continue
            self._history.event("ended", replica=i, code=code, said=self._replicas.last_words(i))
            self._start(i)

    def _start(self, i: int) -> None:
        self._history.event("started", replica=i)
        self._replicas.start(i)

    async def _fault(self, planned: Planned) -> None:
        self._active.append(planned.fault)
        self.now = " ".join(self._active)
        try:
            fired = await self._faults[planned.fault](planned)
        finally:
            self._active.remove(planned.fault)
            self.now = " ".join(self._active)
        (self.fired if fired else self.skipped)[planned.fault] += 1

    def _tell(self, planned: Planned, **what: object) -> None:
        self._history.event("fault", fault=planned.fault, lasts=planned.lasts, **what)

    # -- whom ----------------------------------------------------------------------------------------------

    async def _target(self, planned: Planned, among: Sequence[int] | None = None) -> tuple[int, bool] | None:
        """A replica that nothing else is done to, and whether it leads; it is busy from now on."""
        leader = await self._replicas.leader()
        free = [i for i in (among or self._replicas.ids) if i not in self._busy and self._replicas.running(i)]
        if planned.target == "leader" and leader in free:
            free = [leader]
        elif planned.target == "follower" and leader in free and len(free) > 1:
            free.remove(leader)
        if not free:
            return None
        i = free[int(planned.pick * len(free))]
        self._busy.add(i)
        return i, i == leader

    # -- processes -----------------------------------------------------------------------------------------

    async def _kill(self, planned: Planned) -> bool:
        target = await self._target(planned)
        if target is None:
            return False
        i, leads = target
        try:
            self._tell(planned, replica=i, leads=leads)
            self._replicas.kill(i)
            await asyncio.sleep(planned.lasts)
            self._start(i)
        finally:
            self._busy.discard(i)
        return True

    async def _pause(self, planned: Planned) -> bool:
        target = await self._target(planned)
        if target is None:
            return False
        i, leads = target
        try:
            self._tell(planned, replica=i, leads=leads)
            self._replicas.pause(i)
            await asyncio.sleep(planned.lasts)
            self._replicas.resume(i)
        finally:
            self._busy.discard(i)
        return True

    async def _power(self, planned: Planned) -> bool:
        down = [i for i in self._replicas.ids if i not in self._busy and self._replicas.running(i)]
        if len(down) <= len(self._replicas.ids) // 2:
            return False
        self._busy.update(down)
        try:
            self._tell(planned, replicas=down)
            for i in down:
                self._replicas.kill(i)
            await asyncio.sleep(planned.lasts)
            for i in down:
                self._start(i)
        finally:
            self._busy.difference_update(down)
        return True

    async def _restart(self, planned: Planned) -> bool:
        """One after another, as an upgrade does; each is waited for."""
        first = int(planned.pick * len(self._replicas.ids))
        order = [*self._replicas.ids[first:], *self._replicas.ids[:first]]
        done = []
        for i in order:
            if i in self._busy or not self._replicas.running(i):
                continue
            self._busy.add(i)
            try:
                done.append(i)
                self._tell(planned, replica=i, nth=len(done))
                self._replicas.terminate(i)
                code = await self._replicas.wait_ended(i, STOP_S)
                if code not in (0, -15):  # the latter when it had not yet come so far as to listen to signals
                    said = (
                        self._replicas.last_words(i) if code is not None else f"it runs on {STOP_S:g} s after SIGTERM"
                    )
                    self._history.event("ended", replica=i, code=code, said=said)
                    self._replicas.kill(i)
                await asyncio.sleep(planned.lasts)
                self._start(i)
            finally:
                self._busy.discard(i)
            await self._replicas.wait_ready(NOTICED_S, [i])
        return bool(done)

    async def _transfer(self, planned: Planned) -> bool:
        leader = await self._replicas.leader()
        if leader is None or leader in self._busy:
            return False
        self._tell(planned, replica=leader)
        return await self._replicas.hand_over(leader)

    async def _members(self, planned: Planned) -> bool:
        """One change at a time: before it has come to its end, no other disk is lost, and nobody else is to go."""
        if self._changing:
            return False
        self._changing = True
        try:
            return await self._operator.settle(MEMBERS_S) and await self._change(planned)
        finally:
            self._changing = False

    async def _change(self, planned: Planned) -> bool:
        target = await self._target(planned)
        if target is None:
            return False
        i, leads = target
        operator, spare = self._operator, self._replicas.spare
        self._busy.add(spare)
        try:
            self._tell(planned, replica=i, leads=leads, replaced_by=i if planned.drop else spare)
            if planned.drop:
                self._replicas.kill(i)
                self._replicas.wipe(i)
                operator.lost.add(i)
                await asyncio.sleep(planned.lasts)
            else:
                operator.goal = operator.goal - {i} | {spare}
            done = await operator.settle(MEMBERS_S)
            self._history.event("members", done=done, ids=self._replicas.ids)
        finally:
            self._busy.difference_update((i, spare))
        return True

    async def _clock(self, planned: Planned) -> bool:
        i = self._replicas.ids[int(planned.pick * len(self._replicas.ids))]
        seconds = JUMPS_S[int(planned.strength * len(JUMPS_S))] * (1 if planned.drop else -1)
        self._tell(planned, replica=i, seconds=seconds)
        self._replicas.jump(i, seconds)
        return True

    # -- the network ---------------------------------------------------------------------------------------------

    async def _cut(self, planned: Planned, links: set[Link], **what: object) -> bool:
        self._tell(planned, drop=planned.drop, **what)
        self._network.cut(links, drop=planned.drop and planned.strength < 0.5)
        try:
            await asyncio.sleep(planned.lasts)
        finally:
            self._network.mend(links, drop=planned.drop)
        return True

    async def _partition(self, planned: Planned) -> bool:
        ids = list(self._replicas.ids)
        random.Random(planned.pick).shuffle(ids)
        size = 1 + int(planned.strength * (len(ids) // 2))
        few, many = ids[:size], ids[size:]
        links = {link for a in few for b in many for link in ((a, b), (b, a))}
        return await self._cut(planned, links, apart=[sorted(few), sorted(many)])

    async def _one_way(self, planned: Planned) -> bool:
        i, others = await self._one_and_others(planned)
        deaf = others if planned.strength < 0.5 else others[:1]
        return await self._cut(planned, {(i, j) for j in deaf}, speaks=i, unheard_by=deaf)

    async def _one_and_others(self, planned: Planned) -> tuple[int, list[int]]:
        ids = list(self._replicas.ids)
        random.Random(planned.pick).shuffle(ids)
        leader = await self._replicas.leader() if planned.target == "leader" else None
        i = ids[0] if leader is None else leader
        return i, [j for j in ids if j != i]

    async def _isolate(self, planned: Planned) -> bool:
        leader = await self._replicas.leader()
        if leader is None:
            return False
        links = {link for j in self._replicas.ids if j != leader for link in ((leader, j), (j, leader))}
        return await self._cut(planned, links, replica=leader)

    async def _chain(self, planned: Planned) -> bool:
        """No two replicas agree on who is there, and each of them may hear a quorum, or one alone may."""
        ids = list(self._replicas.ids)
        random.Random(planned.pick).shuffle(ids)
        row = planned.strength < 0.5
        joined = set(pairwise(ids)) if row else {(ids[0], j) for j in ids[1:]}
        links = {(a, b) for a in ids for b in ids if a != b and (a, b) not in joined and (b, a) not in joined}
        return await self._cut(planned, links, row=ids) if row else await self._cut(planned, links, star=ids)

    async def _loss(self, planned: Planned) -> bool:
        i, others = await self._one_and_others(planned)
        ids = [i, *others]
        links = {(a, b) for a in ids for b in ids if a != b and (planned.strength < 0.5 or i in (a, b))}
        share = LOST[0] + planned.pick * (LOST[1] - LOST[0])
        self._tell(planned, share=round(share, 3), of="all" if planned.strength < 0.5 else i)
        self._network.lose(links, share)
        try:
            await asyncio.sleep(planned.lasts)
        finally:
            self._network.lose(links, 0)
        return True

    async def _delay(self, planned: Planned) -> bool:
        i, others = await self._one_and_others(planned)
        ids = [i, *others]
        links = {(a, b) for a in ids for b in ids if a != b and (planned.strength < 0.5 or i in (a, b))}
        seconds = DELAY_S[0] + planned.pick * (DELAY_S[1] - DELAY_S[0])
        self._tell(planned, ms=round(seconds * 1000), of="all" if planned.strength < 0.5 else i)
        self._network.delay(links, seconds, seconds)
        try:
            await asyncio.sleep(planned.lasts)
        finally:
            self._network.delay(links, 0, 0)
        return True

    async def _answers(self, planned: Planned) -> bool:
        i, _ = await self._one_and_others(planned)
        self._tell(planned, replica=i, drop=planned.drop)
        self._network.cut({(i, CLIENTS)}, drop=False)
        try:
            await asyncio.sleep(planned.lasts)
        finally:
            self._network.mend({(i, CLIENTS)}, drop=planned.drop)
        return True

    # -- disks ---------------------------------------------------------------------------------------------

    def _trace(self, i: int, calls: str, inject: str) -> Path:
        """Attach strace to a replica and let it meddle with each of these calls."""
        notes = self._scratch / f"strace-{i}-{time.monotonic_ns()}"
        meddle = ["-e", f"trace={calls}", "-e", f"inject={calls}:{inject}"]
        self._tracing[i] = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", str(notes), *meddle, "-p", str(self._replicas.pid(i))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return notes

    async def _untrace(self, i: int) -> None:
        """Let go of it; without holding up the clients, who live on the same loop."""
        tracer = self._tracing.pop(i, None)
        if tracer is None:
            return
        tracer.terminate()
        until = time.monotonic() + LET_GO_S
        while tracer.poll() is None:
            if time.monotonic() > until:
                tracer.kill()
                tracer.wait()
            await asyncio.sleep(0.02)

    async def _disk_error(self, planned: Planned, calls: str) -> bool:
        target = await self._target(planned, self._replicas.threads)
        if target is None:
            return False
        i, leads = target
        try:
            self._replicas.expect_end(i)
            notes = self._trace(i, calls, "error=EIO")
            until = time.monotonic() + NOTICED_S
            refused: float | None = None
            while (code := await self._replicas.wait_ended(i, 0.05)) is None and time.monotonic() < until:
                if refused is None and _injected(notes):
                    refused = time.monotonic()
                    until = refused + WENT_ON_S
                    self._tell(planned, replica=i, leads=leads)
            await self._untrace(i)
            times = _injected(notes)
            if refused is None and times:
                self._tell(planned, replica=i, leads=leads)
            if code is None:
                if refused is not None:
                    self._history.event("went-on", replica=i, seconds=time.monotonic() - refused)
                self._replicas.kill(i)
            elif code != EXIT_UNAVAILABLE or not times:
                self._history.event("ended", replica=i, code=code, said=self._replicas.last_words(i))
            if times > 1:
                self._history.event("tried-again", replica=i, times=times, calls=calls)
            await asyncio.sleep(planned.lasts)
            self._start(i)
        finally:
            self._busy.discard(i)
        return times > 0

    async def _slow_disk(self, planned: Planned) -> bool:
        return await self._late_disk(planned, SYNC_S[0] + planned.strength * (SYNC_S[1] - SYNC_S[0]))

    async def _disk_hang(self, planned: Planned) -> bool:
        return await self._late_disk(planned, planned.lasts)

    async def _late_disk(self, planned: Planned, seconds: float) -> bool:
        target = await self._target(planned, self._replicas.threads)
        if target is None:
            return False
        i, leads = target
        try:
            self._tell(planned, replica=i, leads=leads, ms=round(seconds * 1000))
            notes = self._trace(i, SYNCS, f"delay_enter={round(seconds * 1e6)}")
            await asyncio.sleep(planned.lasts)
            await self._untrace(i)
        finally:
            self._busy.discard(i)
        return _injected(notes) > 0

    async def _disk_full(self, planned: Planned) -> bool:
        target = await self._target(planned, self._replicas.small_disks)
        if target is None:
            return False
        i, leads = target
        try:
            # One that is about to start could not: it needs room for the number of this start, and says so.
            if await self._replicas.status(i) is None or not self._replicas.fill_disk(i):
                return False
            self._tell(planned, replica=i, leads=leads)
            await asyncio.sleep(planned.lasts)
            status = await self._replicas.status(i)
            self._history.event("was-full", replica=i, abstained=None if status is None else status["abstaining"])
        finally:
            self._replicas.empty_disk(i)
            self._busy.discard(i)
        return True

    def stop(self) -> None:
        """Leave no helper behind."""
        for tracer in self._tracing.values():
            tracer.kill()
            tracer.wait()
        self._tracing.clear()


def _injected(notes: Path) -> int:
    """How often strace did what it was asked to."""
    try:
        told = notes.read_text(errors="replace")
    except OSError:
        return 0
    return told.count("(INJECTED)") + told.count("(DELAYED)")
