"""Cell time: how long the cell has been there for its clients, as one replica can tell.

The log carries cell time in its batches, so every replica knows it as of the last one. A leader adds what its own
clock has measured since it began to serve; a replica that begins to lead has measured, since it applied the last
batch, the end of the reign before and the time without a leader. So no part of a client's silence is lost when
leaders change, however often.

It never runs ahead of the time that has truly passed, but for the drift of clocks, and it stands still while nobody
could have been heard: while a leader is paused, and when the cell had no leader for long. Then clients have no part
in their silence. The log of an idle cell stands still as well, so that a quiet reign and an outage look alike to who
leads next; it takes both for an outage. That keeps no dead holder: in a quiet reign nobody was marked silent, so that
everybody's timeout begins anew in any case, and that is longer than what is held back.
"""

from __future__ import annotations

from typing import Final

from synod.base import MILLISECOND, Micros

READ_EVERY: Final = 100 * MILLISECOND
"""A leader reads its clock at least so often, unless it is paused."""

LATE: Final = 150 * MILLISECOND
"""A leader that reads its clock later than planned by more than this was itself away."""


class CellClock:
    """Cell time in microseconds, at one replica.

    Args:
        cell_ms: the cell time of the state that it starts with.
        outage: longest time since the last batch that counts: the interval of batches while somebody is silent, and
            one election.

    Invariant: a reading is at most a reading of an earlier moment plus the time between them, at whichever replicas.
    """

    __slots__ = ("_applied", "_applied_at", "_followed", "_outage", "_reading", "_seen", "interrupted", "stood")

    def __init__(self, cell_ms: int, outage: Micros, now: Micros) -> None:
        self._applied: Micros = cell_ms * MILLISECOND
        self._applied_at = now
        self._followed = False
        self._outage = outage
        self._reading: Micros = self._applied
        self._seen = now
        self.interrupted = True
        """Whether nobody led for long before this replica did, or, as it cannot tell, nothing was logged for long."""
        self.stood = False
        """Whether the clock stood still since somebody last looked here, and put it back to False."""

    def applied(self, cell_ms: int, now: Micros, *, followed: bool) -> None:
        """A batch has brought cell time to `cell_ms`. `followed`: some leader is known, this replica or another."""
        self._applied = cell_ms * MILLISECOND
        self._applied_at = now
        self._followed = self._followed or followed

    def start(self, cell_ms: int, now: Micros) -> Micros:
        """This replica begins to serve as the leader; the state is at `cell_ms`.

        The time since the last batch counts if it was applied when it was new. Who was cut off, and learned it only to
        lead, knows how long that took at most, and counts nothing.
        """
        reached = cell_ms * MILLISECOND
        without = self._applied + (now - self._applied_at) - reached  # an upper bound of the time since that batch
        self.interrupted = not self._followed or without > self._outage
        self._reading = reached
        if reached == self._applied and not self.interrupted:
            self._reading += without
        self._seen = now
        self.stood = False
        return self._reading

    def read(self, now: Micros) -> Micros:
        """Cell time at the leader, to be asked at least every `READ_EVERY`."""
        gap = now - self._seen
        self._seen = now
        if gap > READ_EVERY + LATE:
            self.stood = True
            gap = READ_EVERY
        self._reading += gap
        return self._reading
