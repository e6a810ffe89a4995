"""Python's garbage collector, in pieces too small to be noticed.

A full collection would stop a replica with a million znodes for a third of a second (measured). Nearly nothing of a
replica is cyclic garbage, and what does not go at once lives long. So what is young is looked through now and then,
and what is left is declared permanent: no collection looks at it again.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

LOOK_S: Final = 0.2
"""Between two looks at how much there is."""

YOUNG_MAX: Final = 20_000
"""Young objects that are collected at the next look: a million of them take 70 ms, which a fill makes in seconds."""

LOOKS_MAX: Final = 25
"""After so many looks even less is collected."""


class Garbage:
    """The collector of a process that has one event loop.

    Args:
        loop: in it the looks are taken.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._looks = 0

    def start(self) -> None:
        """Collect everything once, and then only what is young."""
        gc.collect()
        gc.freeze()
        gc.disable()
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._looks += 1
        if gc.get_count()[0] >= YOUNG_MAX or self._looks >= LOOKS_MAX:
            self._looks = 0
            gc.collect(0)
            gc.freeze()
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def stop(self) -> None:
        """Leave the collector to Python again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            gc.enable()
