"""The clients: each worker has a session of its own, does one thing after another, and writes all of it down.

Read `Worker.attempt`, then the workers from `Registers` on. What each kind checks is said in `_judge`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from synod.base import LockLost, NoNode, NotApplied, OutcomeUnknown, SynodError
from synod.client import EVENT_NONE, Cell, Stat, WatcherEvent, connect
from synod.recipes import Counter
from synod.wire import GetData, Reader, take_data

from ._history import History

T = TypeVar("T")

SESSION_TIMEOUT_MS: Final = 2_000
REQUEST_S: Final = 4.0
PAUSE_S: Final = (0.002, 0.03)
"""Between two attempts of a worker: some hundred attempts per second in all."""

REGISTERS: Final = 5
COUNTERS: Final = 2
LOCKS: Final = 2
EPHEMERALS: Final = 3
ROOT: Final = "/synod-torment"


class Worker:
    """One client.

    Args:
        number: of the client, from 1.
        hosts: of the cell.
        root: of the znodes of this run.
        history: where it writes.
        rng: its chance.
    """

    name = ""

    def __init__(self, number: int, hosts: str, root: str, history: History, rng: random.Random) -> None:
        self.number = number
        self.root = root
        self.history = history
        self.rng = rng
        self.successes = 0
        self.told = 0
        self.unsure = False  # the outcome of the last attempt is unknown
        self._hosts = hosts

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; a client that gives up is followed by another one."""
        while not stop.is_set():
            with contextlib.suppress(SynodError):  # of opening and closing: attempts look after their own
                async with connect(self._hosts, timeout=REQUEST_S, session_timeout_ms=SESSION_TIMEOUT_MS) as cell:
                    await self._work(cell, stop)

    async def _work(self, cell: Cell, stop: asyncio.Event) -> None:
        while not stop.is_set() and cell.state != "closed":
            await self.turn(cell)
            await asyncio.sleep(self.rng.uniform(*PAUSE_S))

    async def turn(self, cell: Cell) -> None:
        """One thing."""
        raise NotImplementedError

    def value(self) -> str:
        """A text that nobody has written before."""
        self.told += 1
        return f"{self.number}-{self.told}"

    async def attempt(
        self,
        op: str,
        key: str,
        work: Awaitable[T],
        answer: Callable[[T], dict[str, object]],
        **asked: object,
    ) -> tuple[int, T] | tuple[int, None]:
        """Do it, and write down what was asked and answered; the id, and the answer if there is one."""
        id_ = self.history.call(self.number, op, key, **asked)
        self.unsure = False
        try:
            found = await work
        except OutcomeUnknown as unknown:
            self.unsure = True
            self.history.unknown(id_, type(unknown).__name__)
        except NotApplied as refusal:
            self.history.refused(id_, type(refusal).__name__)
        else:
            self.successes += 1
            self.history.ok(id_, **answer(found))
            return id_, found
        return id_, None


def _read_of(found: tuple[bytes, Stat]) -> dict[str, object]:
    data, stat = found
    return {"value": data.decode(), "version": stat.version, "mzxid": stat.mzxid}


def _written(stat: Stat) -> dict[str, object]:
    return {"version": stat.version, "mzxid": stat.mzxid}


class Registers(Worker):
    """Reads, writes and sets-if-unchanged of a few registers."""

    name = "registers"

    async def turn(self, cell: Cell) -> None:
        """Read; then often write, or write only if what was read still stands."""
        key = f"register-{self.rng.randrange(REGISTERS)}"
        path = f"{self.root}/{key}"
        dice = self.rng.random()
        if dice < 0.35:
            value = self.value()
            await self.attempt("write", key, cell.set(path, value.encode()), _written, value=value)
            return
        _, found = await self.attempt("read", key, cell.get(path), _read_of)
        if found is not None and dice < 0.65:
            value, version = self.value(), found[1].version
            await self.attempt(
                "cas", key, cell.set(path, value.encode(), version=version), _written,
                value=value, expected=version,
            )  # fmt: skip


class Counters(Worker):
    """Additions to counters, by the recipe."""

    name = "counters"

    async def turn(self, cell: Cell) -> None:
        """Add one."""
        key = f"counter-{self.rng.randrange(COUNTERS)}"
        counter = Counter(cell, f"{self.root}/{key}")
        await self.attempt("add", key, counter.add(1), lambda value: {"value": value})


