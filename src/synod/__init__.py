"""synod: consensus, fenced locks and balanced requests for Python services on several machines.

    import synod

    async with synod.connect("127.0.0.1:2181") as cell:
        async with cell.lock("/locks/report") as lock:
            print(lock.fencing_token)

The rooms are loaded when they are first used. Read docs/ARCHITECTURE.md for what is where.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from synod.base import (
        BadVersion,
        ConnectionLoss,
        LockLost,
        LockNotAcquired,
        NodeExists,
        NoNode,
        NotApplied,
        NotEmpty,
        OperationTimeout,
        OutcomeUnknown,
        SessionExpired,
        SynodError,
        UserError,
    )
    from synod.client import (
        BlockingCell,
        Cell,
        Change,
        Check,
        Create,
        Delete,
        SetData,
        Stat,
        Unavailable,
        connect,
    )
    from synod.embedded import LocalCell, local
    from synod.recipes import (
        Barrier,
        BlockingBarrier,
        BlockingCounter,
        BlockingDoubleBarrier,
        BlockingQueue,
        Cache,
        Counter,
        DoubleBarrier,
        Election,
        Lock,
        Queue,
        RWLock,
        Semaphore,
        SqliteGuard,
        StaleToken,
        TokenGuard,
    )
    from synod.service import (
        DistributedSystem,
        Request,
        Transport,
    )

_ROOMS = {
    "BadVersion": "base",
    "Barrier": "recipes",
    "BlockingBarrier": "recipes",
    "BlockingCell": "client",
    "BlockingCounter": "recipes",
    "BlockingDoubleBarrier": "recipes",
    "BlockingQueue": "recipes",
    "Cache": "recipes",
    "Cell": "client",
    "Change": "client",
    "Check": "client",
    "ConnectionLoss": "base",
    "Counter": "recipes",
    "Create": "client",
    "Delete": "client",
    "DistributedSystem": "service",
    "DoubleBarrier": "recipes",
    "Election": "recipes",
    "LocalCell": "embedded",
    "Lock": "recipes",
    "LockLost": "base",
    "LockNotAcquired": "base",
    "NoNode": "base",
    "NodeExists": "base",
    "NotApplied": "base",
    "NotEmpty": "base",
    "OperationTimeout": "base",
    "OutcomeUnknown": "base",
    "Queue": "recipes",
    "RWLock": "recipes",
    "Request": "service",
    "Semaphore": "recipes",
    "SessionExpired": "base",
    "SetData": "client",
    "SqliteGuard": "recipes",
    "StaleToken": "recipes",
    "Stat": "client",
    "SynodError": "base",
    "TokenGuard": "recipes",
    "Transport": "service",
    "Unavailable": "client",
    "UserError": "base",
    "connect": "client",
    "local": "embedded",
}

__all__ = [
    "BadVersion",
    "Barrier",
    "BlockingBarrier",
    "BlockingCell",
    "BlockingCounter",
    "BlockingDoubleBarrier",
    "BlockingQueue",
    "Cache",
    "Cell",
    "Change",
    "Check",
    "ConnectionLoss",
    "Counter",
    "Create",
    "Delete",
    "DistributedSystem",
    "DoubleBarrier",
    "Election",
    "LocalCell",
    "Lock",
    "LockLost",
    "LockNotAcquired",
    "NoNode",
    "NodeExists",
    "NotApplied",
    "NotEmpty",
    "OperationTimeout",
    "OutcomeUnknown",
    "Queue",
    "RWLock",
    "Request",
    "Semaphore",
    "SessionExpired",
    "SetData",
    "SqliteGuard",
    "StaleToken",
    "Stat",
    "SynodError",
    "TokenGuard",
    "Transport",
    "Unavailable",
    "UserError",
    "connect",
    "local",
]


def __getattr__(name: str) -> object:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module 'synod' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"synod.{room}"), name)
    globals()[name] = value
    return value
