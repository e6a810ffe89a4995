"""Recipes over a client: locks with fencing tokens, elections, following views, queues, and guards for resources.

May import client and base. Read `_contender` and `_lock` first: a place in a queue, and what holding means.
All of it is plain znodes and works against Apache ZooKeeper as well; Lock, RWLock, Barrier, DoubleBarrier,
Queue and Counter have kazoo's layout.
"""

from __future__ import annotations

from ._cache import Cache
from ._guards import SqliteGuard, StaleToken, TokenGuard
from ._lock import Election, Lock, ReadLock, RWLock, Semaphore, WriteLock

__all__ = [
    "Cache",
    "Election",
    "Lock",
    "RWLock",
    "ReadLock",
    "Semaphore",
    "SqliteGuard",
    "StaleToken",
    "TokenGuard",
    "WriteLock",
]
