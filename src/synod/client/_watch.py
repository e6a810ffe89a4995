"""Following one znode over any number of one-shot watches, connections and sessions.

A watch of the protocol says only that something has changed, once. `watch` reads and arms in one step, waits,
and reads again, so that the last state is never missed; from the counters in the stat it knows whether states
in between were.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from synod.base import NoNode, SessionExpired, UserError
from synod.wire import (
    EVENT_CREATED,
    EVENT_DELETED,
    EVENT_NONE,
    STATE_CLOSED,
    Exists,
    GetChildren,
    GetData,
    Stat,
    WatcherEvent,
    take_children_stat,
    take_data,
    take_stat,
)

from ._errors import Unavailable
from ._watches import CHILD

if TYPE_CHECKING:
    from ._cell import Cell


class Change(NamedTuple):
    """A znode as it was read.

    Args:
        path: of the znode.
        data: its content; None when it is not there, or when its children are followed.
        stat: None when it is not there.
        children: the names below it, sorted, when they are followed.
        gap: at least one state between the one before and this one was not seen.
    """

    path: str
    data: bytes | None
    stat: Stat | None
    children: tuple[str, ...] | None = None
    gap: bool = False


async def watch(cell: Cell, path: str, *, children: bool) -> AsyncIterator[Change]:
    """See `Cell.watch`."""
    last: Change | None = None
    cause: WatcherEvent | None = None
    while True:
        bell = _Bell()
        try:
            present = await _read(cell, path, bell, children=children)
            if last is None:
                yield present
            elif _differs(last, present, cause):
                yield present._replace(gap=_has_gap(last, present, cause))
            last = present
            cause = await bell.rung()
        except SessionExpired:
            cause = WatcherEvent(EVENT_NONE, 0, path)
            continue
        except (UserError, Unavailable):
            return  # the cell was closed
        finally:
            cell.unwatch(path, bell.ring)
        if cause.type == EVENT_NONE and cause.state == STATE_CLOSED:
            return


class _Bell:
    """Rings once."""

    __slots__ = ("_event", "_heard")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._heard: WatcherEvent | None = None

    def ring(self, event: WatcherEvent) -> None:
        if self._heard is None:
            self._heard = event
            self._event.set()

    async def rung(self) -> WatcherEvent:
        await self._event.wait()
        assert self._heard is not None
        return self._heard


async def _read(cell: Cell, path: str, bell: _Bell, *, children: bool) -> Change:
    """The present state, with a watch set by the very same step."""
    while True:
        try:
            if children:
                names, stat = await cell.submit(
                    GetChildren(path, watch=True, with_stat=True), path, take_children_stat,
                    forever=True, watcher=bell.ring, kind=CHILD, repeatable=True,
                )  # fmt: skip
                return Change(path, None, stat, tuple(sorted(names)))
            data, stat = await cell.submit(
                GetData(path, watch=True), path, take_data, forever=True, watcher=bell.ring, repeatable=True
            )
            return Change(path, data, stat)
        except NoNode:
            pass
        try:
            await cell.submit(
                Exists(path, watch=True), path, take_stat, forever=True, watcher=bell.ring, repeatable=True
            )
        except NoNode:
            return Change(path, None, None)
        cell.unwatch(path, bell.ring)  # it was created just now: read again


def _differs(last: Change, present: Change, cause: WatcherEvent | None) -> bool:
    if last.stat is None or present.stat is None:
        return last.stat is not present.stat or cause is not None
    return last.stat.czxid != present.stat.czxid or _count(last) != _count(present)


def _has_gap(last: Change, present: Change, cause: WatcherEvent | None) -> bool:
    """Whether a state between the two was not seen."""
    kind = EVENT_NONE if cause is None else cause.type
    if last.stat is None:
        return present.stat is None or kind != EVENT_CREATED or _count(present) != 0
    if present.stat is None:
        return kind != EVENT_DELETED
    return last.stat.czxid != present.stat.czxid or _count(present) != _count(last) + 1


def _count(change: Change) -> int:
    """The counter of what is followed: of sets, or of creates and deletes below."""
    assert change.stat is not None
    return change.stat.version if change.children is None else change.stat.cversion
