"""Comparing the replicas' digests at equal slots: who has gone astray?

Equal logs give equal states, so that a difference is a bug or rot in memory. Going on would spread it: a
replica that a quorum contradicts stops with a report; without a quorum for any digest all stop.
"""

from __future__ import annotations

from typing import Final

from synod.base import ReplicaId, Slot

SLOTS_KEPT_MAX: Final = 8
"""Reports of so many slots are kept: a digest is due every 1,024 slots, and peers are rarely one behind."""


class DigestBoard:
    """The digests that were reported, by slot and replica."""

    __slots__ = ("_by_slot", "_me", "voters")

    def __init__(self, me: ReplicaId, voters: tuple[ReplicaId, ...]) -> None:
        self._me = me
        self.voters = voters
        self._by_slot: dict[Slot, dict[ReplicaId, bytes]] = {}

    def report(self, replica: ReplicaId, slot: Slot, digest: bytes) -> str | None:
        """Take a report; returns why this replica must stop, or None.

        A replica that reported one slot twice reported the same both times, or was restarted.
        """
        self._by_slot.setdefault(slot, {})[replica] = digest
        while len(self._by_slot) > SLOTS_KEPT_MAX:
            del self._by_slot[min(self._by_slot)]
        board = self._by_slot.get(slot)
        return None if board is None else self._judge(slot, board)

    def agreed(self, slot: Slot) -> bool:
        """Whether a quorum, this replica included, reported one digest for a slot."""
        board = self._by_slot.get(slot, {})
        mine = board.get(self._me)
        same = sum(mine is not None and board.get(voter) == mine for voter in self.voters)
        return 2 * same > len(self.voters)

    def _judge(self, slot: Slot, board: dict[ReplicaId, bytes]) -> str | None:
        mine = board.get(self._me)
        if mine is None:
            return None
        quorum = len(self.voters) // 2 + 1
        tally: dict[bytes, int] = {}
        for voter in self.voters:
            if voter in board:
                tally[board[voter]] = tally.get(board[voter], 0) + 1
        others = sorted(voter for voter in self.voters if board.get(voter, mine) != mine)
        if not others or tally.get(mine, 0) >= quorum:
            return None
        for other, count in tally.items():
            if count >= quorum:
                return (
                    f"the state of this replica at slot {slot} has the digest {mine.hex()}, a quorum of the cell has "
                    f"{other.hex()}: its data must be replaced from its peers"
                )
        if len(tally) > 1 and sum(tally.values()) == len(self.voters):
            return (
                f"the replicas disagree about the state at slot {slot} and no quorum agrees on one digest "
                f"(this one has {mine.hex()}): restore the cell from a backup"
            )
        return None
