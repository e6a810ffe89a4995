"""Recipes over a client: locks with fencing tokens, elections, a following view, and guards for resources.

May import client, wire and base. Read `_lock` first.
"""

from __future__ import annotations

from ._cache import Cache
from ._guards import SqliteGuard, StaleToken, TokenGuard
from ._lock import Election, Lock

__all__ = ["Cache", "Election", "Lock", "SqliteGuard", "StaleToken", "TokenGuard"]
