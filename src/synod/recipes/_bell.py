"""Waiting for one watch event, whatever becomes of the connection and the session meanwhile.

Read `wait_gone`: ask and arm in one step, wait, ask again. Nothing is missed, because the watch is set by the
very read that shows that there is something to wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from synod.base import OutcomeUnknown, SessionExpired
from synod.client import Unavailable, WatcherEvent

if TYPE_CHECKING:
    from synod.client import Cell


class Bell:
    """Rings once; a watcher for the client's reads."""

    __slots__ = ("_rung", "event")

    def __init__(self) -> None:
        self.event: WatcherEvent | None = None
        self._rung = asyncio.Event()

    def ring(self, event: WatcherEvent) -> None:
        """Something has changed, or the session is over."""
        if self.event is None:
            self.event = event
        self._rung.set()

    async def wait(self) -> None:
        """Wait until it rings."""
        await self._rung.wait()


@contextlib.contextmanager
def bell_at(cell: Cell, *paths: str) -> Iterator[Bell]:
    """A bell to be hung on reads of these paths; taken down at the end."""
    bell = Bell()
    try:
        yield bell
    finally:
        for path in paths:
            cell.unwatch(path, bell.ring)


async def wait_gone(cell: Cell, path: str) -> None:
    """Wait until there is no znode at `path`.

    Raises:
        Unavailable: the client was closed.
    """
    while True:
        with bell_at(cell, path) as bell:
            try:
                if await cell.exists(path, watch=bell.ring) is None:
                    return
                await bell.wait()
            except (OutcomeUnknown, Unavailable, SessionExpired):
                await cell.wait_connected()
