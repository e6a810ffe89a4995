"""An operator who changes the members of the cell while everything goes wrong, as `synod member` does.

He knows what he wants (`goal`) and which disks are lost, asks the leader who the members are, takes the next step, and
looks again: so it does not matter which of his requests got an answer. Read `_next`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from ._processes import Replicas

LOOK_S: Final = 0.1
FAREWELL_S: Final = 8.0
"""A replica that was removed ends by itself within this, once nobody wants to hear of it any more."""

Member = dict[str, Any]


class Operator:
    """Changes the members one at a time.

    Args:
        replicas: of the cell; all of `ids` are voters, the spare one is no member.
    """

    def __init__(self, replicas: Replicas) -> None:
        self.goal = set(replicas.ids)
        self.lost: set[int] = set()
        self.gone: set[int] = set()
        """Whose removal was asked for, and who has not been made anew since: they may end at any time."""
        self._replicas = replicas
        # Under which incarnation each one's directory was formatted last.
        self._formatted = dict.fromkeys(replicas.ids, 1)

    async def settle(self, seconds: float) -> bool:
        """Work until the members are those that are wanted, all of them voters on disks of their own.

        Returns:
            Whether that was reached in time.
        """
        until = time.monotonic() + seconds
        while True:
            members = await self._replicas.members()
            if members is not None:
                step = self._next(members)
                if step is None:
                    return True
                await self._take(*step, members)
            if time.monotonic() > until:
                return False
            await asyncio.sleep(LOOK_S)

    def _next(self, members: dict[int, Member]) -> tuple[str, int] | None:
        """What is to be done first, and for whom: who goes, goes last."""
        for i in sorted(self.goal):
            member = members.get(i)
            if member is None:
                return "member-add", i
            if member["incarnation"] != self._formatted.get(i, 0):
                return "join", i
            if i in self.lost:
                return "member-replace", i
            if member["role"] == "learner":
                return "member-promote", i
        for i in sorted(members):
            if i not in self.goal:
                return "member-remove", i
        for i in self._replicas.ids:
            if i not in self.goal:
                return "farewell", i
        return None

    async def _take(self, step: str, i: int, members: dict[int, Member]) -> None:
        if step == "join":
            self._formatted[i] = members[i]["incarnation"]
            self.lost.discard(i)
            self.gone.discard(i)
            self._replicas.join(i, self._formatted[i], sorted(members))
        elif step == "farewell":
            await self._replicas.wait_ended(i, FAREWELL_S)
            self._replicas.leave(i)
        else:
            if step == "member-remove":
                self.gone.add(i)
                self._replicas.expect_end(i)
            await self._replicas.operate(step, i)
