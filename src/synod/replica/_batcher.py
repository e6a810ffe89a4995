"""The leader's side of forwarding: what waits for the next slot, and how it becomes one batch.

While one batch is being synced and replicated, what arrives gathers here for the next: group commit.
"""

from __future__ import annotations

from collections import deque

from synod.base import ReplicaId
from synod.tree import encode_batch, group_header


class Batcher:
    """Commands that wait for a slot, in the order in which they came.

    `items` counts the requests of clients among them, `items_taken` those of the last batch.

    The duplicate check here only saves slots; the one that counts is in the state machine.
    """

    __slots__ = ("_bytes_max", "_queued", "_urgent", "_waiting", "bytes", "items", "items_taken")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._waiting: deque[tuple[bytes, int]] = deque()
        self.items = 0
        self.items_taken = 0
        self._urgent: deque[bytes] = deque()
        self._queued: dict[ReplicaId, tuple[int, int]] = {}
        self.bytes = 0

    def __bool__(self) -> bool:
        return self.bytes > 0

    @property
    def urgent(self) -> bool:
        """Whether commands of the leader's own wait for the batch after the next."""
        return bool(self._urgent)

    @property
    def full(self) -> bool:
        """Whether as much waits as one batch can hold: nothing is gained by waiting for more."""
        return self.bytes >= self._bytes_max

    @property
    def as_many_again(self) -> bool:
        """Whether as many items of clients wait as the last batch held: under a steady load, all that will come soon."""
        return self.items >= self.items_taken

    def clear(self) -> None:
        """Forget everything: this replica leads no more, and origins send again to whoever does."""
        self._waiting.clear()
        self._urgent.clear()
        self._queued.clear()
        self.items = self.items_taken = 0
        self.bytes = 0

    def add_group(self, group: bytes, applied: dict[ReplicaId, tuple[int, int]]) -> bool:
        """Take a group unless it waits here already or has been applied.

        Args:
            group: as its origin encoded it.
            applied: the state machine's (boot, seq) per origin.

        Returns:
            False when the group leaves a gap after those before it: its origin is to send again.
        """
        origin, boot, seq, items = group_header(group)
        known = max(self._queued.get(origin, (0, 0)), applied.get(origin, (0, 0)))
        if (boot, seq) <= known:
            return True
        if seq != (known[1] + 1 if boot == known[0] else 1):
            return False
        self._queued[origin] = (boot, seq)
        self._waiting.append((group, items))
        self.items += items
        self.bytes += len(group)
        return True

    def add_command(self, command: bytes) -> None:
        """Take a command of the leader's own; it goes before what clients sent."""
        self._urgent.append(command)
        self.bytes += len(command)

    def take(self, *, feature_level: int, cell_time_ms: int, wall_ms: int) -> bytes:
        """Close the next batch: at least one command, and no more than the bound beyond that."""
        commands: list[bytes] = []
        size = 0
        urgent, waiting, before = self._urgent, self._waiting, self.items
        while urgent and (not commands or size + len(urgent[0]) <= self._bytes_max):
            commands.append(urgent[0])
            size += len(urgent.popleft())
        while waiting and (not commands or size + len(waiting[0][0]) <= self._bytes_max):
            group, items = waiting.popleft()
            commands.append(group)
            size += len(group)
            self.items -= items
        self.items_taken = before - self.items
        self.bytes -= size
        return encode_batch(feature_level=feature_level, cell_time_ms=cell_time_ms, wall_ms=wall_ms, commands=commands)
