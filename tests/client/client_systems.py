"""What clients and recipes are tested against: a cell inside this process, a real one of three replicas, ZooKeeper.

The rooms client and recipes share them, so that each is started once in a run; import it as
`client.client_systems`, or there are two of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Self

from bench.peers import SynodCell, ZooKeeper

import synod.embedded
from synod.base import SECOND, SynodError
from synod.client import Cell, connect

PATIENCE_S = 20.0
SYSTEMS = ("local", "cell", "zookeeper")
_JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_numbers = itertools.count(1)
_running: dict[str, tuple[str, contextlib.ExitStack]] = {}
_users: dict[str, int] = {}


def _start(name: str, directory: Path, stack: contextlib.ExitStack) -> str:
    if name == "local":
        return stack.enter_context(synod.embedded.local(session_timeout_ms_min=200)).hosts
    if name == "cell":
        return stack.enter_context(SynodCell(directory, settings={"session.timeout_ms_min": 1_000})).hosts
    return stack.enter_context(ZooKeeper(directory, replicas=1, tick_ms=500, jvm=_JVM)).hosts


@contextlib.contextmanager
def shared(name: str, directory: Path) -> Iterator[str]:
    """The addresses of one of SYSTEMS, which runs until its last user has gone."""
    if name not in _running:
        stack = contextlib.ExitStack()
        _running[name] = (_start(name, directory, stack), stack)
    hosts, stack = _running[name]
    _users[name] = _users.get(name, 0) + 1
    try:
        yield hosts
    finally:
        _users[name] -= 1
        if not _users[name]:
            del _running[name]
            stack.close()


def unique_root() -> str:
    """A path that no other test uses."""
    return f"/test-{os.getpid()}-{next(_numbers)}"


async def wait_until(condition: Callable[[], object | Awaitable[object]], what: str) -> None:
    """Wait for a condition, not for a time; fails with its name."""
    until = time.monotonic() + PATIENCE_S
    while True:
        holds = condition()
        if isinstance(holds, Awaitable):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < until, f"never came: {what}"
        await asyncio.sleep(0.005)


async def wait_for_children(cell: Cell, path: str, count: int) -> list[str]:
    """Wait until there are so many znodes below `path`; returns their names."""

    async def there() -> bool:
        return await cell.exists(path) is not None and len(await cell.children(path)) == count

    await wait_until(there, f"{count} children of {path}")
    return await cell.children(path)


async def expire(cell: Cell, hosts: str) -> None:
    """End the session of a client behind its back, as the cell does with one that was silent for too long.

    Returns when the client has a new session.
    """
    old, until = cell.session, time.monotonic() + PATIENCE_S
    while cell.session_id == old.id:  # the victim comes back at once, and may win the session from the thief again
        assert time.monotonic() < until, "the session never ended"
        with contextlib.suppress(SynodError):
            async with connect(hosts, session=old, timeout=1.0):
                pass
        await asyncio.sleep(0)
    await wait_until(lambda: cell.state == "connected", "a new session")


@contextlib.asynccontextmanager
async def clients() -> AsyncIterator[Callable[..., Awaitable[Cell]]]:
    """Makes started clients, which are closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(hosts: str, **options) -> Cell:
            cell = Cell(hosts, **options)
            await cell.start()
            stack.push_async_callback(cell.close)
            return cell

        yield make


class ManualClock:
    """A client's clock that only the test moves."""

    def __init__(self) -> None:
        self._now = 1_000 * SECOND

    def monotonic(self) -> int:
        return self._now

    def wall_ms(self) -> int:
        return self._now // 1_000

    def advance(self, micros: int) -> None:
        self._now += micros


class Relay:
    """The cable between clients and the first address of a cell, in the test's hands."""

    def __init__(self, hosts: str) -> None:
        host, _, port = hosts.partition(",")[0].rpartition(":")
        self._to = (host, int(port))
        self._server: asyncio.Server | None = None
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._whole = True
        self._answers = asyncio.Event()
        self._answers.set()
        self.hosts = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.hosts = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Every connection is gone, with what was on its way; new ones too."""
        self._whole = False
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for writer in pair:
                writer.transport.abort()
        self._answers.set()

    def mend(self) -> None:
        """New connections go through."""
        self._whole = True

    def hold_answers(self) -> None:
        """Requests go through, answers wait."""
        self._answers.clear()

    def let_answers_go(self) -> None:
        """The answers that waited, and all later ones."""
        self._answers.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        cell_reader, cell_writer = await asyncio.open_connection(*self._to)
        if not self._whole:
            writer.transport.abort()
            cell_writer.transport.abort()
            return
        pair = (writer, cell_writer)
        self._pairs.append(pair)
        for source, sink, answers in ((reader, cell_writer, False), (cell_reader, writer, True)):
            task = asyncio.get_running_loop().create_task(self._carry(source, sink, pair, answers=answers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        *,
        answers: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if answers:
                    await self._answers.wait()
                if pair not in self._pairs:
                    return
                sink.write(data)
        sink.close()
