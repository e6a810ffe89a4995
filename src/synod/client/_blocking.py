"""The client for threads: the same operations, run on an event loop in a thread of their own.

Read `_cell.Cell` for what each operation does; here is only how a thread waits for it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from synod.base import LockNotAcquired, UserError
from synod.wire import ACL, OPEN_ACL, Change, Stat

from ._cell import Cell

if TYPE_CHECKING:
    from synod.recipes import Lock

T = TypeVar("T")


class BlockingCell:
    """A client of a cell for code that blocks; safe to share between threads.

    Args:
        hosts: `host:port,host:port,...`.
        timeout: seconds for one request.
        session_timeout_ms: how long the cell keeps the session of a silent client.

    Raises:
        OperationTimeout: no replica answered; nothing was done.
    """

    def __init__(self, hosts: str, *, timeout: float = 10.0, session_timeout_ms: int = 10_000) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="synod-client", daemon=True)
        self._thread.start()
        self._closed = False
        self.cell = Cell(hosts, timeout=timeout, session_timeout_ms=session_timeout_ms)
        try:
            self.run(self.cell.start())
        except BaseException:
            self._stop_loop()
            raise

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the client's loop and wait for it.

        Raises:
            UserError: the client is closed, or belongs to the process before a fork; nothing was done.
        """
        if self._closed or self._pid != os.getpid():
            work.close()
            reason = "is closed" if self._closed else "was made before a fork; make a new one in the child"
            raise UserError(f"this client {reason}; nothing was sent")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
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
        """End the session and the thread."""
        if self._closed or self._pid != os.getpid():
            return
        self.run(self.cell.close())
        self._stop_loop()

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

    def multi(self, changes: Sequence[Change]) -> list[str | Stat | None]:
        """See `Cell.multi`."""
        return self.run(self.cell.multi(changes))

    def sync(self, path: str = "/") -> None:
        """See `Cell.sync`."""
        self.run(self.cell.sync(path))

    def watch(self, path: str) -> Iterator[tuple[bytes | None, Stat | None]]:
        """See `Cell.watch`; each step blocks until there is something new."""
        changes = self.cell.watch(path)
        while True:
            yield self.run(_next(changes))

    def lock(self, path: str, *, identifier: str = "", timeout: float | None = None) -> BlockingLock:
        """A fenced lock as a context manager; see `recipes.Lock`."""
        return BlockingLock(self, self.cell.lock(path, identifier=identifier, timeout=timeout))

    def elect(self, path: str, *, identifier: str = "") -> BlockingLock:
        """Leadership as a context manager: entering waits until this client leads."""
        return BlockingLock(self, self.cell.elect(path, identifier=identifier))


async def _next(changes: Any) -> Any:  # noqa: ANN401 -- whatever the iterator gives
    return await anext(changes)


class BlockingLock:
    """A lock of a `BlockingCell`.

    A thread cannot be cancelled: ask `is_valid` (or compare the token at the resource) before what must not
    happen without the lock.
    """

    def __init__(self, cell: BlockingCell, lock: Lock) -> None:
        self._cell = cell
        self._lock = lock

    @property
    def fencing_token(self) -> int:
        """The rising number that a resource compares; valid while the lock is held."""
        return self._lock.fencing_token

    @property
    def is_valid(self) -> bool:
        """Whether nobody else can hold the lock at this moment."""
        return self._lock.is_valid

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
        self.release()
