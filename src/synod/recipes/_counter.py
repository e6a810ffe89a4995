"""A number that several clients change: read, compute, and set only if nobody was faster.

Read `Counter.add`, then `_may_have_happened`. In the layout of kazoo's Counter: the number in ASCII digits.
Ref: Hunt 2010 s2.2 (conditional set by version); kazoo `recipe/counter.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from synod.base import BadArguments, BadVersion, NodeExists, NoNode, OutcomeUnknown, SynodError
from synod.client import Stat, validate_path

if TYPE_CHECKING:
    from synod.client import Cell


class Counter:
    """A whole number in a znode; every change is counted exactly once or reported.

    Args:
        cell: a started client.
        path: of the znode, which is made by the first change; until then the number is 0.
    """

    def __init__(self, cell: Cell, path: str) -> None:
        validate_path(path)
        self.path = path
        self._cell = cell

    async def value(self) -> int:
        """The number as the replica knows it; `Cell.sync` before it where that must be the latest.

        Raises:
            BadArguments: the znode holds no whole number.
        """
        number, _ = await self._read()
        return number

    async def add(self, amount: int = 1) -> int:
        """Add to the number, or subtract by a negative amount.

        Where a reply is lost this finds out what became of the change, if nobody has changed the number since.

        Returns:
            The number right after this change.

        Raises:
            BadArguments: the znode holds no whole number; nothing was changed.
            OutcomeUnknown: the reply was lost and others have changed the number since, or the cell cannot be asked:
                it may have been added.
            Unavailable: no replica could be reached; nothing was changed.
        """
        while True:
            number, stat = await self._read()
            changed = number + amount
            data = b"%d" % changed
            try:
                if stat is None:
                    await self._cell.create(self.path, data, makepath=True)
                else:
                    await self._cell.set(self.path, data, version=stat.version)
            except (BadVersion, NodeExists, NoNode):
                continue  # somebody was faster
            except OutcomeUnknown as unknown:
                if await self._may_have_happened(stat):
                    raise OutcomeUnknown(
                        f"counter {self.path}: the reply was lost and others have changed the number since, or the cell "
                        f"cannot be asked; {amount} may or may not have been added: read the number before adding again"
                    ) from unknown
                continue
            return changed

    async def _read(self) -> tuple[int, Stat | None]:
        try:
            data, stat = await self._cell.get(self.path)
        except NoNode:
            return 0, None
        try:
            return int(data or b"0"), stat
        except ValueError:
            raise BadArguments(
                f"counter {self.path}: the znode holds {data[:40]!r}, which is no whole number; nothing was changed: use "
                "another path"
            ) from None

    async def _may_have_happened(self, before: Stat | None) -> bool:
        """Whether the number was changed since `before`: by the time of the sync ours has happened, or never will."""
        try:
            async with asyncio.timeout(self._cell.timeout):
                await self._cell.wait_connected()
                await self._cell.sync(self.path)
                now = await self._cell.exists(self.path)
        except (TimeoutError, SynodError):
            return True
        if now is None or before is None:
            return now is not before
        return (now.czxid, now.version) != (before.czxid, before.version)
