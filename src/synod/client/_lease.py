"""What a session holds is safe until its lease ends: the one thing that locks and elections watch.

Read `Lease`. Ref: Burrows 2006 s2.8 (jeopardy, safe, expired).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from synod.base import SECOND, LockLost

from ._session import Changed, Lapsed

if TYPE_CHECKING:
    from ._cell import Cell


class Lease:
    """Tells whether what a session holds is still safe. Made by `Cell.lease`.

    `jeopardy` is set while the client does not hear from the cell; it may be cleared again. `lost` is set once,
    before the cell could give to others what the session held, and stays set.

    Args:
        cell: whose session.
        what: for the error's sentence, such as "the lock /jobs/1".
        session_id: of the session meant.
    """

    def __init__(self, cell: Cell, what: str, session_id: int) -> None:
        self.jeopardy = asyncio.Event()
        self.lost = asyncio.Event()
        self.session_id = session_id
        self.reason = ""
        self._what = what
        self._cell = cell
        self._callbacks: list[Callable[[], None]] = []
        self._watched = True

    def begin(self) -> None:
        """Look at the session as it is now."""
        if self._cell.session_id != self.session_id or self._cell.state in ("expired", "closed"):
            self.lose("the session is over")
        elif not self.left:
            self.lose("its session's lease had ended already")
        elif self._cell.state != "connected":
            self.jeopardy.set()

    @property
    def deadline(self) -> float:
        """When the lease ends if nothing more is heard from the cell: seconds on the cell object's clock."""
        return self._cell.lease_deadline / SECOND

    @property
    def left(self) -> float:
        """Seconds until the lease ends if nothing more is heard from the cell; 0 when it is lost."""
        if self.lost.is_set():
            return 0.0
        return max(0.0, (self._cell.lease_deadline - self._cell.now()) / SECOND)

    def check(self) -> None:
        """Do nothing while the lease is good.

        Raises:
            LockLost: it is over; somebody else may hold what it protected.
        """
        if self._watched and not self.left:
            self.lose("the cell was not heard from in time")
        if self.lost.is_set():
            raise self.error()

    def error(self) -> LockLost:
        """The error that says why the lease was lost."""
        return LockLost(
            f"{self._what} was lost: {self.reason}; what was being done under it may be done in part, and somebody else "
            "may hold it now: compare fencing tokens where it matters, and acquire it again"
        )

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call this when the lease is lost; at once if it is."""
        if self.lost.is_set():
            callback()
        else:
            self._callbacks.append(callback)

    def lose(self, reason: str) -> None:
        """The lease is over; nothing happens if it was let go."""
        if not self._watched:
            return
        self.reason = reason
        callbacks, self._callbacks = self._callbacks, []
        self.let_go()
        self.lost.set()
        for callback in callbacks:
            callback()

    def let_go(self) -> None:
        """Nothing depends on the lease any more."""
        self._watched = False
        self._callbacks.clear()
        self._cell.let_go(self)

    def heard(self, event: Changed | Lapsed) -> None:
        """The session has changed; told by the cell."""
        if isinstance(event, Lapsed):
            self.lose("its session's lease ended before the cell was heard from again")
        elif event.state == "suspended":
            self.jeopardy.set()
        elif event.state == "connected" and self._cell.session_id == self.session_id:
            self.jeopardy.clear()
        else:
            self.lose(event.reason)
