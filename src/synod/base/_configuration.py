"""Who belongs to a cell, as canonical bytes with a digest that every replica can compare.

The first configuration is no Paxos slot: it is written into each directory by `synod format`, and its
digest stands in the identity file and in every hello, so that replicas of different cells, or of
different ideas of the same cell, never talk.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final, Literal

from ._errors import ConfigError
from ._types import REPLICA_ID_MAX, ReplicaId

Role = Literal["voter", "learner", "observer"]

CELL_ID_DIGITS: Final = 32  # 128 random bits as hexadecimal digits


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One replica as the configuration knows it.

    Args:
        id: 1 to 255, unique in the cell, never used again for another machine.
        address: `host:port` of its peer socket.
        incarnation: rises when the replica is re-admitted after it lost its disk.
        role: only a `voter` counts in quorums.
    """

    id: ReplicaId
    address: str
    incarnation: int = 1
    role: Role = "voter"


@dataclass(frozen=True, slots=True)
class Configuration:
    """The members of a cell.

    Invariant: members are sorted by id, ids are unique, and there is at least one voter.

    Raises:
        ConfigError: the invariant does not hold; nothing was made.
    """

    cell_id: str
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        ids = [member.id for member in self.members]
        if ids != sorted(set(ids)):
            raise ConfigError("the ids of a cell's replicas must be unique and in rising order")
        if any(not 1 <= id_ <= REPLICA_ID_MAX for id_ in ids):
            raise ConfigError(f"a replica's id must lie between 1 and {REPLICA_ID_MAX}")
        if not self.voters:
            raise ConfigError("a cell needs at least one voting replica")
        if len(self.cell_id) != CELL_ID_DIGITS or set(self.cell_id) - set("0123456789abcdef"):
            raise ConfigError(
                f"a cell_id is {CELL_ID_DIGITS} hexadecimal digits: `synod format --new-cell` prints a fresh one"
            )

    @property
    def voters(self) -> tuple[ReplicaId, ...]:
        """Ids of the members that count in quorums, rising."""
        return tuple(member.id for member in self.members if member.role == "voter")

    def member(self, id_: ReplicaId) -> Member | None:
        """The member with this id, or None."""
        return next((member for member in self.members if member.id == id_), None)

    def encode(self) -> bytes:
        """Canonical bytes: equal configurations give equal bytes on every machine."""
        document = {
            "cell_id": self.cell_id,
            "members": [[m.id, m.address, m.incarnation, m.role] for m in self.members],
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Configuration:
        """The inverse of `encode`.

        Raises:
            ConfigError: the bytes are not a configuration.
        """
        try:
            document = json.loads(data)
            members = tuple(Member(int(i), str(a), int(n), r) for i, a, n, r in document["members"])
            return cls(str(document["cell_id"]), members)
        except (ValueError, KeyError, TypeError) as broken:
            raise ConfigError(f"these bytes are no configuration: {broken}") from broken

    def digest(self) -> bytes:
        """16 bytes that stand for the whole configuration."""
        return hashlib.blake2b(self.encode(), digest_size=16).digest()
