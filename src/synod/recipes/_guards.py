"""Resources that check fencing tokens: without that, no lock protects anything.

Ref: Burrows 2006 s2.4: a server checks that the sequencer is the most recent it has seen.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from synod.base import NotApplied

TABLE: Final = "synod_fences"


class StaleToken(NotApplied):
    """The write came under a lock that somebody else has got since: it was refused."""


class TokenGuard:
    """The rule itself, in memory: per resource, no token below the highest seen."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def check(self, resource: str, token: int) -> None:
        """Take a token, or refuse it.

        Raises:
            StaleToken: a higher one was seen; nothing was changed.
        """
        if token < self._highest.get(resource, 0):
            raise StaleToken(
                f"token {token} for {resource} is stale: {self._highest[resource]} was seen; nothing was written"
            )
        self._highest[resource] = token


class SqliteGuard:
    """The rule in a SQLite database, checked in the transaction of the write itself.

    Args:
        connection: the table is made when it is missing.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {TABLE} (resource TEXT PRIMARY KEY, token INTEGER NOT NULL) WITHOUT ROWID"
        )

    def check(self, resource: str, token: int) -> None:
        """Take a token, or refuse it; call inside the transaction that writes.

        Raises:
            StaleToken: a higher one was seen; roll back.
        """
        taken = self._connection.execute(
            f"INSERT INTO {TABLE} (resource, token) VALUES (?, ?) "  # noqa: S608 -- a constant
            f"ON CONFLICT (resource) DO UPDATE SET token = excluded.token WHERE excluded.token >= token",
            (resource, token),
        )
        if taken.rowcount != 1:
            raise StaleToken(f"token {token} for {resource} is stale: a higher one was seen; nothing was written")
