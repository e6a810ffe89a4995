"""A view of a znode's children that follows their changes: membership, configuration, discovery."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from synod.base import NoNode, SynodError

if TYPE_CHECKING:
    from synod.client import Cell
    from synod.wire import WatcherEvent


class Cache:
    """The children of a znode with their values, kept up to date by watches.

    Eventual: it shows some recent state, and after every change, reconnect or new session the latest. While
    the cell cannot be reached it goes on showing what it knew.

    Args:
        cell: a started client.
        path: whose children; it need not exist yet.
        on_change: called with the new view after every change.
    """

    def __init__(
        self, cell: Cell, path: str, *, on_change: Callable[[Mapping[str, bytes]], None] | None = None
    ) -> None:
        self._cell = cell
        self._path = path
        self._on_change = on_change
        self._view: dict[str, bytes] = {}
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()

    @property
    def view(self) -> Mapping[str, bytes]:
        """Values by name, as last seen."""
        return self._view

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to follow; returns when the first view is there."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow())
        await self._first.wait()

    async def stop(self) -> None:
        """Follow no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _follow(self) -> None:
        while True:
            changed = asyncio.Event()

            def fire(_event: WatcherEvent, changed: asyncio.Event = changed) -> None:
                changed.set()

            try:
                view = await self._read(fire)
            except SynodError:
                # Whatever it was, the next look tells; a cell without a majority answers later.
                await asyncio.sleep(0.1)
                await self._cell.wait_connected()
                continue
            if view != self._view or not self._first.is_set():
                self._view = view
                self._first.set()
                if self._on_change is not None:
                    self._on_change(view)
            await changed.wait()

    async def _read(self, fire: Callable[[WatcherEvent], None]) -> dict[str, bytes]:
        try:
            names = await self._cell.children(self._path, watch=fire)
        except NoNode:
            if await self._cell.exists(self._path, watch=fire) is None:
                return {}
            names = await self._cell.children(self._path, watch=fire)
        view: dict[str, bytes] = {}
        for name in names:
            with contextlib.suppress(NoNode):
                value, _ = await self._cell.get(f"{self._path.rstrip('/')}/{name}", watch=fire)
                view[name] = value
        return view
