"""A view of what lies below a znode that follows its changes: membership, configuration, discovery.

One task keeps the view: watches mark what has changed, the task reads only that again. Read `_follow`.
Differs: ZooKeeper's recursive watches would need one watch only, but they lose what happens during a reconnect;
one-shot watches set again with the last zxid seen do not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Final, Self

from synod.base import NoAuth, NoNode, NotApplied, OutcomeUnknown, SessionExpired, UserError
from synod.client import Stat, Unavailable, WatcherEvent, validate_path

if TYPE_CHECKING:
    from synod.client import Cell

_READS_AT_ONCE: Final = 200
"""Reads under way together: enough to hide the round trip, few enough to leave the connection to others."""

OnChange = Callable[[Mapping[str, bytes]], None]


class _Followed:
    """One znode of the view, with the two watchers that mark it."""

    __slots__ = ("cache", "data", "name", "names", "stat")

    def __init__(self, cache: Cache, name: str) -> None:
        self.cache = cache
        self.name = name
        self.data: bytes | None = None
        self.stat: Stat | None = None
        self.names: frozenset[str] = frozenset()

    def data_changed(self, _event: WatcherEvent) -> None:
        self.cache.mark(self.name, data=True)

    def names_changed(self, _event: WatcherEvent) -> None:
        self.cache.mark(self.name, data=False)


class Cache:
    """What lies below a znode, with its data, kept up to date.

    The view is some recent state, and after every change, reconnect or new session soon the latest; states in
    between may be skipped. While the cell cannot be reached the view stays, and `is_fresh` is False.

    Args:
        cell: a started client.
        path: whose children are followed; it need not exist yet.
        depth: how many levels; None is all of them. Keys are paths relative to `path`.
        on_change: is called on the event loop with the new view after every change, the first one included.
    """

    def __init__(self, cell: Cell, path: str, *, depth: int | None = 1, on_change: OnChange | None = None) -> None:
        validate_path(path)
        self._cell = cell
        self._path = path
        self._depth = depth
        self._on_change = on_change
        self._view: Mapping[str, bytes] = MappingProxyType({})
        self._known: dict[str, _Followed] = {"": _Followed(self, "")}
        self._data_marks: dict[str, None] = {}
        self._names_marks: dict[str, None] = {}
        self._marked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self._waiters: list[asyncio.Event] = []
        self._fresh = False

    @property
    def view(self) -> Mapping[str, bytes]:
        """Data by relative path, as last seen; never changes in place."""
        return self._view

    @property
    def is_fresh(self) -> bool:
        """Whether every change that this client was told of is in the view, and the cell is heard from."""
        return self._fresh and self._cell.state == "connected"

    def stat(self, name: str) -> Stat | None:
        """The stat of what `view[name]` shows; None when it is not there."""
        followed = self._known.get(name)
        return None if followed is None else followed.stat

    async def wait_until(self, condition: Callable[[Mapping[str, bytes]], bool]) -> Mapping[str, bytes]:
        """Wait for a view for which this is true, and return it."""
        while True:
            if self._first.is_set() and condition(self._view):
                return self._view
            changed = asyncio.Event()
            self._waiters.append(changed)
            await changed.wait()

    async def start(self) -> None:
        """Begin to follow; returns when the first view is there.

        Raises:
            NotApplied: the cell refused, or was closed meanwhile; nothing is followed.
        """
        if self._task is None:
            self.mark("", data=False)
            self._task = asyncio.get_running_loop().create_task(self._follow())
        first = asyncio.ensure_future(self._first.wait())
        try:
            await asyncio.wait({first, self._task}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop()  # nobody who was cancelled here will ever stop it
            raise
        finally:
            first.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Follow no more; the view stays as it is."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, NotApplied):
            await task
        for followed in self._known.values():
            self._unwatch(followed)

    async def __aenter__(self) -> Self:
        """Begin to follow."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Follow no more."""
        await self.stop()

    # -- following ------------------------------------------------------------------------------------

    def mark(self, name: str, *, data: bool) -> None:
        """A watch says that this znode's data, or the names below it, have changed; for the watchers."""
        if name in self._known:
            (self._data_marks if data else self._names_marks)[name] = None
            self._fresh = False
            self._marked.set()

    async def _follow(self) -> None:
        """Read what is marked until nothing is, show it, wait for the next mark."""
        while True:
            await self._marked.wait()
            self._marked.clear()
            try:
                while self._names_marks or self._data_marks:
                    await self._read_marked()
            except UserError:  # the cell was closed: whoever waits for the first view is told, the view stays
                if not self._first.is_set():
                    raise
                return
            except (OutcomeUnknown, Unavailable, SessionExpired):
                self._marked.set()
                if self._cell.state == "closed":
                    return
                with contextlib.suppress(Unavailable):
                    await self._cell.wait_connected()
            else:
                self._show()

    async def _read_marked(self) -> None:
        for read, marks in ((self._read_names, self._names_marks), (self._read_data, self._data_marks)):
            names = list(marks)[:_READS_AT_ONCE]
            for name in names:
                del marks[name]
            failures = await asyncio.gather(*map(read, names), return_exceptions=True)
            failure = next((f for f in failures if isinstance(f, BaseException)), None)
            for name, failed in zip(names, failures, strict=True):
                if failed is not None and name in self._known:
                    marks[name] = None
            if failure is not None:
                raise failure

    async def _read_names(self, name: str) -> None:
        followed = self._known.get(name)
        if followed is None:
            return
        path = self._absolute(name)
        try:
            names = await self._cell.children(path, watch=followed.names_changed)
        except (NoNode, NoAuth) as hidden:
            if not name and isinstance(hidden, NoAuth):
                raise
            self._forget_below(followed, followed.names)
            followed.names = frozenset()
            if not name and await self._cell.exists(path, watch=followed.names_changed) is not None:
                self.mark(name, data=False)  # it came between the two
            return
        present = frozenset(names)
        self._forget_below(followed, followed.names - present)
        followed.names = present
        for child in present:
            relative = f"{name}/{child}" if name else child
            known = self._known.get(relative)
            if known is None:
                self._known[relative] = _Followed(self, relative)
                if self._depth is None or relative.count("/") + 1 < self._depth:
                    self.mark(relative, data=False)
            if known is None or known.data is None:
                # New, or gone when it was read last and back by now: nothing else watches its data.
                self.mark(relative, data=True)

    async def _read_data(self, name: str) -> None:
        followed = self._known.get(name)
        if followed is None:
            return
        try:
            followed.data, followed.stat = await self._cell.get(self._absolute(name), watch=followed.data_changed)
        except (NoNode, NoAuth):
            # It went, and the watch on its parent's names will say so too; or it is not for us to see.
            followed.data = followed.stat = None

    def _forget_below(self, followed: _Followed, names: frozenset[str]) -> None:
        for child in names:
            relative = f"{followed.name}/{child}" if followed.name else child
            gone = self._known.pop(relative, None)
            if gone is not None:
                self._unwatch(gone)
                self._data_marks.pop(relative, None)
                self._names_marks.pop(relative, None)
                self._forget_below(gone, gone.names)

    def _unwatch(self, followed: _Followed) -> None:
        path = self._absolute(followed.name)
        self._cell.unwatch(path, followed.data_changed)
        self._cell.unwatch(path, followed.names_changed)

    def _absolute(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}" if name else self._path

    def _show(self) -> None:
        self._fresh = True
        view = {name: f.data for name, f in sorted(self._known.items()) if name and f.data is not None}
        if view == self._view and self._first.is_set():
            return
        self._view = MappingProxyType(view)
        self._first.set()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.set()
        if self._on_change is not None:
            self._on_change(self._view)
