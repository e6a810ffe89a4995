"""A queue whose items are claimed, worked on, and only then removed: each is delivered at least once.

An item is a persistent sequential znode below `entries`; who works on it holds an ephemeral znode of the same name
below `taken`. If that client dies its claim goes with its session, and the item is delivered to another one. So an
item may be worked on twice, one after the other; the claim's *fencing token* (its czxid) is higher the second time.

Read `Queue.take`, `_claim`, then `QueueItem.consume`.
Ref: kazoo `recipe/queue.py` (LockingQueue, whose layout this is); ZooKeeper's recipes, "Queues" and "Priority Queues".
Differs: kazoo removes an item if the claim's znode holds its client's id; here a claim is removed only by requests
that run in the session that made it, so that a client that outlived its session cannot remove another one's claim.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from synod.base import (
    BadArguments,
    LocalProtocolError,
    NodeExists,
    NoNode,
    NotApplied,
    NotReadOnly,
    OperationTimeout,
    OutcomeUnknown,
    SessionExpired,
)
from synod.client import Delete, Stat, Unavailable, validate_path

from ._bell import bell_at
from ._contender import REMOVE_PAUSE_S

if TYPE_CHECKING:
    from synod.client import Cell, Lease

PRIORITY_DEFAULT: Final = 100
PRIORITY_MAX: Final = 999
"""Three digits, so that the order of the names is that of the numbers; kazoo's."""


class Queue:
    """A queue that many may fill and many may work off.

        async for item in Queue(cell, "/jobs"):
            async with item:            # consumed at the end; back in the queue when the body raises
                work(item.data)

    Items come by priority, then in the order of the puts; those that somebody works on are passed over. Every
    `take` lists what is in the queue, so it is meant for some thousands of items, not millions.

    Args:
        cell: a started client.
        path: the queue's directory; made when it is missing.
    """

    def __init__(self, cell: Cell, path: str) -> None:
        validate_path(path)
        self.path = path
        self._cell = cell
        self._entries = f"{path.rstrip('/')}/entries"
        self._taken = f"{path.rstrip('/')}/taken"

    # -- filling it -----------------------------------------------------------------------------------

    async def put(self, data: bytes, *, priority: int = PRIORITY_DEFAULT) -> str:
        """Add an item.

        Args:
            data: for whoever takes it.
            priority: 0 to 999; lower ones come first.

        Returns:
            The item's name.

        Raises:
            OutcomeUnknown: it may be in the queue; if it is put again it may be there twice.
        """
        entry = self._entry(priority)
        while True:
            try:
                path = await self._cell.create(entry, data, sequential=True)
            except NoNode:
                await self._make_directories()
            else:
                return path.rpartition("/")[2]

    async def put_all(self, items: Sequence[bytes], *, priority: int = PRIORITY_DEFAULT) -> list[str]:
        """Add several items, all or none; their order is kept, and nobody else's come between them.

        Raises:
            OutcomeUnknown: all of them may be in the queue, or none.
        """
        entry = self._entry(priority)
        while True:
            transaction = self._cell.transaction()
            for data in items:
                transaction.create(entry, data, sequential=True)
            try:
                results = await transaction.commit()
            except NoNode:
                await self._make_directories()
            else:
                return [str(path).rpartition("/")[2] for path in results]

    def _entry(self, priority: int) -> str:
        if not 0 <= priority <= PRIORITY_MAX:
            raise BadArguments(f"queue {self.path}: a priority is 0 to {PRIORITY_MAX}, not {priority}; nothing was put")
        return f"{self._entries}/entry-{priority:03d}-"

    async def _make_directories(self) -> None:
        for path in (self._entries, self._taken):
            await self._cell.ensure_path(path)

    async def size(self) -> int:
        """How many items there are, those that somebody works on included."""
        stat = await self._cell.exists(self._entries)
        return 0 if stat is None else stat.children_count

    # -- working it off -------------------------------------------------------------------------------

    async def take(self, *, timeout: float | None = None) -> QueueItem | None:  # noqa: ASYNC109
        """Claim the next item that nobody works on; wait for one if there is none.

        A lost connection or session costs nothing but time here: a claim whose reply was lost is given back.

        Args:
            timeout: seconds; None is without end.

        Returns:
            None when there was none in that time: then nothing is claimed.
        """
        claims = _Claims(self._cell)
        try:
            async with asyncio.timeout(timeout):
                return await self._take(claims)
        except TimeoutError:
            return None
        finally:
            claims.settle()

    async def _take(self, claims: _Claims) -> QueueItem:
        while True:
            with bell_at(self._cell, self._entries, self._taken) as bell:
                try:
                    entries, taken = await asyncio.gather(
                        self._cell.children(self._entries, watch=bell.ring),
                        self._cell.children(self._taken, watch=bell.ring),
                    )
                    for name in sorted(set(entries).difference(taken)):
                        item = await self._claim(name, claims)
                        if item is not None:
                            return item
                    await bell.wait()
                except NoNode:
                    await self._make_directories()
                except (OutcomeUnknown, Unavailable, SessionExpired):
                    await self._cell.wait_connected()
                    await claims.wait_settled()

    async def _claim(self, name: str, claims: _Claims) -> QueueItem | None:
        """Claim this item; None when somebody was faster."""
        path = f"{self._taken}/{name}"
        claim = claims.begin(path)
        created, read = await asyncio.gather(
            self._cell.create_stat(path, claim.mark, ephemeral=True),
            self._cell.get(f"{self._entries}/{name}"),
            return_exceptions=True,
        )
        if isinstance(created, NotApplied):
            claims.forget(claim)
            if isinstance(created, NodeExists):
                return None
        if isinstance(created, BaseException):
            raise created
        if isinstance(read, NoNode):
            await claims.wait_settled()  # it was consumed between the list and the claim
            return None
        if isinstance(read, BaseException):
            raise read
        claims.forget(claim)
        return QueueItem(self._cell, self, name, read[0], claim, created[1])

    def __aiter__(self) -> Self:
        """One item after the other, for ever."""
        return self

    async def __anext__(self) -> QueueItem:
        """Claim the next item."""
        item = await self.take()
        assert item is not None
        return item

    def entry_path(self, name: str) -> str:
        """Of an item's znode."""
        return f"{self._entries}/{name}"


