"""When the cell's feature level may rise: once every member is connected to the leader and knows the higher one.

Every change of how the log is applied belongs to a level. While some replica does not know a level, no replica
may apply by its rules, or their states would differ; so the level is part of the replicated state, it is raised
by a command in the log, and it never falls. A replica that does not know the cell's level stops before it applies
anything, and its peers refuse it.

Read docs/decisions/upgrades.md first.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from synod.base import ReplicaId

from ._messages import Hello


def level_refusal(hello: Hello, cell_level: int, supported_level: int) -> str | None:
    """Why a peer that says so cannot be talked to, or None."""
    if hello.feature_level < cell_level:
        return (
            f"the cell runs at feature level {cell_level}, and the version of synod on replica {hello.id} knows "
            f"the levels up to {hello.feature_level}: start that replica with the version that its peers run"
        )
    if hello.cell_level > supported_level:
        return (
            f"the cell runs at feature level {hello.cell_level}, as replica {hello.id} says, and this version of "
            f"synod knows the levels up to {supported_level}: start this replica with the version that its peers run"
        )
    return None


class Levels:
    """What this leader has proposed: `proposed` is the level, in this reign; 0 when none was."""

    __slots__ = ("proposed",)

    def __init__(self) -> None:
        self.proposed = 0

    def to_raise(
        self,
        cell_level: int,
        supported_level: int,
        peers: Iterable[ReplicaId],
        connected: Container[ReplicaId],
        hellos: Mapping[ReplicaId, Hello],
    ) -> int | None:
        """The level that the leader is to propose now: the highest that all members know, if that is a higher one.

        What a member knows is what the hello of the connection says that stands, and no hello that came late: a peer
        may have been upgraded, or rolled back, since it sent that.
        """
        if supported_level <= max(cell_level, self.proposed):
            return None
        common = supported_level
        for peer in peers:
            if peer not in connected:
                return None
            common = min(common, hellos[peer].feature_level)
        if common <= max(cell_level, self.proposed):
            return None
        self.proposed = common
        return common
