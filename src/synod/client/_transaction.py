"""Changes that happen together or not at all, collected one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from synod.base import LocalProtocolError
from synod.wire import (
    ACL,
    CREATE_EPHEMERAL,
    CREATE_SEQUENTIAL,
    OPEN_ACL,
    VERSION_ANY,
    Change,
    Check,
    Create,
    Delete,
    SetData,
    Stat,
)

Results = list[str | Stat | None]


class Transaction:
    """Collects changes; `commit` does all of them or none. As `async with` it commits unless the body raises."""

    def __init__(self, commit: Callable[[Sequence[Change]], Awaitable[Results]]) -> None:
        self._commit = commit
        self._changes: list[Change] = []
        self._done = False
        self.results: Results = []

    def create(
        self,
        path: str,
        data: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        acl: Sequence[ACL] = OPEN_ACL,
    ) -> Transaction:
        """Create a znode; its result is the path."""
        flags = (CREATE_EPHEMERAL if ephemeral else 0) | (CREATE_SEQUENTIAL if sequential else 0)
        return self._add(Create(path, data, tuple(acl), flags))

    def set(self, path: str, data: bytes, *, version: int = VERSION_ANY) -> Transaction:
        """Replace a znode's data; its result is the stat."""
        return self._add(SetData(path, data, version))

    def delete(self, path: str, *, version: int = VERSION_ANY) -> Transaction:
        """Delete a znode."""
        return self._add(Delete(path, version))

    def check(self, path: str, *, version: int = VERSION_ANY) -> Transaction:
        """Do nothing of it all unless the znode exists and has this version."""
        return self._add(Check(path, version))

    def _add(self, change: Change) -> Transaction:
        if self._done:
            raise LocalProtocolError("this transaction was committed already: begin another one")
        self._changes.append(change)
        return self

    async def commit(self) -> Results:
        """Do it: all or nothing.

        Raises:
            NotApplied: one was refused: the error is that one's, and none was done.
            OutcomeUnknown: they may have been done, all or none.
        """
        if self._done:
            raise LocalProtocolError("this transaction was committed already: begin another one")
        self._done = True
        self.results = await self._commit(self._changes)
        return self.results

    async def __aenter__(self) -> Self:
        """Collect."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, unless the body raised or committed by itself."""
        if error is None and not self._done:
            await self.commit()
