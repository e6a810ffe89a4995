"""The arithmetic of agreement, as pure functions of the voters and of who said what.

Two quorums of the same voters always share a voter: that one fact carries all of Paxos.
Ref: Lamport 1998 s2.1 (B2: any two ballots' quorums have a member in common).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from synod.base import ReplicaId

Verdict = Literal["pending", "won", "lost"]


def quorum_size(voters: int) -> int:
    """The smallest number of voters of which any two sets intersect: a majority."""
    return voters // 2 + 1


def is_quorum(agreeing: Collection[ReplicaId], voters: tuple[ReplicaId, ...]) -> bool:
    """Whether those who agree hold a quorum of the voters; others among them do not count."""
    need = quorum_size(len(voters))
    if len(agreeing) < need:
        return False
    for voter in voters:
        if voter in agreeing:
            need -= 1
    return need <= 0


def verdict(yes: Collection[ReplicaId], no: Collection[ReplicaId], voters: tuple[ReplicaId, ...]) -> Verdict:
    """How a question to the voters stands: `lost` once those who said no leave no quorum to say yes."""
    if is_quorum(yes, voters):
        return "won"
    possible = [voter for voter in voters if voter not in no]
    return "pending" if is_quorum(possible, voters) else "lost"


def quorum_mark(reached: dict[ReplicaId, int], voters: tuple[ReplicaId, ...]) -> int:
    """The highest mark that a quorum of the voters has reached; who is not in `reached` is at 0."""
    marks = [reached.get(voter, 0) for voter in voters]
    marks.sort()
    return marks[-quorum_size(len(voters))]
