"""The cell of one replica that systems of this process share when they are given no other.

One for all of them: two systems of a process that lock the same key must exclude each other.
"""

from __future__ import annotations

import importlib
import threading
from typing import Any

_mutex = threading.Lock()
_cell: Any = None
_users = 0


def default_cell() -> str:
    """The address of the shared cell, which is started for the first user."""
    global _cell, _users
    with _mutex:
        if _cell is None:
            # By name: the service room knows that there is a `synod.local()`, and nothing of what it is made of.
            _cell = importlib.import_module("synod.embedded").local()
        _users += 1
        return str(_cell.hosts)


def release_default_cell() -> None:
    """One user less; the last one stops the cell."""
    global _cell, _users
    with _mutex:
        _users -= 1
        if _users == 0:
            cell, _cell = _cell, None
            cell.close()
