"""The client of a cell, which works against Apache ZooKeeper exactly as well.

Read `_session` first: the whole protocol of a session without I/O, with a lease that is safe to rely on. `_driver`
connects it to asyncio, `_cell` is the face; `_watch` follows a znode. Knows nothing of locks: those are recipes.
"""

from __future__ import annotations

from synod.wire import (
    ACL,
    CREATOR_ACL,
    EVENT_CHILDREN_CHANGED,
    EVENT_CREATED,
    EVENT_DATA_CHANGED,
    EVENT_DELETED,
    EVENT_NONE,
    OPEN_ACL,
    PERM_ADMIN,
    PERM_ALL,
    PERM_CREATE,
    PERM_DELETE,
    PERM_READ,
    PERM_WRITE,
    READ_ACL,
    Check,
    Create,
    Delete,
    Id,
    SetData,
    Stat,
    WatcherEvent,
    validate_path,
)

from ._blocking import BlockingCell, BlockingElection, BlockingLock
from ._cell import Cell, Listener, SessionInfo, connect
from ._clock import SystemClock, boot_clock
from ._errors import Unavailable
from ._hosts import PORT_DEFAULT, Address, Hosts, parse_hosts
from ._lease import Lease
from ._session import Answer, Changed, Event, Fired, Lapsed, Pending, Session, SessionOptions, State
from ._transaction import Transaction
from ._watch import Change
from ._watches import Watcher

__all__ = [
    "ACL",
    "CREATOR_ACL",
    "EVENT_CHILDREN_CHANGED",
    "EVENT_CREATED",
    "EVENT_DATA_CHANGED",
    "EVENT_DELETED",
    "EVENT_NONE",
    "OPEN_ACL",
    "PERM_ADMIN",
    "PERM_ALL",
    "PERM_CREATE",
    "PERM_DELETE",
    "PERM_READ",
    "PERM_WRITE",
    "PORT_DEFAULT",
    "READ_ACL",
    "Address",
    "Answer",
    "BlockingCell",
    "BlockingElection",
    "BlockingLock",
    "Cell",
    "Change",
    "Changed",
    "Check",
    "Create",
    "Delete",
    "Event",
    "Fired",
    "Hosts",
    "Id",
    "Lapsed",
    "Lease",
    "Listener",
    "Pending",
    "Session",
    "SessionInfo",
    "SessionOptions",
    "SetData",
    "Stat",
    "State",
    "SystemClock",
    "Transaction",
    "Unavailable",
    "Watcher",
    "WatcherEvent",
    "boot_clock",
    "connect",
    "parse_hosts",
    "validate_path",
]
