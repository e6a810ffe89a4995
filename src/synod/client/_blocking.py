"""The client for threads: the same operations, run on an event loop in a thread of their own.

Read `_cell.Cell` for what each operation does; here is only how a thread waits for it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import ssl
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from synod.base import ConnectionLoss, LocalProtocolError, LockNotAcquired, UserError
from synod.wire import ACL, OPEN_ACL, Stat
from synod.wire import Change as WireChange

from ._cell import Cell, SessionInfo
from ._session import State
from ._watch import Change

if TYPE_CHECKING:
    from synod.recipes import Election, Lock

T = TypeVar("T")

_GRACE_S: Final = 0.5
"""What waits on a closed client fails by itself within a turn or two of the loop; longer it need not be waited for."""


class BlockingCell:
    """A client of a cell for code that blocks; safe to share between threads.

    Args:
        hosts: `host:port,host:port,...`.
        timeout: seconds for one request.
        session_timeout_ms: how long the cell keeps the session of a silent client.
        auth: (scheme, credentials) pairs, sent before anything else.
        tls: for cells that ask for it.
        session: of `SessionInfo`: resume this session instead of opening one.

    Raises:
        ConfigError: `hosts` is malformed.
        Unavailable: no replica served us in time; nothing was done.
    """

    def __init__(
        self,
        hosts: str,
        *,
        timeout: float = 10.0,
        session_timeout_ms: int = 10_000,
        auth: Iterable[tuple[str, str | bytes]] = (),
        tls: ssl.SSLContext | None = None,
        session: SessionInfo | None = None,
    ) -> None:
        self.cell = Cell(
            hosts, timeout=timeout, session_timeout_ms=session_timeout_ms, auth=auth, tls=tls, session=session
        )
        self._pid = os.getpid()
        self._closed = False
        self._turn = threading.Lock()  # nothing is begun on the loop once it is being stopped
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="synod-client", daemon=True)
        self._thread.start()
        try:
            self.run(self.cell.start())
        except BaseException:
            self._stop_loop()
            raise

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the client's loop and wait for it.

        Raises:
            UserError: the client is closed, or belongs to the process before a fork, or this is its own thread;
                nothing was done.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise UserError(
                "a watcher or listener must not block on its own client; nothing was sent: use another thread"
            )
        if self._pid != os.getpid():  # before the turn, which another thread may have held at the fork
            work.close()
            raise UserError("this client was made before a fork; make a new one in the child; nothing was sent")
        with self._turn:
            if self._closed:
                work.close()
                raise UserError("this client is closed; nothing was sent")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ConnectionLoss("the client was closed while this waited; it may or may not have happened") from None
        except BaseException:
            future.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session and the thread. Other threads that wait for something get an error."""
        if self._pid != os.getpid():
            return
        with self._turn:
            if self._closed:
                return
            self._closed = True
            future = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        try:
            future.result()
        finally:
            self._stop_loop()

    async def _close(self) -> None:
        await self.cell.close()
        # Whatever a thread waits for ends now, by itself or by force: a stopped loop would never wake it.
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        if waiting:
            _, waiting = await asyncio.wait(waiting, timeout=_GRACE_S)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def _stop_loop(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._loop.close()

    def get(self, path: str) -> tuple[bytes, Stat]:
        """See `Cell.get`."""
        return self.run(self.cell.get(path))

    def exists(self, path: str) -> Stat | None:
        """See `Cell.exists`."""
        return self.run(self.cell.exists(path))

    def children(self, path: str) -> list[str]:
        """See `Cell.children`."""
        return self.run(self.cell.children(path))

    def set(self, path: str, value: bytes, *, version: int = -1) -> Stat:
        """See `Cell.set`."""
        return self.run(self.cell.set(path, value, version=version))

    def create(
        self,
        path: str,
        value: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        makepath: bool = False,
        acl: Sequence[ACL] = OPEN_ACL,
    ) -> str:
        """See `Cell.create`."""
        return self.run(
            self.cell.create(path, value, ephemeral=ephemeral, sequential=sequential, makepath=makepath, acl=acl)
        )

    def ensure_path(self, path: str) -> None:
        """See `Cell.ensure_path`."""
        self.run(self.cell.ensure_path(path))

    def delete(self, path: str, *, version: int = -1, recursive: bool = False) -> None:
        """See `Cell.delete`."""
        self.run(self.cell.delete(path, version=version, recursive=recursive))

    def multi(self, changes: Sequence[WireChange]) -> list[str | Stat | None]:
        """See `Cell.multi`."""
        return self.run(self.cell.multi(changes))

    def sync(self, path: str = "/") -> None:
        """See `Cell.sync`."""
        self.run(self.cell.sync(path))

    def watch(self, path: str, *, children: bool = False) -> Iterator[Change]:
        """See `Cell.watch`; each step blocks until there is something new."""
        changes = self.cell.watch(path, children=children)
        try:
            while (change := self.run(_next(changes))) is not None:
                yield change
        finally:
            with contextlib.suppress(UserError):  # a closed client has ended it already
                self.run(_end(changes))

    @property
    def state(self) -> State:
        """See `Cell.state`."""
        return self.cell.state

    @property
    def session_id(self) -> int:
        """See `Cell.session_id`."""
        return self.cell.session_id

    def lock(self, path: str, *, identifier: str = "", timeout: float | None = None) -> BlockingLock:
        """A fenced lock as a context manager; see `recipes.Lock`."""
        return BlockingLock(self, self.cell.lock(path, identifier=identifier, timeout=timeout))

    def elect(self, path: str, *, identifier: str = "", timeout: float | None = None) -> BlockingElection:
        """Leadership as a context manager: entering waits until this client leads."""
        return BlockingElection(self, self.cell.elect(path, identifier=identifier, timeout=timeout))


async def _next(changes: AsyncIterator[Change]) -> Change | None:
    return await anext(changes, None)


async def _end(changes: Any) -> None:  # noqa: ANN401 -- an async generator, which an iterator need not be
    await changes.aclose()


class BlockingLock:
    """A lock of a `BlockingCell`: a Lock, or any other kind, as `BlockingLock(cell, Semaphore(cell.cell, "/s", 3))`.

    A thread cannot be cancelled: call `check` (or compare the token at the resource) before what must not
    happen without the lock. `with` raises LockLost at its end when the lock was lost while the body ran.
    """

    def __init__(self, cell: BlockingCell, lock: Lock) -> None:
        self._cell = cell
        self._lock = lock

    @property
    def fencing_token(self) -> int:
        """The rising number that a resource compares; valid while the lock is held."""
        return self._lock.fencing_token

    @property
    def held(self) -> bool:
        """Whether this contender got the lock, and has neither released nor lost it."""
        return self._lock.held

    @property
    def is_valid(self) -> bool:
        """Whether nobody else can hold the lock at this moment."""
        return self._lock.is_valid

    def check(self) -> None:
        """See `recipes.Lock.check`."""
        if not self._lock.is_valid:
            self._cell.run(self._check())

    async def _check(self) -> None:
        self._lock.check()

    def contenders(self) -> list[str]:
        """See `recipes.Lock.contenders`."""
        return self._cell.run(self._lock.contenders())

    def acquire(self, *, timeout: float | None = None, blocking: bool = True) -> bool:
        """See `recipes.Lock.acquire`."""
        return self._cell.run(self._lock.acquire(timeout=timeout, blocking=blocking))

    def release(self) -> None:
        """See `recipes.Lock.release`."""
        self._cell.run(self._lock.release())

    def __enter__(self) -> Self:
        if not self.acquire(timeout=self._lock.timeout):
            raise LockNotAcquired(f"the lock {self._lock.path} was not got in time; nothing is held")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cell.run(self._leave(after_error=kind is not None))

    async def _leave(self, *, after_error: bool) -> None:
        try:
            if not after_error:
                with contextlib.suppress(LocalProtocolError):  # the body released it
                    self._lock.check()
        finally:
            await self._lock.release()


class BlockingElection(BlockingLock):
    """An election of a `BlockingCell`; see `recipes.Election`."""

    def __init__(self, cell: BlockingCell, election: Election) -> None:
        super().__init__(cell, election)
        self._election = election

    @property
    def token(self) -> int:
        """The leadership's fencing token: every later leader has a higher one."""
        return self._election.token

    def leader(self) -> str | None:
        """What the present leader says of itself; None when there is none."""
        return self._cell.run(self._election.leader())
