"""Watches: which connection of this replica wants to hear of which path.

Local to a replica and no part of the state. One table holds every kind: `path -> {connection: kinds}`, so
that a write asks one dict once whether anybody cares. A connection hears of one change at most once, however
many of its watches match.

Read `Watches.changed`, `created` and `deleted`; they are the whole table of what triggers what.
Ref: Hunt 2010 s2.2; ZooKeeper's Programmer's Guide, "Semantics of Watches".
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from synod.base import invariant
from synod.wire import (
    EVENT_CHILDREN_CHANGED,
    EVENT_CREATED,
    EVENT_DATA_CHANGED,
    EVENT_DELETED,
    PERM_READ,
    STATE_SYNC_CONNECTED,
    XID_NOTIFICATION,
)

from ._acl import Acl, Identity, permits
from ._limits import WATCH_BYTES_PER_CONNECTION_MAX, WATCHES_PER_CONNECTION_MAX

DATA: Final = 1
"""One-shot: the znode is created, deleted, or its value changes."""
CHILD: Final = 2
"""One-shot: a child comes or goes, or the znode itself is deleted."""
PERSISTENT: Final = 4
"""All of both, again and again."""
RECURSIVE: Final = 8
"""Creation, deletion and change of value of the znode and everything below it, again and again."""

ONE_SHOT: Final = DATA | CHILD

_EVENT: Final = struct.Struct(">iiqiiii")
_EVENT_BYTES: Final = 28


class Outputs(Protocol):
    """The part of the sink that events need."""

    def watcher(self, conn: int) -> list[bytes] | None:
        """The output of a connection, or None when it is gone."""
        ...


class Identities(Protocol):
    """Who a session is, to check that it may read what it would hear of."""

    def identities(self, session: int) -> list[Identity]:
        """What the session has proved; empty when it is over."""
        ...


class _Watcher:
    __slots__ = ("path_bytes", "paths", "session")

    def __init__(self, session: int) -> None:
        self.session = session
        self.path_bytes = 0
        self.paths: dict[bytes, None] = {}


class Watches:
    """The watches of all connections of one replica.

    Invariant: `table[path]` has `conn` exactly when the paths of that connection have `path`; no empty dict
    and no zero stands in the table.
    Invariant: `recursive` counts the recursive watches.
    """

    __slots__ = ("_watchers", "_who", "recursive", "table")

    def __init__(self, who: Identities) -> None:
        self._who = who
        self._watchers: dict[int, _Watcher] = {}
        self.table: dict[bytes, dict[int, int]] = {}
        self.recursive = 0

    def __len__(self) -> int:
        """How many (connection, path) pairs are watched."""
        return sum(len(watcher.paths) for watcher in self._watchers.values())

    def add(self, conn: int, session: int, path: bytes, kind: int) -> bool:
        """Register one watch. False when the connection has as many as it may."""
        here = self.table.get(path)
        kinds = 0 if here is None else here.get(conn, 0)
        if not kinds:
            watcher = self._watchers.get(conn)
            if watcher is None:
                watcher = _Watcher(session)
            path_bytes = watcher.path_bytes + len(path)
            if len(watcher.paths) >= WATCHES_PER_CONNECTION_MAX or path_bytes > WATCH_BYTES_PER_CONNECTION_MAX:
                return False
            self._watchers[conn] = watcher
            watcher.path_bytes = path_bytes
            watcher.paths[path] = None
        if kind & RECURSIVE and not kinds & RECURSIVE:
            self.recursive += 1
        if here is None:
            self.table[path] = {conn: kind}
        else:
            here[conn] = kinds | kind
        return True

    def has(self, conn: int, path: bytes, kinds: int) -> bool:
        """Whether the connection watches this path in one of these kinds."""
        here = self.table.get(path)
        return here is not None and bool(here.get(conn, 0) & kinds)

    def remove(self, conn: int, path: bytes, kinds: int) -> bool:
        """Take these kinds away. False when there was none of them."""
        here = self.table.get(path)
        had = 0 if here is None else here.get(conn, 0)
        if here is None or not had & kinds:
            return False
        if had & kinds & RECURSIVE:
            self.recursive -= 1
        left = had & ~kinds
        if left:
            here[conn] = left
            return True
        del here[conn]
        if not here:
            del self.table[path]
        watcher = self._watchers[conn]
        del watcher.paths[path]
        watcher.path_bytes -= len(path)
        if not watcher.paths:
            del self._watchers[conn]
        return True

    def forget(self, conn: int) -> None:
        """The connection is gone: so are its watches."""
        watcher = self._watchers.get(conn)
        if watcher is None:
            return
        for path in list(watcher.paths):
            self.remove(conn, path, DATA | CHILD | PERSISTENT | RECURSIVE)
        self._watchers.pop(conn, None)

    def check(self) -> None:
        """Assert the invariants; slow, for tests and the simulator.

        Raises:
            InvariantViolation: one does not hold.
        """
        pairs = [(conn, path) for path, here in self.table.items() for conn in here]
        known = [(conn, path) for conn, watcher in self._watchers.items() for path in watcher.paths]
        invariant(sorted(pairs) == sorted(known), "the table and the connections know the same watches")
        invariant(all(here and all(here.values()) for here in self.table.values()), "nothing empty is in the table")
        kinds = [kinds for here in self.table.values() for kinds in here.values()]
        invariant(self.recursive == sum(bool(k & RECURSIVE) for k in kinds), "recursive watches are counted")
        for watcher in self._watchers.values():
            invariant(bool(watcher.paths), "a connection without watches is not known")
            invariant(watcher.path_bytes == sum(map(len, watcher.paths)), "the bytes of paths are counted")

    # -- what triggers what ----------------------------------------------------------------------------

    def changed(self, path: bytes, acl: Acl, zxid: int, sink: Outputs) -> None:
        """The value of a znode changed."""
        self._notify(EVENT_DATA_CHANGED, path, DATA, PERSISTENT, acl, zxid, sink)

    def created(self, path: bytes, acl: Acl, parent: bytes, parent_acl: Acl, zxid: int, sink: Outputs) -> None:
        """A znode came."""
        self._notify(EVENT_CREATED, path, DATA, PERSISTENT, acl, zxid, sink)
        self._notify(EVENT_CHILDREN_CHANGED, parent, CHILD, PERSISTENT, parent_acl, zxid, sink)

    def deleted(self, path: bytes, acl: Acl, parent: bytes, parent_acl: Acl, zxid: int, sink: Outputs) -> None:
        """A znode went."""
        self._notify(EVENT_DELETED, path, DATA | CHILD, PERSISTENT, acl, zxid, sink)
        self._notify(EVENT_CHILDREN_CHANGED, parent, CHILD, PERSISTENT, parent_acl, zxid, sink)

    def _notify(self, event: int, path: bytes, one_shot: int, lasting: int, acl: Acl, zxid: int, sink: Outputs) -> None:
        """Tell each connection whose watches match, once, and use its one-shot watches up."""
        told: dict[int, int] = {}  # connection -> its session: the last watch of it may go here
        here = self.table.get(path)
        if here is not None:
            for conn, kinds in here.items():
                if kinds & (one_shot | lasting):
                    told[conn] = self._watchers[conn].session
            for conn in told:
                # One-shot watches are used up even when the event is withheld, as ZooKeeper does.
                self.remove(conn, path, one_shot)
        if self.recursive and event != EVENT_CHILDREN_CHANGED:
            self._add_recursive(path, told)
        if told:
            frame = event_frame(event, path, zxid)
            for conn, session in told.items():
                self._tell(conn, session, frame, acl, sink)

    def _add_recursive(self, path: bytes, told: dict[int, int]) -> None:
        """Add the connections that watch this path or one above it recursively."""
        table = self.table
        above = path
        while True:
            here = table.get(above)
            if here is not None:
                for conn, kinds in here.items():
                    if kinds & RECURSIVE:
                        told[conn] = self._watchers[conn].session
            if above == b"/":
                return
            above = above[: above.rfind(b"/")] or b"/"

    def _tell(self, conn: int, session: int, frame: bytes, acl: Acl, sink: Outputs) -> None:
        if not acl.world & PERM_READ and not permits(acl, PERM_READ, self._who.identities(session)):
            return
        out = sink.watcher(conn)
        if out is not None:
            out.append(frame)


def event_frame(event: int, path: bytes, zxid: int) -> bytes:
    """A whole notification frame, length included."""
    return (
        _EVENT.pack(_EVENT_BYTES + len(path), XID_NOTIFICATION, zxid, 0, event, STATE_SYNC_CONNECTED, len(path)) + path
    )
