"""One backup under way: which slot it is of, and what is still missing of it.

A backup is a snapshot of this replica, of a slot for which the replicas compared digests. It goes like this:

1. The leader is asked up to where everything is chosen, as for a linearizable read: what was acknowledged to anybody
   before the backup was asked for lies at or below that mark.
2. A logged command makes all replicas take their digest at one slot. It is asked for until one is applied that is not
   below the mark, at a moment when this replica can begin a snapshot at that very slot.
3. The snapshot is written, as any other; the digest is computed; a quorum reports the same one.

Nothing here blocks: reads and writes go on.
"""

from __future__ import annotations

from typing import Final

from synod.base import SECOND, Micros, Slot

MARK_AGAIN_AFTER: Final = SECOND
"""A digest that was asked for and did not come: the leader changed, or this replica could not take part in it."""


class Backup:
    """What is known of it. `error` says why there will be none.

    Invariant: `slot` is 0 until the walk begins, and everything about the state is of that slot.
    """

    __slots__ = (
        "after",
        "agreed",
        "ask",
        "digest",
        "error",
        "level",
        "mark_at",
        "saved",
        "sessions",
        "slot",
        "taken_ms",
        "znodes",
        "zxid",
    )

    def __init__(self, ask: int, now: Micros, wall_ms: int) -> None:
        self.ask = ask
        self.taken_ms = wall_ms
        self.after: Slot | None = None
        self.mark_at = now
        self.slot: Slot = 0
        self.zxid = 0
        self.znodes = 0
        self.sessions = 0
        self.level = 0
        self.digest: bytes | None = None
        self.agreed = False
        self.saved = False
        self.error: str | None = None

    @property
    def wants_mark(self) -> bool:
        """Whether a digest of a new slot is to be asked for."""
        return self.after is not None and not self.slot and self.error is None

    @property
    def complete(self) -> bool:
        """Whether the snapshot is durable here, and a quorum has the same digest at its slot."""
        return self.saved and self.agreed and self.digest is not None and self.error is None
