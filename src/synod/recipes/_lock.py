"""Fenced locks and elections, as plain znodes that kazoo's clients understand.

The contender with the lowest number in the lock's directory holds the lock; each other one watches only the one
before it, so that a release wakes one client. The *fencing token* is the contender's czxid: the cell's counter
only rises, so every later holder has a higher one, and a resource that refuses what is lower than the highest
token it has seen is safe from a holder that was paused, whatever clocks say.

What a lock promises: nobody else holds it while this client's lease lasts, if nobody's clock is off by more than
the lease's margin; and for whoever does not respect its lease, the token, checked by the resource.

Read `Lock.acquire`, `_wait_turn`, then `__aexit__`.
Ref: Burrows 2006 s2.4 (sequencers), s2.8 (jeopardy); Hunt 2010 s2.4 (simple locks without herd effect).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Final, Self

from synod.base import LocalProtocolError, LockLost, LockNotAcquired, NoNode, NotApplied, OutcomeUnknown, SessionExpired
from synod.client import Unavailable, validate_path

from ._bell import bell_at
from ._contender import Contender, number_of

if TYPE_CHECKING:
    from synod.client import Cell, Lease

WATCH_AFTER_S: Final = 0.1
"""A lock that is held longer than this watches its own contender, in case an operator deletes it. A shorter cycle
then costs one create, one list and one delete, and the fencing token covers the moment."""


class Lock:
    """A fenced lock. `async with cell.lock("/locks/a") as lock:` waits for it, and releases it at the end.

    When the lease cannot be kept the body is cancelled before the lock could be somebody else's, and `async with`
    raises LockLost. A body that does not let the event loop run cannot be stopped: let it ask `check`, and let the
    resource compare `fencing_token`. Not re-entrant: one `Lock` is one contender at a time.

    Args:
        cell: a started client.
        path: the lock's directory; made when it is missing.
        identifier: what others can read about this contender.
        timeout: seconds that `async with` waits; None is without end.
    """

    MARK: ClassVar[str] = "__lock__"
    BLOCKING_MARKS: ClassVar[tuple[str, ...]] = ("__lock__",)

    def __init__(self, cell: Cell, path: str, *, identifier: str = "", timeout: float | None = None) -> None:
        validate_path(path)
        self.path = path
        self.timeout = timeout
        self._cell = cell
        self._data = identifier.encode()
        self._contender: Contender | None = None
        self._lease: Lease | None = None
        self._acquiring = False
        self._blocking = _marks(self.BLOCKING_MARKS)
        self._never_lost = asyncio.Event()
        self._never_in_jeopardy = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._body: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._cancelled_body = False

    # -- what the holder may ask ----------------------------------------------------------------------

    @property
    def fencing_token(self) -> int:
        """The rising number that a resource compares.

        Raises:
            LocalProtocolError: the lock is not held.
        """
        if self._contender is None or self._lease is None:
            raise LocalProtocolError(f"the {self._what} is not held, so it has no fencing token: acquire it first")
        return self._contender.czxid

    @property
    def held(self) -> bool:
        """Whether this contender got the lock, and has neither released nor lost it."""
        return self._lease is not None and not self._lease.lost.is_set()

    @property
    def is_valid(self) -> bool:
        """Whether nobody else can hold the lock at this very moment."""
        return self._lease is not None and self._lease.left > 0

    @property
    def lost(self) -> asyncio.Event:
        """Set when the lock was lost, before it could be somebody else's."""
        return self._never_lost if self._lease is None else self._lease.lost

    @property
    def jeopardy(self) -> asyncio.Event:
        """Set while the cell is not heard from: the lock is still held, and may be lost at `deadline`."""
        return self._never_in_jeopardy if self._lease is None else self._lease.jeopardy

    @property
    def deadline(self) -> float:
        """Until when the lock is safe if nothing more is heard from the cell: seconds of `boot_clock`."""
        return 0.0 if self._lease is None else self._lease.deadline

    def check(self) -> None:
        """Do nothing while the lock is held and safe; for a body that cannot be cancelled.

        Raises:
            LockLost: it is not; somebody else may hold it.
            LocalProtocolError: it was never acquired.
        """
        if self._lease is None:
            raise LocalProtocolError(f"the {self._what} is not held: acquire it first")
        self._lease.check()

    async def contenders(self) -> list[str]:
        """What each contender says of itself, the holder first."""
        try:
            names = await self._cell.children(self.path)
        except NoNode:
            return []
        found: list[str] = []
        for name in sorted(filter(self._blocking.search, names), key=number_of):
            with contextlib.suppress(NoNode):
                data, _ = await self._cell.get(f"{self.path}/{name}")
                found.append(data.decode(errors="replace"))
        return found

    # -- getting it -----------------------------------------------------------------------------------

    async def acquire(self, *, timeout: float | None = None, blocking: bool = True) -> bool:  # noqa: ASYNC109
        """Wait for the lock.

        A session that ends while this waits costs the place in the queue, not the wait.

        Args:
            timeout: seconds; None is without end, 0 tries once.
            blocking: False tries once.

        Returns:
            True when it is held; False when it was not got in time: then no contender is left behind.

        Raises:
            LocalProtocolError: this object holds or awaits the lock already.
            NotApplied: the cell refused, such as for an ACL; nothing is held.
        """
        if self._acquiring or self.held:
            raise LocalProtocolError(
                f"this object holds or awaits the {self._what} already; it is not re-entrant: use another Lock object"
            )
        await self._withdraw()  # of an earlier time that ended as lost
        self._acquiring = True
        try:
            if not blocking or (timeout is not None and timeout <= 0):
                timeout, blocking = self._cell.timeout, False
            async with asyncio.timeout(timeout):
                await self._contend(blocking=blocking)
        except TimeoutError:
            pass
        except BaseException:
            if self._contender is not None:
                self._contender.leave_soon()
            self._forget()
            raise
        finally:
            self._acquiring = False
        if self._lease is None:
            await self._withdraw()
            return False
        return True

    async def _contend(self, *, blocking: bool) -> None:
        """Join the queue and wait; again when the session ended meanwhile."""
        while True:
            contender = Contender(self._cell, self.path, self.MARK, self._data)
            self._contender = contender
            try:
                names = await contender.join()
                if not await self._wait_turn(contender, names, blocking=blocking):
                    return
            except SessionExpired:
                await self._cell.wait_connected()
                continue
            lease = self._cell.lease(f"the {self._what}", session_id=contender.session_id)
            if lease.lost.is_set():
                await contender.leave()
                continue
            self._lease = lease
            self._watching = asyncio.get_running_loop().create_task(self._watch_contender(contender, lease))
            return

    async def _wait_turn(self, contender: Contender, names: list[str], *, blocking: bool) -> bool:
        """Wait until nobody stands before the contender."""
        while True:
            if contender.name not in names:
                raise SessionExpired(f"the contender for the {self._what} is gone: nothing is held")
            blocker = self._blocker(contender.name, names)
            if blocker is None:
                return True
            if not blocking:
                return False
            await self._wait_gone(blocker)
            names = await contender.list()

    def _blocker(self, me: str, names: list[str]) -> str | None:
        """The nearest contender before this one that keeps it from holding; None when it holds."""
        mine = number_of(me)
        before = [name for name in names if self._blocking.search(name) and number_of(name) < mine]
        return max(before, key=number_of, default=None)

    async def _wait_gone(self, name: str) -> None:
        """Wait until a znode has changed or gone, or the session is over."""
        path = f"{self.path}/{name}"
        with bell_at(self._cell, path) as bell:
            try:
                if await self._cell.exists(path, watch=bell.ring) is not None:
                    await bell.wait()
            except (OutcomeUnknown, Unavailable):
                await self._cell.wait_connected()

    # -- keeping it -----------------------------------------------------------------------------------

    async def _watch_contender(self, contender: Contender, lease: Lease) -> None:
        """An operator may break the lock by deleting its contender: then it is lost."""
        await asyncio.sleep(WATCH_AFTER_S)
        with contextlib.suppress(NotApplied):  # the session is over or the client closed: the lease says so itself
            while not lease.lost.is_set():
                with bell_at(self._cell, contender.path) as bell:
                    try:
                        if await self._cell.exists(contender.path, watch=bell.ring) is None:
                            lease.lose("its contender was deleted, by an operator or another client")
                            return
                        await bell.wait()
                    except (OutcomeUnknown, Unavailable):
                        await self._cell.wait_connected()

    async def release(self) -> None:
        """Give the lock back; harmless when it is not held.

        When the cell cannot be reached it is given back as soon as it can be, or when the session ends.
        """
        if self._acquiring:
            raise LocalProtocolError(f"the {self._what} is being acquired: cancel that instead of releasing it")
        await self._withdraw()

    async def _withdraw(self) -> None:
        contender, lost = self._contender, self.lost.is_set()
        self._forget()
        if contender is None:
            return
        if lost:
            contender.leave_soon()  # the cell may be out of reach, and whoever lost the lock must hear so at once
        else:
            await contender.leave()

    def _forget(self) -> None:
        self._contender = None
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self._lease is not None:
            self._lease.let_go()
            self._lease = None

    # -- async with -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Wait for the lock.

        Raises:
            LockNotAcquired: it was not got in time; nothing is held.
        """
        if not await self.acquire(timeout=self.timeout):
            raise LockNotAcquired(
                f"the {self._what} was not got within {self.timeout:g} s; nothing is held: wait longer, or ask who holds "
                "it with contenders()"
            )
        task = asyncio.current_task()
        assert task is not None
        assert self._lease is not None
        self._cancelled_body = False
        self._body, self._cancelling = task, task.cancelling()
        self._lease.on_lost(self._cancel_body)
        return self

    def _cancel_body(self) -> None:
        if self._body is not None and not self._body.done():
            self._cancelled_body = True
            self._body.cancel(f"the {self._what} was lost")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock.

        Raises:
            LockLost: it was lost while the body ran.
        """
        body, self._body = self._body, None
        lease = self._lease
        ours = False
        if self._cancelled_body and body is not None:
            if kind is None or not issubclass(kind, asyncio.CancelledError):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)  # take the cancellation that the body has not met
            ours = body.uncancel() <= self._cancelling
        if lease is not None:
            with contextlib.suppress(LockLost):
                lease.check()  # the loop may have had no chance to notice: a body that never let it run
        await self._withdraw()
        if lease is not None and lease.lost.is_set() and (kind is None or (ours and kind is asyncio.CancelledError)):
            raise lease.error() from error

    @property
    def _what(self) -> str:
        return f"{type(self).__name__.lower()} {self.path}"


