"""The locks that one system holds, each a lock of the cell; there is no other lock table."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Hashable

from synod.base import BadArguments, SessionExpired, SynodError
from synod.client import Cell
from synod.recipes import Lock

from ._keys import key_bytes, lock_path


class KeyLock:
    """A lock on a key that a system has got. Given back with the system's `release_lock(key)`.

    Attributes:
        key: as it was asked for.
        fencing_token: rises with every holder of the key; what is written to must refuse a lower one.
    """

    __slots__ = ("_lock", "count", "fencing_token", "key", "owner")

    def __init__(self, key: str | bytes, lock: Lock, owner: Hashable) -> None:
        self.key = key
        self.fencing_token = lock.fencing_token
        self._lock = lock
        self.owner = owner  # the thread or task that got it
        self.count = 1  # how often that one asked for it re-entrantly

    @property
    def is_held(self) -> bool:
        """Whether it was neither released nor lost, as far as is known."""
        return self._lock.held and not self._lock.lost.is_set()

    @property
    def is_valid(self) -> bool:
        """Whether nobody else can hold it at this moment, by this machine's clock."""
        return self._lock.is_valid

    async def release(self) -> None:
        """Give it back; on the loop of the cell's client."""
        await self._lock.release()


class Locks:
    """Gets and releases locks; the table of who holds what may be used from any thread.

    Args:
        cell: a started client.
        namespace: of the keys.
    """

    def __init__(self, cell: Cell, namespace: str) -> None:
        self._cell = cell
        self._namespace = namespace
        self._mutex = threading.Lock()
        self._held: dict[bytes, list[KeyLock]] = {}

    def again(self, key: str | bytes, owner: Hashable) -> KeyLock | None:
        """The lock that this owner holds already, counted once more."""
        with self._mutex:
            for lock in self._held.get(key_bytes(key), ()):
                if lock.owner == owner and lock.is_held:
                    lock.count += 1
                    return lock
        return None

    async def acquire(self, key: str | bytes, seconds: float, owner: Hashable) -> KeyLock | str:
        """The lock on a key, or why it was not got; then nothing is held.

        Args:
            key: what is to be locked.
            seconds: how long to wait; 0 tries once.
            owner: the thread or task that asks.
        """
        path = lock_path(key, self._namespace)
        if not seconds >= 0:
            raise BadArguments(f"a lock's timeout is a number of seconds from 0, not {seconds!r}; nothing was locked")
        deadline = time.monotonic() + seconds
        while True:
            lock = Lock(self._cell, path)
            try:
                if seconds == 0:  # an answer of the cell is waited for, a release by others is not
                    got = await lock.acquire(timeout=self._cell.timeout, blocking=False)
                else:
                    got = await lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
            except SessionExpired as over:
                if time.monotonic() < deadline:
                    continue
                return str(over)
            except SynodError as failure:
                return f"the lock on the key could not be got: {failure}"
            if not got:
                if self._cell.state != "connected":
                    return f"the lock on the key was not got within {seconds:g} s: the cell could not be reached"
                return f"the lock on the key was not got within {seconds:g} s: somebody else holds it"
            held = KeyLock(key, lock, owner)
            with self._mutex:
                self._held.setdefault(key_bytes(key), []).append(held)
            return held

    def take(self, key: str | bytes, owner: Hashable) -> KeyLock | None:
        """Count one release; the lock that is to be given back now, or one that stays; None when none is held.

        A lock that this owner got comes first, so that whoever lost its lock does not release its successor's.
        """
        with self._mutex:
            locks = self._held.get(key_bytes(key), [])
            lock = next((lock for lock in locks if lock.owner == owner), locks[-1] if locks else None)
            if lock is not None:
                lock.count -= 1
        return lock

    async def release(self, lock: KeyLock) -> bool:
        """Give a lock back when its count is down; True if it was held until now."""
        was_held = lock.is_held
        if lock.count <= 0:
            self.forget(lock)
            await lock.release()
        return was_held

    def forget(self, lock: KeyLock) -> None:
        """Take a lock out of the table."""
        with self._mutex:
            key = key_bytes(lock.key)
            locks = self._held.get(key, [])
            if lock in locks:
                locks.remove(lock)
            if not locks:
                self._held.pop(key, None)

    async def close(self) -> None:
        """Give everything back."""
        with self._mutex:
            everything = [lock for locks in self._held.values() for lock in locks]
            self._held.clear()
        await asyncio.gather(*(lock.release() for lock in everything), return_exceptions=True)
