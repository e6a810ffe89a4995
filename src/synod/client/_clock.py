"""The clock of a client: monotonic, and running on while the machine sleeps."""

from __future__ import annotations

import time

from synod.base import Micros

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