class _Claim:
    """A znode below `taken` that this client has made, or may have made."""

    __slots__ = ("mark", "path")

    def __init__(self, path: str, mark: str) -> None:
        self.path = path
        self.mark = mark.encode()


class _Claims:
    """The claims of one `take` that came to nothing: none of them stays.

    Args:
        cell: where they are.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._open: list[_Claim] = []

    def begin(self, path: str) -> _Claim:
        """From now on this may exist."""
        claim = _Claim(path, self._cell.draw_name())
        self._open.append(claim)
        return claim

    def forget(self, claim: _Claim) -> None:
        """It does not exist, or somebody else looks after it."""
        self._open.remove(claim)

    async def wait_settled(self) -> None:
        """Delete what is there of them; waits for the cell as long as it takes."""
        while self._open:
            await _give_back(self._cell, self._open[-1])
            self._open.pop()

    def settle(self) -> None:
        """As `wait_settled`, in the background."""
        if self._open and self._cell.state != "closed":
            self._cell.run_in_background(self._settle())

    async def _settle(self) -> None:
        with contextlib.suppress(NotApplied):  # the client was closed: the session's end takes it away
            await self.wait_settled()


async def _give_back(cell: Cell, claim: _Claim) -> None:
    """Delete a claim, if it is there and this very one."""
    while True:
        try:
            await cell.sync(claim.path)
            mark, stat = await cell.get(claim.path)
            if mark != claim.mark or stat.ephemeral_owner != cell.session_id:
                return
            # No await since the session was looked at: the delete runs in it or is refused. In the next session it
            # could hit the claim of whoever got the item after us.
            await cell.delete(claim.path)
        except (NoNode, SessionExpired):
            return
        except (OutcomeUnknown, Unavailable):
            await cell.wait_connected()
        except NotReadOnly:
            await asyncio.sleep(REMOVE_PAUSE_S)
        else:
            return


class QueueItem:
    """An item that this client works on; nobody else does while `is_valid`. Made by `Queue.take`.

    As `async with` it is consumed at the end, and given back when the body raises.
    """

    def __init__(self, cell: Cell, queue: Queue, name: str, data: bytes, claim: _Claim, stat: Stat) -> None:
        self.name = name
        self.data = data
        self.fencing_token = stat.czxid
        self._cell = cell
        self._entry = queue.entry_path(name)
        self._claim = claim
        self._session_id = stat.ephemeral_owner
        self._over = False
        self._lease: Lease = cell.lease(f"the item {name} of the queue {queue.path}", session_id=self._session_id)

    @property
    def is_valid(self) -> bool:
        """Whether nobody else can work on the item at this very moment."""
        return not self._over and self._lease.left > 0

    @property
    def lost(self) -> asyncio.Event:
        """Set when the claim was lost, before the item could be somebody else's."""
        return self._lease.lost

    def check(self) -> None:
        """Do nothing while the item is this client's.

        Raises:
            LockLost: it is not; somebody else may work on it.
            LocalProtocolError: it was consumed or given back.
        """
        if self._over:
            raise LocalProtocolError(f"the item {self.name} was consumed or given back already")
        self._lease.check()

    async def consume(self) -> None:
        """Remove the item from the queue: the work is done.

        Raises:
            SessionExpired: the session ended before: the item was not removed, and is delivered again.
            NoNode: somebody took the claim away: the item was not removed by this.
            OperationTimeout: the cell could not be reached in time; the item is removed when it can be before the
                session ends, else it is delivered again.
            LocalProtocolError: it was consumed or given back already.
        """
        await self._end(self._consume)

    async def _consume(self) -> None:
        asked = False
        while True:
            if self._session_id != self._cell.session_id:
                if asked and await self._entry_is_gone():
                    return
                raise SessionExpired(
                    f"the session that claimed the item {self.name} is over; it was not removed and is delivered again"
                )
            asked = True
            try:
                # No await since the session was looked at: it runs in the claim's session or is refused.
                await self._cell.multi([Delete(self._claim.path), Delete(self._entry)])
            except NoNode:
                if await self._entry_is_gone():
                    return
                raise
            except (OutcomeUnknown, Unavailable, SessionExpired):
                await self._cell.wait_connected()
            else:
                return

    async def _entry_is_gone(self) -> bool:
        while True:
            try:
                await self._cell.sync(self._entry)
                return await self._cell.exists(self._entry) is None
            except (OutcomeUnknown, Unavailable, SessionExpired):
                await self._cell.wait_connected()

    async def release(self) -> None:
        """Give the item back: it is delivered again, to this client or another one.

        Raises:
            LocalProtocolError: it was consumed or given back already.
        """
        await self._end(self._give_back)

    async def _give_back(self) -> None:
        await _give_back(self._cell, self._claim)

    async def _end(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this last thing, for as long as it takes; the caller waits for a limited time, or is cancelled."""
        if self._over:
            raise LocalProtocolError(f"the item {self.name} was consumed or given back already")
        self._over = True
        self._lease.let_go()
        task = self._cell.run_in_background(work())
        task.add_done_callback(_was_heard)
        done, _ = await asyncio.wait({task}, timeout=self._cell.timeout)
        if not done or task.cancelled():
            raise OperationTimeout(
                f"the item {self.name}: the cell did not answer in time; what was asked may or may not have happened, or "
                "still happen: expect the item to be delivered again"
            )
        task.result()

    async def __aenter__(self) -> Self:
        """Work on it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Consume it, or give it back when the body raised; nothing when the body has done so itself."""
        if self._over:
            return
        if kind is None:
            await self.consume()
        else:
            await self.release()


def _was_heard(task: asyncio.Task[None]) -> None:
    """Its failure is known to whoever waited, and to nobody else: the caller was told that the outcome is open."""
    if not task.cancelled():
        task.exception()
