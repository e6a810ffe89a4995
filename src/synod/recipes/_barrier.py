"""Barriers: wait until the way is free, or until all have come and all have left. kazoo's clients may take part.

Read `Barrier.wait`, then `DoubleBarrier.enter` (what a round is) and `leave`.
Ref: Hunt 2010 s2.4 (double barrier); kazoo `recipe/barrier.py`.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from synod.base import BadVersion, LocalProtocolError, NodeExists, NoNode, OutcomeUnknown, SessionExpired
from synod.client import EVENT_CREATED, Unavailable, validate_path

from ._bell import bell_at, wait_gone
from ._contender import Contender

if TYPE_CHECKING:
    from synod.client import Cell

READY: Final = "ready"
"""The znode that lets a round in; kazoo's name for it."""


class Barrier:
    """Whoever comes waits while the barrier's znode is there.

    Args:
        cell: a started client.
        path: the barrier's znode; kazoo's `Barrier` uses the same.
    """

    def __init__(self, cell: Cell, path: str) -> None:
        validate_path(path)
        self.path = path
        self._cell = cell

    async def create(self) -> bool:
        """Put the barrier up, and all that is missing above it.

        Returns:
            False when it was up already.

        Raises:
            OutcomeUnknown: it may be up; to ask again does no harm.
        """
        try:
            await self._cell.create(self.path, makepath=True)
        except NodeExists:
            return False
        return True

    async def remove(self) -> bool:
        """Take the barrier away: everybody who waits goes on.

        Returns:
            False when there was none.

        Raises:
            OutcomeUnknown: it may be away; to ask again does no harm.
        """
        try:
            await self._cell.delete(self.path)
        except NoNode:
            return False
        return True

    async def wait(self, *, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Wait until there is no barrier, however often the connection or the session changes meanwhile.

        Args:
            timeout: seconds; None is without end.

        Returns:
            False when it was still up at the end of that time.
        """
        try:
            async with asyncio.timeout(timeout):
                await wait_gone(self._cell, self.path)
        except TimeoutError:
            return False
        return True


class DoubleBarrier:
    """Members begin together and end together: `async with DoubleBarrier(cell, path, 3):`.

    A *round* begins when `members` of them have come: the last one to come writes their names into the znode
    `ready`, and whoever finds itself named there is in. A round is over when all of them have left or died.
    The same members may go on with the next round at once.

    Differs: in kazoo's, and in the ZooKeeper recipe, `ready` is empty and the first to leave deletes it. Then a
    member whose connection was down just then never learns that it was let in, and waits for others that wait
    for it; and what a crash leaves of `ready` lets the next round in too early. With names in it, it cannot be
    mistaken for another round's, so it stays until the round is over. kazoo's members are let in and left with
    as they are used to.

    Args:
        cell: a started client.
        path: the barrier's directory; made when it is missing.
        members: how many take part: no more than these may use the path at a time.
        identifier: what others can read about this member.
    """

    def __init__(self, cell: Cell, path: str, members: int, *, identifier: str = "") -> None:
        if members < 1:
            raise ValueError(f"a barrier has at least one member, not {members}")
        validate_path(path)
        self.path = path
        self.members = members
        self._cell = cell
        self._data = identifier.encode()
        self._contender: Contender | None = None
        self._round: frozenset[str] | None = None
        self._inside = False

    @property
    def inside(self) -> bool:
        """Whether this member has entered and not left."""
        return self._inside

    async def enter(self, *, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Wait until all members have come.

        Args:
            timeout: seconds; None is without end.

        Returns:
            False when they had not in that time: then nothing of this member is left behind.

        Raises:
            SessionExpired: this member's session ended while it waited; it is not inside: enter again.
            LocalProtocolError: this object has entered already.
        """
        if self._contender is not None:
            raise LocalProtocolError(f"this member of the double barrier {self.path} has entered already: leave first")
        contender = self._contender = Contender(self._cell, self.path, "__member__", self._data)
        try:
            async with asyncio.timeout(timeout):
                await contender.join()
                self._round = await self._wait_let_in(contender)
        except TimeoutError:
            self._contender = None
            await contender.leave()
            return False
        except BaseException:
            self._contender = None
            contender.leave_soon()
            raise
        self._inside = True
        return True

    async def _wait_let_in(self, me: Contender) -> frozenset[str] | None:
        """Wait for a `ready` that names this member. Returns its round; None when a client of kazoo let it in."""
        ready = f"{self.path}/{READY}"
        while True:
            with bell_at(self._cell, ready) as bell:
                try:
                    # The watch first: whoever comes after the list was read will find this member in its own.
                    stat = await self._cell.exists(ready, watch=bell.ring)
                    names = frozenset(await me.list())
                    if me.name not in names:
                        raise SessionExpired(
                            f"the session of this member of the double barrier {self.path} is over, or somebody deleted "
                            "the member; it is not inside: enter again"
                        )
                    earlier: frozenset[str] = frozenset()
                    version = -1
                    if stat is not None:
                        written, stat = await self._cell.get(ready)
                        earlier, version = _names(written), stat.version
                        if not earlier:
                            return None
                        if me.name in earlier:
                            return earlier
                    present = names - earlier - {READY}
                    if len(present) >= self.members:
                        await self._let_in(ready, present, version)
                        return present
                    await bell.wait()
                except (NoNode, NodeExists, BadVersion):
                    continue  # somebody was faster: look again
                except (OutcomeUnknown, Unavailable):
                    await self._cell.wait_connected()
                    continue
                if bell.event is not None and bell.event.type == EVENT_CREATED and await self._is_gone(ready):
                    return None  # kazoo's members delete it as soon as the first of them leaves

    async def _let_in(self, ready: str, names: frozenset[str], version: int) -> None:
        data = "\n".join(sorted(names)).encode()
        if version < 0:
            await self._cell.create(ready, data)
        else:
            await self._cell.set(ready, data, version=version)

    async def _is_gone(self, path: str) -> bool:
        while True:
            try:
                return await self._cell.exists(path) is None
            except (OutcomeUnknown, Unavailable):
                await self._cell.wait_connected()

    async def leave(self, *, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Leave, and wait until all the others of this round have left as well, or died.

        Args:
            timeout: seconds to wait for the others; None is without end.

        Returns:
            False when some had not left in that time; this member has.

        Raises:
            LocalProtocolError: this member has not entered.
        """
        contender, self._contender = self._contender, None
        if contender is None or not self._inside:
            self._contender = contender
            raise LocalProtocolError(f"this member of the double barrier {self.path} has not entered: enter first")
        self._inside = False
        try:
            # Before it leaves: while this member is there, nobody of its round can have come back for the next.
            others = self._round if self._round is not None else await self._end_kazoos_round(contender)
            await contender.leave()
        except BaseException:
            contender.leave_soon()
            raise
        try:
            async with asyncio.timeout(timeout):
                while still := (others - {contender.name, READY}).intersection(await contender.list()):
                    await wait_gone(self._cell, f"{self.path}/{max(still)}")
                await self._delete_ready(contender.name)
        except TimeoutError:
            return False
        return True

    async def _end_kazoos_round(self, me: Contender) -> frozenset[str]:
        """Do as kazoo's members do, whom this round is shared with; returns who is in it."""
        await self._delete_ready("")
        return frozenset(await me.list())

    async def _delete_ready(self, name: str) -> None:
        """Delete the `ready` that lets in whoever has this name, or, without a name, anybody; no other one."""
        ready = f"{self.path}/{READY}"
        while True:
            try:
                written, stat = await self._cell.get(ready)
                if (not written and not name) or name in _names(written):
                    await self._cell.delete(ready, version=stat.version)
            except (NoNode, BadVersion):
                return
            except (OutcomeUnknown, Unavailable, SessionExpired):
                await self._cell.wait_connected()
            else:
                return

    async def __aenter__(self) -> Self:
        """Wait until all have come."""
        await self.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave, and wait until all have; after an error leave without waiting."""
        if kind is None:
            await self.leave()
        else:
            await self.leave(timeout=0)


def _names(written: bytes) -> frozenset[str]:
    """Of the round that a `ready` lets in; none in kazoo's."""
    return frozenset(written.decode(errors="replace").split())
