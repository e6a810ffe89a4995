"""Fetching a snapshot from a peer, in chunks on the second connection, one ask at a time.

A connection that breaks costs no more than the chunk that was on its way: the next ask names the offset. Only from
the same peer, though: snapshots of one slot hold the same state on all replicas, but in another order.

What comes goes to the disk at once, and the next chunk is asked for when it is written: a replica has no more of a
snapshot in memory than a chunk, however large it is, and a disk that is slow slows the transfer.
"""

from __future__ import annotations

from typing import Final

from synod.base import MILLISECOND, SECOND, Micros, ReplicaId, Slot

from ._messages import SnapshotAsk, SnapshotChunk

ASK_AGAIN_AFTER: Final = 2 * SECOND
"""A chunk that did not come for so long is asked for again."""

BULK_WITHIN: Final = 200 * MILLISECOND
"""The second connection is made about when the first one is."""

HOPELESS_AFTER: Final = 10 * SECOND
"""A peer that is away for so long while another could help is not waited for: what has come is given up."""

ROOM_PAUSE: Final = 10 * SECOND
"""So long after a snapshot found no room on the disk none is fetched: each try fills the disk to its brim."""

SNAPSHOT_BYTES_MAX: Final = 8 << 30
"""A peer that announces more than this is not believed."""


class Download:
    """One snapshot on its way here.

    Invariant: the file's first `received` bytes have come, without a gap, and were handed to the disk.
    """

    __slots__ = ("_asked_at", "_heard_at", "peer", "received", "slot", "total")

    def __init__(self, peer: ReplicaId, now: Micros) -> None:
        self.peer = peer
        self.slot: Slot = 0
        self.total = 0
        self.received = 0
        self._asked_at = now
        self._heard_at = now

    def ask(self, now: Micros) -> SnapshotAsk:
        """The message that asks for the next chunk."""
        self._asked_at = now
        return SnapshotAsk(self.slot, self.received)

    def ask_again_at(self) -> Micros:
        """When a silent peer is to be asked again."""
        return self._asked_at + ASK_AGAIN_AFTER

    def hope(self, now: Micros) -> None:
        """The peer is back: it is asked for the rest as soon as its second connection should stand."""
        self._asked_at = min(self._asked_at, now - ASK_AGAIN_AFTER + BULK_WITHIN)

    def is_hopeless(self, now: Micros) -> bool:
        """Whether nothing has come for long."""
        return now - self._heard_at >= HOPELESS_AFTER

    def take(self, chunk: SnapshotChunk, now: Micros) -> bool:
        """Count a chunk, unless it is a repeat. False when the peer no longer has this snapshot: begin anew."""
        self._heard_at = now
        if chunk.total == 0 or chunk.total > SNAPSHOT_BYTES_MAX or (self.slot and chunk.slot != self.slot):
            return False
        if chunk.offset != self.received:
            return True  # a repeat of a chunk that was asked for twice
        if not chunk.data:
            return False
        self.slot, self.total = chunk.slot, chunk.total
        self.received += len(chunk.data)
        return self.received <= self.total

    @property
    def complete(self) -> bool:
        """Whether every byte has come."""
        return self.received == self.total > 0
