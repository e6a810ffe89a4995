"""Fenced locks and elections, as plain znodes.

Contenders are ephemeral sequential children of the lock's path, named as kazoo's Lock names them
(`<uuid>__lock__<number>`), so that kazoo clients and these queue for the same lock. The lowest number holds
the lock; each contender watches only the one before it, so that a release wakes one client.

The *fencing token* is the contender's czxid. The holder is the contender with the lowest czxid, and zxids
only rise, so that every later holder has a higher token: a resource that refuses tokens lower than the
highest it has seen is safe from a holder that was paused, whatever its clock says.
Ref: Burrows 2006 s2.4 (sequencers); Hunt et al. 2010 s2.4 (locks without herd effect).
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from synod.base import (
    ConnectionLoss,
    LocalProtocolError,
    LockLost,
    LockNotAcquired,
    NoNode,
    OutcomeUnknown,
    SessionExpired,
    SynodError,
)

if TYPE_CHECKING:
    from synod.client import Cell, State
    from synod.wire import WatcherEvent

MARK: Final = "__lock__"
SEQUENCE_DIGITS: Final = 10
SEQUENCE_RENEW: Final = 2_000_000_000
"""An empty lock directory is replaced when its numbers come near 2^31 - 1, where they would wrap."""

MARGIN_MS: Final = 200
"""The body of a lock is told so long before the lease could be over: a cancellation takes time, too."""


class Lock:
    """A fenced lock; made by `Cell.lock`.

    `async with cell.lock("/locks/a") as lock:` waits for the lock, cancels its body with LockLost when the
    lease cannot be kept, and releases at the end. Not re-entrant: one `Lock` is one contender at a time.

    Args:
        cell: a started client.
        path: the lock's directory; made when it is missing.
        identifier: what others see of this contender.
        timeout: seconds that `async with` waits; None is without end.
    """

    def __init__(self, cell: Cell, path: str, *, identifier: str = "", timeout: float | None = None) -> None:
        self.path = path
        self.timeout = timeout
        self.lost = asyncio.Event()
        self._cell = cell
        self._identifier = identifier.encode()
        self._prefix = ""
        self._contender: str | None = None
        self._token = 0
        self._session = 0
        self._held = False
        self._guard: asyncio.TimerHandle | None = None
        self._body: asyncio.Task[object] | None = None
        self._cancelled_body = False

    # -- what the holder may ask ---------------------------------------------------------------------------

    @property
    def fencing_token(self) -> int:
        """The rising number that a resource compares.

        Raises:
            LocalProtocolError: the lock is not held.
        """
        if self._contender is None or not self._token:
            raise LocalProtocolError(f"the lock {self.path} is not held, so it has no fencing token")
        return self._token

    @property
    def held(self) -> bool:
        """Whether this contender got the lock and has not released or lost it."""
        return self._held

    @property
    def is_valid(self) -> bool:
        """Whether nobody else can hold the lock at this moment, by this machine's clock."""
        from synod.client import boot_clock

        return self._held and not self.lost.is_set() and boot_clock() < self._cell.lease_deadline

    # -- getting it ----------------------------------------------------------------------------------------

    async def acquire(self, *, timeout: float | None = None, blocking: bool = True) -> bool:  # noqa: ASYNC109
        """Wait for the lock.

        Args:
            timeout: seconds; None waits without end.
            blocking: False tries once.

        Returns:
            True when it is held; False when it was not got in time, and then no contender is left behind.

        Raises:
            SessionExpired: the session ended while waiting; nothing is held.
        """
        if self._contender is not None:
            raise LocalProtocolError(f"this lock object holds or waits for {self.path} already; it is not re-entrant")
        self.lost.clear()
        got = False
        try:
            async with asyncio.timeout(timeout):
                await self._contend()
                got = await self._wait_turn(blocking=blocking)
        except TimeoutError:
            got = False
        finally:
            if not got:
                await self._withdraw()
        if got:
            self._held = True
            self._cell.add_listener(self._state_changed)
            self._watch_lease()
        return got

    async def _contend(self) -> None:
        """Create the contender; after a lost connection, find out whether it was created."""
        self._prefix = uuid.uuid4().hex + MARK
        self._session = self._cell.session_id
        while True:
            try:
                path, stat = await self._cell.create_stat(
                    f"{self.path}/{self._prefix}", self._identifier, ephemeral=True, sequential=True, makepath=True
                )
            except OutcomeUnknown:
                # The next answer comes after the session was attached anew: by then the create has happened,
                # or never will.
                await self._cell.wait_connected()
                found = await self._find()
                if found is None:
                    continue
                path = found
                found_stat = await self._cell.exists(path)
                if found_stat is None:
                    continue
                stat = found_stat
            self._contender, self._token = path, stat.czxid
            return

    async def _find(self) -> str | None:
        with contextlib.suppress(NoNode):
            for name in await self._cell.children(self.path):
                if name.startswith(self._prefix):
                    return f"{self.path}/{name}"
        return None

    async def _wait_turn(self, *, blocking: bool) -> bool:
        """Wait until no contender stands before this one."""
        me = (self._contender or "").rpartition("/")[2]
        while True:
            try:
                names = await self._contenders()
                if me not in names:
                    raise SessionExpired(f"the contender for {self.path} is gone with its session; nothing is held")
                at = names.index(me)
                if at == 0:
                    return True
                if not blocking:
                    return False
                gone = asyncio.Event()

                def fire(_event: WatcherEvent, gone: asyncio.Event = gone) -> None:
                    gone.set()

                if await self._cell.exists(f"{self.path}/{names[at - 1]}", watch=fire) is not None:
                    await gone.wait()
            except ConnectionLoss:
                await self._cell.wait_connected()

    async def _contenders(self) -> list[str]:
        """Names of the contenders in the order of the queue."""
        names = await self._cell.children(self.path)
        return sorted((name for name in names if MARK in name), key=lambda name: name[-SEQUENCE_DIGITS:])

    async def contenders(self) -> list[str]:
        """What each contender says of itself, the holder first."""
        found = []
        for name in await self._contenders():
            with contextlib.suppress(NoNode):
                value, _ = await self._cell.get(f"{self.path}/{name}")
                found.append(value.decode(errors="replace"))
        return found

    async def _withdraw(self) -> None:
        """Leave no contender behind, also when we were cancelled: it would hold up all others."""
        contender, self._contender, self._token = self._contender, None, 0
        prefix, self._prefix = self._prefix, ""
        if contender is None and not prefix:
            return
        await asyncio.shield(self._remove(contender, prefix))

    async def _remove(self, contender: str | None, prefix: str) -> None:
        while self._cell.session_id == self._session and self._cell.state not in ("expired", "closed"):
            try:
                if contender is None:
                    for name in await self._cell.children(self.path):
                        if name.startswith(prefix):
                            contender = f"{self.path}/{name}"
                if contender is not None:
                    await self._cell.delete(contender)
            except NoNode:
                return
            except OutcomeUnknown:
                await self._cell.wait_connected()
            except SynodError:
                return  # the session is over, and the contender with it
            else:
                return

    # -- keeping it ----------------------------------------------------------------------------------------

    def _watch_lease(self) -> None:
        """Look again when the lease would be over; it moves with every answered ping."""
        from synod.client import boot_clock

        left = (self._cell.lease_deadline - boot_clock()) / 1_000_000 - MARGIN_MS / 1_000
        if left <= 0:
            self._lose()
        else:
            self._guard = asyncio.get_running_loop().call_later(min(left, 1.0), self._watch_lease)

    def _state_changed(self, state: State) -> None:
        if state in ("expired", "closed"):
            self._lose()

    def _lose(self) -> None:
        """Somebody else may hold the lock soon: tell the body now."""
        if not self._held or self.lost.is_set():
            return
        self.lost.set()
        if self._body is not None and not self._body.done():
            self._cancelled_body = True
            self._body.cancel()

    async def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._guard is not None:
            self._guard.cancel()
            self._guard = None
        self._cell.remove_listener(self._state_changed)
        self._held = False
        if self._contender is not None:
            await self._withdraw()

    async def __aenter__(self) -> Self:
        if not await self.acquire(timeout=self.timeout):
            raise LockNotAcquired(f"the lock {self.path} was not got within {self.timeout:g} s; nothing is held")
        self._cancelled_body = False
        self._body = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        body, self._body = self._body, None
        await self.release()
        if self._cancelled_body and kind is asyncio.CancelledError and body is not None:
            body.uncancel()
            raise LockLost(
                f"the lease of the lock {self.path} could not be kept: its body was cancelled, and somebody else may "
                f"hold it now; what was done under it is fenced by its token"
            ) from value


class Election(Lock):
    """Leadership of a group: a lock whose holder leads. Entering waits without end."""

    async def leader(self) -> str | None:
        """What the present leader says of itself, or None."""
        names = await self.contenders()
        return names[0] if names else None
