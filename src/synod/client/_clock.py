"""The clock of a client: monotonic, and running on while the machine sleeps."""

from __future__ import annotations

import asyncio
import random
import time
from typing import cast

from synod.base import Clock, Micros

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A lease goes on at the cell while this machine is suspended; CLOCK_MONOTONIC would not notice."""


def boot_clock() -> Micros:
    """Microseconds since the machine was started, suspended or not (CLOCK_MONOTONIC where there is no better)."""
    return time.clock_gettime_ns(_BOOTTIME) // 1_000


class SystemClock:
    """The `Clock` of a client."""

    def monotonic(self) -> Micros:
        """Microseconds since the machine was started, suspended or not."""
        return boot_clock()

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000


def clock_here() -> Clock:
    """The clock of the running event loop, if it has one of its own: a simulated loop has. Else the system's."""
    return cast("Clock | None", getattr(_loop_here(), "synod_clock", None)) or SystemClock()


def rng_here() -> random.Random:
    """Chance of the running event loop, if it has its own; else the system's."""
    return cast("random.Random | None", getattr(_loop_here(), "synod_rng", None)) or random.Random()


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
