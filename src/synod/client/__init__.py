"""Clients of a cell, or of an Apache ZooKeeper ensemble.

`_session` is sans-IO and says what a session is; `_cell` is the asyncio client; `_blocking` the same for
threads. Knows wire and base only.
"""

from __future__ import annotations

from ._blocking import BlockingCell, BlockingLock
from ._cell import Cell, boot_clock, connect, is_session_event
from ._hosts import parse_hosts
from ._session import Call, ClientSession, State

__all__ = [
    "BlockingCell",
    "BlockingLock",
    "Call",
    "Cell",
    "ClientSession",
    "State",
    "boot_clock",
    "connect",
    "is_session_event",
    "parse_hosts",
]
