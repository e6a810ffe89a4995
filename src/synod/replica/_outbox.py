"""What this replica has forwarded for its clients and has not seen applied yet.

Everything that one origin forwards is *one* ordered stream of groups, numbered 1, 2, 3 ... under its boot
count. The state machine applies a group only when it is exactly the next one of its origin, so a group can
be sent again as often as doubt demands: to a new leader, after a lost connection, after a long silence.
"""

from __future__ import annotations

from collections import deque

from synod.base import Micros, ReplicaId, invariant
from synod.tree import encode_group

from ._options import GROUP_BYTES_MAX


class Outbox:
    """The unapplied tail of one origin's stream.

    Invariant: the groups held are contiguous, and the first is the one after the last applied.
    """

    __slots__ = ("_boot", "_groups", "_id", "_moved_at", "_next_unsent", "_seq", "bytes")

    def __init__(self, id_: ReplicaId, boot: int) -> None:
        self._id = id_
        self._boot = boot
        self._seq = 0
        self._groups: deque[tuple[int, bytes]] = deque()
        self._next_unsent = 1
        self._moved_at: Micros = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._groups)

    def seal(self, items: list[bytes], now: Micros) -> None:
        """Number what clients sent in this turn, as groups of at most `GROUP_BYTES_MAX` where they can be split."""
        if not self._groups:
            self._moved_at = now
        part: list[bytes] = []
        size = 0
        for item in items:
            if part and size + len(item) > GROUP_BYTES_MAX:
                self._add(part)
                part, size = [], 0
            part.append(item)
            size += len(item)
        if part:
            self._add(part)

    def _add(self, items: list[bytes]) -> None:
        self._seq += 1
        group = encode_group(self._id, self._boot, self._seq, items)
        self._groups.append((self._seq, group))
        self.bytes += len(group)

    @property
    def has_unsent(self) -> bool:
        """Whether there is a group that the present leader has not been sent."""
        return self._next_unsent <= self._seq and bool(self._groups)

    def unsent(self) -> list[bytes]:
        """The groups that the present leader has not been sent; they count as sent from now on."""
        if not self.has_unsent:
            return []
        first = self._groups[0][0]
        skip = max(0, self._next_unsent - first)
        self._next_unsent = self._seq + 1
        if skip == 0:
            return [group for _, group in self._groups]
        return [self._groups[at][1] for at in range(skip, len(self._groups))]

    def send_again(self) -> None:
        """Doubt everything that was sent: the leader is another, or its connection was lost."""
        if self._groups:
            self._next_unsent = self._groups[0][0]

    def applied(self, seq: int, now: Micros) -> None:
        """The group `seq` of this boot took effect."""
        invariant(bool(self._groups) and self._groups[0][0] == seq, "groups of an origin are applied in order")
        _, group = self._groups.popleft()
        self.bytes -= len(group)
        self._moved_at = now

    def skip_to(self, applied: tuple[int, int]) -> None:
        """Forget groups that a snapshot holds already.

        Args:
            applied: the (boot, seq) that the state knows of this origin.
        """
        boot, seq = applied
        while boot == self._boot and self._groups and self._groups[0][0] <= seq:
            _, group = self._groups.popleft()
            self.bytes -= len(group)

    def stuck_since(self) -> Micros | None:
        """When the first group last had hope, or None when nothing waits."""
        return self._moved_at if self._groups else None

    def hope(self, now: Micros) -> None:
        """Start the wait of the first group anew."""
        self._moved_at = now