class Entries(Worker):
    """Sequential znodes, each with a text of its own."""

    name = "entries"

    async def turn(self, cell: Cell) -> None:
        """Append one."""
        value = self.value()
        await self.attempt(
            "append", "entries",
            cell.create(f"{self.root}/entries/n-", value.encode(), sequential=True),
            lambda path: {"name": path.rpartition("/")[2]},
            value=value,
        )  # fmt: skip


class Locks(Worker):
    """Locks, held for a moment; the holder asks again and again whether it still is one."""

    name = "locks"

    async def turn(self, cell: Cell) -> None:
        """Get one, hold it, and give it back."""
        key = f"lock-{self.rng.randrange(LOCKS)}"
        lock = cell.lock(f"{self.root}/{key}")

        async def acquire() -> int | None:
            return lock.fencing_token if await lock.acquire(timeout=REQUEST_S) else None

        id_ = self.history.call(self.number, "lock", key)
        try:
            token = await acquire()
        except OutcomeUnknown as unknown:
            self.history.unknown(id_, type(unknown).__name__)
            return
        except NotApplied as refusal:
            self.history.refused(id_, type(refusal).__name__)
            return
        if token is None:
            self.history.refused(id_, "LockNotAcquired")
            return
        self.successes += 1
        self.history.ok(id_, token=token)
        until: int | None = None
        try:
            for _ in range(self.rng.randrange(1, 8)):
                before = self.history.now()
                lock.check()
                until = before
                await asyncio.sleep(self.rng.uniform(0.001, 0.03))
        except LockLost:
            pass
        if until is not None:
            self.history.event("held", id=id_, until=until)
        await lock.release()


class Ephemerals(Worker):
    """Ephemeral znodes that several clients want; who has one looks after it."""

    name = "ephemerals"

    async def turn(self, cell: Cell) -> None:
        """Create one; see that it stays; delete it, or leave that to the session's end.

        One that may be there, and that nobody knows of, goes with its session: else it would be in everybody's way.
        """
        await self._own(cell)
        if self.unsure:
            await cell.close()

    async def _own(self, cell: Cell) -> None:
        key = f"ephemeral-{self.rng.randrange(EPHEMERALS)}"
        path = f"{self.root}/{key}"
        session = cell.session_id
        id_, made = await self.attempt(
            "create", key,
            cell.create_stat(path, b"", ephemeral=True),
            lambda found: {"czxid": found[1].czxid, "session": found[1].ephemeral_owner},
        )  # fmt: skip
        if made is None:
            await asyncio.sleep(self.rng.uniform(*PAUSE_S) * 4)
            return
        czxid = made[1].czxid
        session = made[1].ephemeral_owner
        until = await self._look_after(cell, path, czxid, session, id_)
        self.history.event("owned", id=id_, until=until)
        dice = self.rng.random()
        if cell.session_id != session:
            return  # it went with its session, and what is there now is another one's
        if dice < 0.8:
            await self.attempt("delete", key, cell.delete(path), lambda _: {})
        elif dice < 0.95:
            await cell.close()
        else:
            await cell.detach()

    async def _look_after(self, cell: Cell, path: str, czxid: int, session: int, id_: int) -> int:
        """The last moment at which it was surely there."""
        until = 0
        for _ in range(self.rng.randrange(1, 6)):
            await asyncio.sleep(self.rng.uniform(0.005, 0.05))
            before = self.history.now()
            try:
                stat = await cell.exists(path)
                if stat is not None and stat.czxid == czxid:
                    until = before
                    continue
                # A write that is served in the same session proves that the session had not ended.
                await cell.set(self.root, b"")
            except SynodError:
                return until
            if cell.session_id == session:
                what = "there was none" if stat is None else f"there was another one, of zxid {stat.czxid}"
                self.history.event("vanished", id=id_, what=what)
            return until
        return until


