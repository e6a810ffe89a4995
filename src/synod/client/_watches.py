"""Which watches this client has, and which of them an event uses up.

The server's watches fire once and belong to a connection: after a reconnect they are set again (`set_again`),
with the zxid up to which this client has seen everything, and the server fires at once what was missed.
Ref: Apache ZooKeeper 3.8, `ZKWatchManager.materialize`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from synod.wire import (
    EVENT_CHILDREN_CHANGED,
    EVENT_CREATED,
    EVENT_DATA_CHANGED,
    EVENT_DELETED,
    SetWatches,
    WatcherEvent,
)

Watcher = Callable[[WatcherEvent], None]
"""Is called once: with the change, or with EVENT_NONE and the state in which the session ended."""

DATA: Final = 0
EXIST: Final = 1
CHILD: Final = 2

_USED_UP: Final = {
    EVENT_CREATED: (DATA, EXIST),
    EVENT_DATA_CHANGED: (DATA, EXIST),
    EVENT_DELETED: (DATA, EXIST, CHILD),
    EVENT_CHILDREN_CHANGED: (CHILD,),
}

_FRAME_BYTES: Final = 128 * 1024
"""ZooKeeper's own client splits there, so that no frame of watches meets the server's limit."""


class Watches:
    """Watchers by kind and path.

    Invariant: a path that is a key has at least one watcher.
    """

    __slots__ = ("_tables",)

    def __init__(self) -> None:
        self._tables: tuple[dict[str, list[Watcher]], ...] = ({}, {}, {})

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables)

    def add(self, kind: int, path: str, watcher: Watcher) -> None:
        """The server has set it: the reply to the read has come."""
        watchers = self._tables[kind].setdefault(path, [])
        if watcher not in watchers:
            watchers.append(watcher)

    def remove(self, path: str, watcher: Watcher) -> None:
        """Forget a watcher; the server's watch stays, and its event finds nobody."""
        for table in self._tables:
            watchers = table.get(path)
            if watchers is not None and watcher in watchers:
                watchers.remove(watcher)
                if not watchers:
                    del table[path]

    def fire(self, event: WatcherEvent) -> list[Watcher]:
        """The watchers that an event is for; they are used up."""
        fired: list[Watcher] = []
        for kind in _USED_UP.get(event.type, ()):
            for watcher in self._tables[kind].pop(event.path, ()):
                if watcher not in fired:
                    fired.append(watcher)
        return fired

    def clear(self) -> list[tuple[str, Watcher]]:
        """Every watcher with its path; none is left."""
        everything = [(path, w) for table in self._tables for path, watchers in table.items() for w in watchers]
        for table in self._tables:
            table.clear()
        return everything

    def set_again(self, zxid: int) -> Iterator[SetWatches]:
        """The requests that set every watch on a new connection."""
        kinds: tuple[list[str], ...] = ([], [], [])
        size = 0
        for kind, table in enumerate(self._tables):
            for path in table:
                if size > _FRAME_BYTES:
                    yield SetWatches(zxid, *map(tuple, kinds))
                    kinds, size = ([], [], []), 0
                kinds[kind].append(path)
                size += 4 + 4 * len(path)  # a character takes at most four bytes
        if size:
            yield SetWatches(zxid, *map(tuple, kinds))
