"""Recipes over a client: locks with fencing tokens, elections, following views, queues, and guards for resources.

May import client and base. Read `_contender` and `_lock` first: a place in a queue, and what holding means.
All of it is plain znodes and works against Apache ZooKeeper as well; Lock, RWLock, Barrier, DoubleBarrier,
Queue (its LockingQueue) and Counter have kazoo's layout.
"""

from __future__ import annotations

from ._barrier import Barrier, DoubleBarrier
from ._blocking import BlockingBarrier, BlockingCounter, BlockingDoubleBarrier, BlockingQueue, BlockingQueueItem
from ._cache import Cache
from ._counter import Counter
from ._guards import SqliteGuard, StaleToken, TokenGuard
from ._lock import Election, Lock, ReadLock, RWLock, Semaphore, WriteLock
from ._queue import Queue, QueueItem

__all__ = [
    "Barrier",
    "BlockingBarrier",
    "BlockingCounter",
    "BlockingDoubleBarrier",
    "BlockingQueue",
    "BlockingQueueItem",
    "Cache",
    "Counter",
    "DoubleBarrier",
    "Election",
    "Lock",
    "Queue",
    "QueueItem",
    "RWLock",
    "ReadLock",
    "Semaphore",
    "SqliteGuard",
    "StaleToken",
    "TokenGuard",
    "WriteLock",
]
