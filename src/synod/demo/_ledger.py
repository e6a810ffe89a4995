"""The one store that all instances share: items, the ids of applied requests, and the highest token of each key.

A write checks the duplicate and the fencing token in the very transaction that changes the item. Nothing is
remembered in the process.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from synod.recipes import SqliteGuard

from ._stream import Op

BUSY_MS: Final = 10_000  # as long as one waits for a lock; a transaction here takes well below a millisecond

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS items (sku TEXT PRIMARY KEY, stock INTEGER NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL, sku TEXT NOT NULL, op TEXT NOT NULL, quantity INTEGER NOT NULL,
    accepted INTEGER NOT NULL, stock INTEGER NOT NULL, version INTEGER NOT NULL, token INTEGER NOT NULL,
    instance TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS ledger_id ON ledger (id);
"""


class IdTaken(ValueError):
    """The id of this write belongs to another one that was applied; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a write did, as it is answered now and at every repeat.

    Args:
        accepted: a reservation beyond the stock is refused, and that, too, is final.
        stock: of the item after the write.
        version: of the item: how many writes it has seen.
        token: under which it was applied.
        replayed: it had been applied before.
    """

    accepted: bool
    stock: int
    version: int
    token: int
    replayed: bool


class Ledger:
    """The store, opened by one instance.

    Args:
        path: of the SQLite file.
        instance: written beside each write.
        guard: check the fencing token; off only to show that the audit notices.
        duplicate_check: look the id up; off only to show that the audit notices.
    """

    def __init__(self, path: Path, instance: str, *, guard: bool = True, duplicate_check: bool = True) -> None:
        self._connection = sqlite3.connect(path, timeout=BUSY_MS / 1_000, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing with NORMAL; the loss of power could cost the last writes, but tears none.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)
        self._guard = SqliteGuard(self._connection)
        self._instance = instance
        self._checks_token = guard
        self._checks_duplicate = duplicate_check

    @classmethod
    def create(cls, path: Path) -> None:
        """Make the store, before the first instance opens it: SQLite does not wait for others who switch to WAL."""
        cls(path, "").close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def read(self, sku: str) -> tuple[int, int]:
        """Stock and version of an item; one that no write has seen has neither."""
        row = self._connection.execute("SELECT stock, version FROM items WHERE sku = ?", (sku,)).fetchone()
        return (0, 0) if row is None else (row[0], row[1])

    def highest_token(self, sku: str) -> int:
        """The highest token under which an item was written."""
        row = self._connection.execute("SELECT max(token) FROM ledger WHERE sku = ?", (sku,)).fetchone()
        return row[0] or 0

    def apply(self, id_: str, sku: str, op: Op, quantity: int, token: int) -> Applied:
        """Apply a write once, whatever its repeats.

        Raises:
            StaleToken: a later holder of the key has written; nothing was changed.
            IdTaken: the id belongs to another write; nothing was changed.
        """
        with self._transaction():
            known = self._known(id_, sku, op, quantity) if self._checks_duplicate else None
            if known is not None:
                return known
            if self._checks_token:
                self._guard.check(sku, token)
            stock, version = self.read(sku)
            after = stock + quantity if op == "restock" else stock - quantity
            accepted = after >= 0
            applied = Applied(accepted, after if accepted else stock, version + 1, token, replayed=False)
            self._connection.execute(
                "INSERT INTO items VALUES (?, ?, ?) "
                "ON CONFLICT (sku) DO UPDATE SET stock = excluded.stock, version = excluded.version",
                (sku, applied.stock, applied.version),
            )
            self._connection.execute(
                "INSERT INTO ledger (id, sku, op, quantity, accepted, stock, version, token, instance) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (id_, sku, op, quantity, accepted, applied.stock, applied.version, token, self._instance),
            )
            return applied

    def _known(self, id_: str, sku: str, op: Op, quantity: int) -> Applied | None:
        row = self._connection.execute(
            "SELECT sku, op, quantity, accepted, stock, version, token FROM ledger WHERE id = ?", (id_,)
        ).fetchone()
        if row is None:
            return None
        if row[:3] != (sku, op, quantity):
            raise IdTaken(f"the id {id_!r} belongs to another write; nothing was changed")
        return Applied(bool(row[3]), row[4], row[5], row[6], replayed=True)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
