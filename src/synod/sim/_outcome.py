"""What comes of a run."""

from __future__ import annotations

from dataclasses import dataclass

from synod.base import Micros


class Violation(Exception):
    """An oracle's verdict: the system did what it must not do."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed.

    Args:
        violation: what went wrong, or None.
        trace: hash of everything that happened, in order.
        faults: how often each fault fired, and each thing worth counting happened.
        virtual: simulated microseconds.
        seconds: of one core.
        operations: client operations that were answered.
        slots: slots that were applied.
    """

    seed: int
    violation: str | None
    trace: str
    faults: dict[str, int]
    virtual: Micros
    seconds: float
    operations: int
    slots: int
