"""Who belongs to a cell, and how that changes, one replica at a time.

A configuration is canonical bytes with a digest that every replica can compare. The first one is no Paxos slot: it
is written into each directory by `synod format`, and its digest stands in the identity file and in every hello, so
that replicas of different cells, or of different ideas of the same cell, never talk.

Every later one follows from a `Change` that was chosen: a slot's whole value, alone in its slot. Read
`Configuration.after` first: it is the one rule by which Paxos, the state machine and an operator's request agree on
what a change makes of the members.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from ._change import CHANGE_MARK, is_change
from ._errors import ConfigError
from ._types import REPLICA_ID_MAX, ReplicaId, Slot

Role = Literal["voter", "learner", "observer"]

CELL_ID_DIGITS: Final = 32  # 128 random bits as hexadecimal digits

VOTERS_MAX: Final = 7
"""More voters make a cell slower, and hardly safer: seven survive three failures."""

CHANGE_VERSION: Final = 1
_DIGEST_BYTES: Final = 16
_CHANGE_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One replica as the configuration knows it.

    Args:
        id: 1 to 255, unique in the cell.
        address: `host:port` of its peer socket.
        incarnation: rises when the replica is re-admitted after it lost its disk, or comes back after it was removed.
        role: only a `voter` counts in quorums.
        disk: of one that was promoted, the number that `synod format` drew for its disk: no other disk may vote in
            its place. 0 of a member of the first configuration, and of one that does not vote.
    """

    id: ReplicaId
    address: str
    incarnation: int = 1
    role: Role = "voter"
    disk: int = 0