class Election(Lock):
    """Leadership of a group: a lock whose holder leads. `async with cell.elect(path) as leadership:`."""

    @property
    def token(self) -> int:
        """The leadership's fencing token: every later leader has a higher one."""
        return self.fencing_token

    async def leader(self) -> str | None:
        """What the present leader says of itself; None when there is none."""
        names = await self.contenders()
        return names[0] if names else None


class WriteLock(Lock):
    """The writing side of an `RWLock`: waits for every reader and writer before it."""

    BLOCKING_MARKS: ClassVar[tuple[str, ...]] = ("__lock__", "__rlock__")


class ReadLock(Lock):
    """The reading side of an `RWLock`: waits for the writers before it, holds together with other readers."""

    MARK: ClassVar[str] = "__rlock__"


class RWLock:
    """A lock that many may hold to read, or one to write; fair: whoever came first goes first.

    In the layout of kazoo's ReadLock and WriteLock. A reader's token orders it among writers: a resource that
    checks tokens must not refuse an older reader for a newer one, so compare a reader's with writers' only.

    Args:
        cell: a started client.
        path: the lock's directory.
        identifier: what others can read about this contender.
    """

    def __init__(self, cell: Cell, path: str, *, identifier: str = "") -> None:
        self._cell = cell
        self.path = path
        self._identifier = identifier

    def read(self, *, timeout: float | None = None) -> ReadLock:
        """To hold together with other readers."""
        return ReadLock(self._cell, self.path, identifier=self._identifier, timeout=timeout)

    def write(self, *, timeout: float | None = None) -> WriteLock:
        """To hold alone."""
        return WriteLock(self._cell, self.path, identifier=self._identifier, timeout=timeout)


