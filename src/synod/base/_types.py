"""The few types that every room shares: who, which ballot, which slot, when, and by what chance.

May not know: any other room, any I/O. Read `Ballot` first.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol, TypeAlias

ReplicaId: TypeAlias = int
"""Small positive integer, unique in a cell: 1 to `REPLICA_ID_MAX`."""

Slot: TypeAlias = int
"""Position in the log, from 1. Slot 0 means "before the first"."""

Micros: TypeAlias = int
"""An instant or a duration in whole microseconds of a monotonic clock.

Integers, so that the simulator and every replica compute the same numbers.
"""

REPLICA_ID_MAX: Final = 255  # one byte on disk and on the wire; a cell has 3 to 7 members

MILLISECOND: Final = 1_000
SECOND: Final = 1_000_000


class Ballot(NamedTuple):
    """A ballot number: totally ordered, and no two replicas ever use the same one.

    Ref: Lamport 2001 s2.2 (distinct proposal numbers); van Renesse & Altinbuken 2015 s2.2.
    """

    round: int
    replica: ReplicaId

    def __str__(self) -> str:
        return f"{self.round}.{self.replica}"


BALLOT_ZERO: Final = Ballot(0, 0)
"""Smaller than every ballot that a replica can raise."""


class Entry(NamedTuple):
    """What an acceptor holds for one slot: the highest ballot that it accepted there, and the value.

    The value is opaque bytes; `b""` is the no-op that fills a gap.
    """

    slot: Slot
    ballot: Ballot
    value: bytes


class Rng(Protocol):
    """The part of `random.Random` that the core may use; chance is an argument, never a global."""

    def randrange(self, start: int, stop: int, /) -> int: ...

    def getrandbits(self, k: int, /) -> int: ...


class Clock(Protocol):
    """A source of time for the rooms that host a core; the core itself is handed `now`."""

    def monotonic(self) -> Micros:
        """Microseconds that never go back and go on during suspend."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970; may jump, so it only ever fills ctime and mtime."""
        ...