class Watches(Worker):
    """Follows a register by one-shot watches, and reads it meanwhile in the same session."""

    name = "watches"

    async def turn(self, cell: Cell) -> None:
        """Set a watch, read until it fires, and once more."""
        key = f"register-{self.rng.randrange(REGISTERS)}"
        path = f"{self.root}/{key}"
        armed = False
        shown = 0
        session = cell.session_id
        fired = asyncio.Event()

        def note(kind: str, mzxid: int = 0) -> None:
            self.history.event("watch", kind=kind, client=self.number, session=session, key=key, mzxid=mzxid)

        def arm() -> None:
            # Its event may be told before the coroutine that awaits the answer runs again.
            nonlocal armed, session
            if not armed:
                armed, session = True, cell.session_id
                note("armed", shown)

        def hear(event: WatcherEvent) -> None:
            arm()
            note("over" if event.type == EVENT_NONE else "event")
            fired.set()

        def take(reader: Reader) -> tuple[bytes, Stat]:
            nonlocal shown
            found = take_data(reader)
            shown = found[1].mzxid
            return found

        try:
            await cell.submit(GetData(path, True), path, take, watcher=hear, repeatable=True)
            arm()
            for _ in range(self.rng.randrange(4, 60)):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(fired.wait(), self.rng.uniform(0.005, 0.05))
                if cell.session_id != session:
                    return
                _, stat = await cell.get(path)
                if cell.session_id == session:
                    note("reply", stat.mzxid)
                if fired.is_set():
                    self.successes += 1
                    return
        except (OutcomeUnknown, NotApplied):
            return
        finally:
            if armed and not fired.is_set():
                cell.unwatch(path, hear)
                note("over")


WORKERS: Final[tuple[tuple[type[Worker], int], ...]] = (
    (Registers, 8),
    (Counters, 2),
    (Entries, 2),
    (Locks, 4),
    (Ephemerals, 3),
    (Watches, 3),
)
"""How many of each kind."""


class Load:
    """All workers of a run.

    Args:
        hosts: of the cell.
        root: a znode for everything that they make.
        history: where they write.
        seed: of their chance.
    """

    def __init__(self, hosts: str, root: str, history: History, seed: int) -> None:
        self.root = root
        self.workers: list[Worker] = []
        for kind, count in WORKERS:
            for _ in range(count):
                number = len(self.workers) + 1
                rng = random.Random(f"{seed}/{number}")
                self.workers.append(kind(number, hosts, root, history, rng))
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def prepare(self, cell: Cell) -> None:
        """Make what has to be there."""
        await cell.ensure_path(f"{self.root}/entries")
        for number in range(REGISTERS):
            await cell.create(f"{self.root}/register-{number}", b"")
        for number in range(COUNTERS):
            await cell.create(f"{self.root}/counter-{number}", b"0")

    def start(self) -> None:
        """Begin to work."""
        self._tasks = [asyncio.create_task(worker.run(self._stop)) for worker in self.workers]

    def failed(self) -> BaseException | None:
        """What a worker met that is nobody's answer."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                return task.exception()
        return None

    async def stop(self, seconds: float) -> None:
        """Let everybody finish what it does; what lasts longer is left open."""
        self._stop.set()
        await asyncio.wait(self._tasks, timeout=seconds)
        await self.abandon()

    async def abandon(self) -> None:
        """Let nobody go on: the history is about to be closed."""
        late = [task for task in self._tasks if not task.done()]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def read_final(cell: Cell, root: str, history: History, replica: int, *, whole: bool) -> None:
    """What is there at the end, as one replica shows it; `whole` with every entry.

    Raises:
        SynodError: it could not be read.
    """
    worker = Worker(1_000 + replica, "", root, history, random.Random(0))
    await cell.sync(root)
    registers: dict[str, object] = {}
    for number in range(REGISTERS):
        key = f"register-{number}"
        _, found = await worker.attempt("read", key, cell.get(f"{root}/{key}"), _read_of)
        if found is not None:
            registers[key] = [found[0].decode(), found[1].version, found[1].mzxid]
    counters: dict[str, int] = {}
    for number in range(COUNTERS):
        key = f"counter-{number}"
        counters[key] = int((await cell.get(f"{root}/{key}"))[0])
    names = await cell.children(f"{root}/entries")
    entries: dict[str, str] | None = None
    if whole:
        found_entries = await asyncio.gather(*(cell.get(f"{root}/entries/{name}") for name in names))
        entries = {name: data.decode() for name, (data, _) in zip(names, found_entries, strict=True)}
    ephemerals = []
    for path in [f"ephemeral-{n}" for n in range(EPHEMERALS)]:
        with contextlib.suppress(NoNode):
            await cell.get(f"{root}/{path}")
            ephemerals.append(path)
    for path in [f"lock-{n}" for n in range(LOCKS)]:
        with contextlib.suppress(NoNode):
            ephemerals += [f"{path}/{name}" for name in await cell.children(f"{root}/{path}")]
    what: dict[str, object] = {
        "registers": registers,
        "counters": counters,
        "names": len(names),
        "ephemerals": ephemerals,
    }
    if entries is not None:
        what["entries"] = entries
    history.event("final", replica=replica, **what)