class Semaphore(Lock):
    """Up to `limit` holders at once; who waits is let in in the order of arrival.

    Every waiter watches the directory, as any holder may be the one that leaves: meant for few waiters.

    Args:
        cell: a started client.
        path: the semaphore's directory.
        limit: of holders at once; all clients must use the same.
        identifier: what others can read about this contender.
        timeout: seconds that `async with` waits; None is without end.
    """

    MARK: ClassVar[str] = "__lease__"
    BLOCKING_MARKS: ClassVar[tuple[str, ...]] = ("__lease__",)

    def __init__(
        self, cell: Cell, path: str, limit: int, *, identifier: str = "", timeout: float | None = None
    ) -> None:
        if limit < 1:
            raise ValueError(f"a semaphore lets in at least one, not {limit}")
        super().__init__(cell, path, identifier=identifier, timeout=timeout)
        self.limit = limit

    def _blocker(self, me: str, names: list[str]) -> str | None:
        mine = number_of(me)
        before = sorted((n for n in names if self._blocking.search(n) and number_of(n) < mine), key=number_of)
        return before[-1] if len(before) >= self.limit else None

    async def _wait_gone(self, name: str) -> None:  # noqa: ARG002 - any of those before may be the one to leave
        """Wait until the directory has changed since `name` was seen in it."""
        with bell_at(self._cell, self.path) as bell:
            try:
                names = await self._cell.children(self.path, watch=bell.ring)
                me = "" if self._contender is None else self._contender.name
                if me in names and self._blocker(me, names) is not None:
                    await bell.wait()
            except NoNode:
                return
            except (OutcomeUnknown, Unavailable):
                await self._cell.wait_connected()


def _marks(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?:{'|'.join(marks)})-?\d{{10}}$", re.ASCII)
