"""One place in a queue: an ephemeral sequential znode that is never left behind.

Locks, elections and semaphores are all of this kind: a contender joins the directory, waits until too few stand
before it, and holds until it leaves. The names are kazoo's (`<uuid>__lock__<number>`), so that clients of both
kinds queue together. The number decides the order, and, as it rises with every create in the directory, so does
the czxid, which is the fencing token.

Read `join`, then `_recover` (a reply that was lost) and `leave`.
Ref: kazoo `recipe/lock.py` (the prefix that finds a lost create, after Netflix Curator); Hunt 2010 s2.4.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Final

from synod.base import NoNode, NotApplied, NotEmpty, NotReadOnly, OutcomeUnknown, SessionExpired, SynodError
from synod.client import Create, Delete, Stat, Unavailable

if TYPE_CHECKING:
    from synod.client import Cell

_NUMBER: Final = re.compile(r"-?\d{10}$", re.ASCII)

NUMBER_RENEW: Final = 1 << 30
"""Half way to where the numbers would wrap: the next one to leave an empty directory replaces it."""

REMOVE_PAUSE_S: Final = 0.2
"""From one try in the background to the next: a cell that can only read for now refuses at once."""


def number_of(name: str) -> int:
    """The number at the end of a sequential znode's name; -1 when there is none."""
    found = _NUMBER.search(name)
    return -1 if found is None else int(found.group())


class Contender:
    """A place in the queue of `directory`.

    Args:
        cell: a started client.
        directory: made when it is missing.
        mark: what stands between the uuid and the number.
        data: what others may read about this contender.
    """

    def __init__(self, cell: Cell, directory: str, mark: str, data: bytes) -> None:
        self.directory = directory
        self.prefix = cell.draw_name() + mark
        self.name = ""
        self.czxid = 0
        self.session_id = 0
        self._cell = cell
        self._data = data
        self._sent = False

    @property
    def path(self) -> str:
        """Of its znode, once it has joined."""
        return f"{self.directory}/{self.name}"

    async def join(self) -> list[str]:
        """Create the znode, and return the names in the directory after that: one round trip for both.

        Raises:
            NotApplied: the cell refused; nothing is left.
            SessionExpired: the session ended meanwhile; nothing is left.
        """
        while True:
            self._sent = True
            created, listed = await asyncio.gather(
                self._cell.create_stat(f"{self.directory}/{self.prefix}", self._data, ephemeral=True, sequential=True),
                self._cell.children(self.directory),
                return_exceptions=True,
            )
            if isinstance(created, NoNode):
                await self._cell.ensure_path(self.directory)
                continue
            if isinstance(created, Unavailable):
                await self._cell.wait_connected()
                continue
            if isinstance(created, OutcomeUnknown):
                recovered = await self._recover()
                if recovered is None:
                    continue
                self._take(*recovered)
                return await self.list()
            if isinstance(created, BaseException):
                raise created
            self._take(*created)
            return listed if isinstance(listed, list) else await self.list()

    def _take(self, path: str, stat: Stat) -> None:
        self.name = path.rpartition("/")[2]
        self.czxid, self.session_id = stat.czxid, stat.ephemeral_owner

    async def list(self) -> list[str]:
        """The names in the directory; waits for the cell as long as it takes."""
        while True:
            try:
                return await self._cell.children(self.directory)
            except NoNode:
                return []
            except (OutcomeUnknown, Unavailable):
                await self._cell.wait_connected()

    async def _recover(self) -> tuple[str, Stat] | None:
        """What became of a create whose reply was lost: by the time of the sync it has happened, or never will."""
        while True:
            try:
                await self._cell.sync(self.directory)
                for name in await self._cell.children(self.directory):
                    if name.startswith(self.prefix):
                        path = f"{self.directory}/{name}"
                        stat = await self._cell.exists(path)
                        return None if stat is None else (path, stat)
            except NoNode:
                return None
            except (OutcomeUnknown, Unavailable):
                await self._cell.wait_connected()
            else:
                return None

    async def leave(self) -> None:
        """Delete the znode. Where the cell cannot be reached that goes on in the background, or the session ends it."""
        if not self._sent:
            return
        done = False
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._cell.timeout):
                    done = await self._remove()
        finally:
            if not done:
                self.leave_soon()

    def leave_soon(self) -> None:
        """As `leave`, without waiting."""
        if self._sent and self._cell.state != "closed":
            self._cell.run_in_background(self._keep_removing())

    async def _keep_removing(self) -> None:
        with contextlib.suppress(NotApplied):
            while not await self._remove():
                await self._cell.wait_connected()
                await asyncio.sleep(REMOVE_PAUSE_S)

    async def _remove(self) -> bool:
        """Try once. True when nothing of it is left."""
        try:
            if not self.name:
                recovered = await self._recover()
                if recovered is None:
                    return True
                self._take(*recovered)
            await self._cell.delete(self.path)
        except (NoNode, SessionExpired):
            pass
        except (OutcomeUnknown, Unavailable, NotReadOnly):
            return self._cell.state == "closed"
        except SynodError:
            return True  # refused for good, or the client is closed: the session's end will take it away
        self._sent = False
        if number_of(self.name) >= NUMBER_RENEW:
            await self._renew_directory()
        return True

    async def _renew_directory(self) -> None:
        """Replace an empty directory by a fresh one with the same data and ACL, so that its numbers begin again."""
        with contextlib.suppress(SynodError):
            data, stat = await self._cell.get(self.directory)
            acl, _ = await self._cell.get_acl(self.directory)
            with contextlib.suppress(NotEmpty):
                changes: list[Create | Delete] = [
                    Delete(self.directory, stat.version),
                    Create(self.directory, data, tuple(acl)),
                ]
                await self._cell.multi(changes)