@dataclass(frozen=True, slots=True)
class Configuration:
    """The members of a cell.

    Args:
        members: sorted by id.
        generation: how many changes led here; so no configuration ever comes twice.
        retired: (id, incarnation) of those that were removed, sorted: nobody comes back as he was.
        backup: of a cell that began with a backup, the digest of that state. So a replica that was made from another
            backup, or from none, is one of another configuration.
        begins_at: the slot of that backup: everything up to it was chosen before the cell was.

    Invariant: members are sorted by id, ids are unique, and there is at least one voter.
    Invariant: nobody is a member and retired.

    Raises:
        ConfigError: an invariant does not hold; nothing was made.
    """

    cell_id: str
    members: tuple[Member, ...]
    generation: int = 0
    retired: tuple[tuple[ReplicaId, int], ...] = ()
    backup: str = ""
    begins_at: Slot = 0

    def __post_init__(self) -> None:
        ids = [member.id for member in self.members]
        gone = [id_ for id_, _ in self.retired]
        if ids != sorted(set(ids)) or gone != sorted(set(gone)) or not set(ids).isdisjoint(gone):
            raise ConfigError("the ids of a cell's replicas must be unique and in rising order")
        if any(not 1 <= id_ <= REPLICA_ID_MAX for id_ in (*ids, *gone)):
            raise ConfigError(f"a replica's id must lie between 1 and {REPLICA_ID_MAX}")
        if any(member.role not in get_args(Role) or member.incarnation < 1 for member in self.members):
            raise ConfigError("a member is a voter, a learner or an observer, and its incarnations count from 1")
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

    def holds(self, id_: ReplicaId, incarnation: int) -> bool:
        """Whether this incarnation of a replica is a member."""
        member = self.member(id_)
        return member is not None and member.incarnation == incarnation

    def has_left(self, id_: ReplicaId, incarnation: int) -> bool:
        """Whether this incarnation of a replica was removed or replaced, for good."""
        member = self.member(id_)
        if member is not None:
            return member.incarnation > incarnation
        return dict(self.retired).get(id_, 0) >= incarnation

    def votes(self, id_: ReplicaId, incarnation: int, disk: int) -> bool:
        """Whether this incarnation of a replica, with this disk, counts in quorums."""
        member = self.member(id_)
        return (
            member is not None
            and member.role == "voter"
            and member.incarnation == incarnation
            and member.disk in (0, disk)
        )

    # -- how it changes --------------------------------------------------------------------------------------

    def added(self, id_: ReplicaId, address: str, role: Role = "learner") -> Configuration:
        """With one more member, which does not vote. An id that was removed comes back as a later incarnation.

        Raises:
            ConfigError: there is such a member already, or one at that address, or it is to vote at once.
        """
        if self.member(id_) is not None:
            raise ConfigError(f"replica {id_} is a member already")
        if role == "voter":
            raise ConfigError(f"replica {id_} cannot vote before it has caught up: it is added as a learner")
        self._demand_free(address, id_)
        member = Member(id_, address, dict(self.retired).get(id_, 0) + 1, role)
        return self._next((*self.members, member), tuple(gone for gone in self.retired if gone[0] != id_))

    def promoted(self, id_: ReplicaId, disk: int) -> Configuration:
        """With a learner that votes from now on, with this disk and no other.

        Raises:
            ConfigError: it is no learner, or there are as many voters as there may be.
        """
        member = self._known(id_)
        if member.role != "learner":
            article = {"voter": "a voter already", "observer": "an observer, which never votes"}[member.role]
            raise ConfigError(f"replica {id_} is {article}: only a learner can be promoted")
        if len(self.voters) >= VOTERS_MAX:
            raise ConfigError(f"the cell has {VOTERS_MAX} voters already; more would make it slower, and hardly safer")
        return self._changed(replace(member, role="voter", disk=disk))

    def removed(self, id_: ReplicaId) -> Configuration:
        """Without a member.

        Raises:
            ConfigError: there is no such member, or it is the last voter.
        """
        member = self._known(id_)
        if self.voters == (id_,):
            raise ConfigError(f"replica {id_} is the only voter: without it there is no cell")
        members = tuple(other for other in self.members if other.id != id_)
        return self._next(members, tuple(sorted((*self.retired, (id_, member.incarnation)))))

    def replaced(self, id_: ReplicaId, address: str) -> Configuration:
        """With a new incarnation of a member, on an empty disk, which does not vote until it is promoted.

        Raises:
            ConfigError: there is no such member, or it is the last voter, or another one is at that address.
        """
        member = self._known(id_)
        if self.voters == (id_,):
            raise ConfigError(
                f"replica {id_} is the only voter: nobody else has what it lost; restore it from a backup"
            )
        self._demand_free(address, id_)
        role: Role = "observer" if member.role == "observer" else "learner"
        return self._changed(Member(id_, address, member.incarnation + 1, role))

    def after(self, value: bytes) -> Configuration:
        """What a chosen change makes of this configuration: the next one, or this one if it does not fit.

        Raises:
            ConfigError: a later version of synod wrote the change; whoever cannot read it must not go on.
        """
        change = Change.decode(value)
        fits = change.replaces == self.digest() and self._is_step(change.configuration)
        return change.configuration if fits else self

    def _is_step(self, new: Configuration) -> bool:
        """Whether one of the four steps leads from here to there."""
        ids = sorted({member.id for member in (*self.members, *new.members)})
        differing = [id_ for id_ in ids if self.member(id_) != new.member(id_)]
        if len(differing) != 1:
            return False
        id_ = differing[0]
        before, after = self.member(id_), new.member(id_)
        try:
            if after is None:
                return self.removed(id_) == new
            if before is None:
                return self.added(id_, after.address, after.role) == new
            if before.incarnation == after.incarnation:
                return self.promoted(id_, after.disk) == new
            return self.replaced(id_, after.address) == new
        except ConfigError:
            return False

    def _known(self, id_: ReplicaId) -> Member:
        member = self.member(id_)
        if member is None:
            known = ", ".join(str(other.id) for other in self.members)
            raise ConfigError(f"there is no replica {id_} in this cell; its members are {known}")
        return member

    def _demand_free(self, address: str, id_: ReplicaId) -> None:
        for other in self.members:
            if other.address == address and other.id != id_:
                raise ConfigError(f"replica {other.id} is at {address}; two replicas cannot have one address")

    def _changed(self, member: Member) -> Configuration:
        return self._next(tuple(member if other.id == member.id else other for other in self.members), self.retired)

    def _next(self, members: tuple[Member, ...], retired: tuple[tuple[ReplicaId, int], ...]) -> Configuration:
        return replace(self, members=tuple(sorted(members)), generation=self.generation + 1, retired=retired)

    # -- bytes -----------------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """Canonical bytes: equal configurations give equal bytes on every machine."""
        document: dict[str, object] = {
            "cell_id": self.cell_id,
            "generation": self.generation,
            "members": [[m.id, m.address, m.incarnation, m.role, m.disk] for m in self.members],
            "retired": self.retired,
        }
        if self.backup:
            document |= {"backup": self.backup, "begins_at": self.begins_at}
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Configuration:
        """The inverse of `encode`.

        Raises:
            ConfigError: the bytes are not a configuration.
        """
        try:
            document = json.loads(data)
            members = tuple(Member(int(i), str(a), int(n), r, int(d)) for i, a, n, r, d in document["members"])
            retired = tuple((int(i), int(n)) for i, n in document["retired"])
            began = (str(document.get("backup", "")), int(document.get("begins_at", 0)))
            return cls(str(document["cell_id"]), members, int(document["generation"]), retired, *began)
        except (ValueError, KeyError, TypeError, RecursionError) as broken:
            raise ConfigError(f"these bytes are no configuration: {broken}") from broken

    def digest(self) -> bytes:
        """16 bytes that stand for the whole configuration."""
        return hashlib.blake2b(self.encode(), digest_size=_DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class Change:
    """A slot's whole value: the next configuration.

    Args:
        configuration: the next one, whole.
        replaces: the digest of the one that it follows; with any other this change does nothing.
        id: 16 random bytes, by which whoever asked for the change knows it again.
    """

    configuration: Configuration
    replaces: bytes
    id: bytes

    def encode(self) -> bytes:
        """The bytes that Paxos agrees on."""
        return bytes((CHANGE_MARK, CHANGE_VERSION)) + self.replaces + self.id + self.configuration.encode()

    @classmethod
    def decode(cls, data: bytes) -> Change:
        """The inverse of `encode`.

        Raises:
            ConfigError: the bytes are not a change, or one of a later version.
        """
        if not is_change(data) or data[1:2] != bytes((CHANGE_VERSION,)):
            raise ConfigError("these bytes are no change of the members that this version knows")
        replaces, rest = data[2 : 2 + _DIGEST_BYTES], data[2 + _DIGEST_BYTES :]
        return cls(Configuration.decode(rest[_CHANGE_ID_BYTES:]), replaces, rest[:_CHANGE_ID_BYTES])
