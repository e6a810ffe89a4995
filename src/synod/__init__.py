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
        OutcomeUnknown,
        SessionExpired,
        SynodError,
        UserError,
    )
    from synod.client import BlockingCell, Cell, connect
    from synod.local import LocalCell, local
    from synod.recipes import Cache, Election, Lock, SqliteGuard, StaleToken, TokenGuard

_ROOMS = {
    "BadVersion": "base",
    "BlockingCell": "client",
    "Cache": "recipes",
    "Cell": "client",
    "ConnectionLoss": "base",
    "Election": "recipes",
    "LocalCell": "local",
    "Lock": "recipes",
    "LockLost": "base",
    "LockNotAcquired": "base",
    "NoNode": "base",
    "NodeExists": "base",
    "NotApplied": "base",
    "OutcomeUnknown": "base",
    "SessionExpired": "base",
    "SqliteGuard": "recipes",
    "StaleToken": "recipes",
    "SynodError": "base",
    "TokenGuard": "recipes",
    "UserError": "base",
    "connect": "client",
    "local": "local",
}

__all__ = [
    "BadVersion",
    "BlockingCell",
    "Cache",
    "Cell",
    "ConnectionLoss",
    "Election",
    "LocalCell",
    "Lock",
    "LockLost",
    "LockNotAcquired",
    "NoNode",
    "NodeExists",
    "NotApplied",
    "OutcomeUnknown",
    "SessionExpired",
    "SqliteGuard",
    "StaleToken",
    "SynodError",
    "TokenGuard",
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
