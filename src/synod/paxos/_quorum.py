"""The arithmetic of agreement, as pure values.

Two quorums of the same voters always share a voter: that one fact carries all of Paxos.
Ref: Lamport 1998 s2.1 (B2: any two ballots' quorums have a member in common).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from synod.base import ReplicaId


def quorum_size(voters: int) -> int:
    """The smallest number of voters of which any two sets intersect: a majority."""
    return voters // 2 + 1


def is_quorum(agreeing: Collection[ReplicaId], voters: Sequence[ReplicaId]) -> bool:
    """Whether those who agree hold a quorum of the voters; others among them do not count."""
    return sum(1 for voter in voters if voter in agreeing) >= quorum_size(len(voters))


def quorum_mark(marks: Collection[int]) -> int:
    """The highest mark that a quorum has reached, given one mark for each voter."""
    return sorted(marks, reverse=True)[quorum_size(len(marks)) - 1]
