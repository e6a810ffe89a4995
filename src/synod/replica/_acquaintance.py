"""What this replica remembers of its peers' disks, so that a forgetful one is noticed.

A replica whose disk was wiped or rolled back may have forgotten a promise or an accepted value; if it voted,
a chosen value could be lost. Its hello would show less than it has already told somebody: so everybody
remembers the most that each peer has shown, writes that down with the next sync group, and refuses less.

A hello says what held when it was sent, and there are two connections to each peer. Whatever shows anything comes on
the main one, behind its hello; so that hello shows no less than what came before it, or the disk has forgotten. The
hello of the bulk connection may come late, after messages that show more, and is no sign of anything.
Differs: no number of a process in the hello, by which a late one could be told. What had been shown when a process was
first met is not known any more to a peer that was restarted meanwhile; and a machine that is put back with its memory,
to a state in which it ran, is the same process and has forgotten all the same.

Ref: Chandra et al. 2007 s5.1 (a replica with a lost disk must not take part as if nothing had happened).
"""

from __future__ import annotations

import struct
from typing import Final

from synod.base import BALLOT_ZERO, Ballot, RemoteProtocolError, ReplicaId, Slot

from ._messages import Hello

_SEEN: Final = struct.Struct(">BIQBQ")


class Forgetful(RemoteProtocolError):
    """A peer's disk shows less than it has shown: it is to be refused, and told so."""


class Shown:
    """The most that the present incarnation of a peer has shown."""

    __slots__ = ("ballot", "incarnation", "slot")

    def __init__(self, incarnation: int, ballot: Ballot, slot: Slot) -> None:
        self.incarnation = incarnation
        self.ballot = ballot
        self.slot = slot


class Acquaintance:
    """The highest (promise, accepted slot) that each peer's present incarnation has shown."""

    __slots__ = ("_encoded", "_seen", "changed")

    def __init__(self, remembered: bytes = b"") -> None:
        self._seen: dict[ReplicaId, Shown] = {}
        self._encoded: bytes | None = None
        self.changed = False
        for at in range(0, len(remembered) - _SEEN.size + 1, _SEEN.size):
            id_, incarnation, round_, replica, slot = _SEEN.unpack_from(remembered, at)
            self._seen[id_] = Shown(incarnation, Ballot(round_, replica), slot)

    def encode(self) -> bytes:
        """For the next sync group. At a follower nothing changes from one to the next."""
        encoded = self._encoded
        if encoded is None or self.changed:
            parts = []
            for peer in sorted(self._seen):
                shown = self._seen[peer]
                round_, replica = shown.ballot
                parts.append(_SEEN.pack(peer, shown.incarnation, round_, replica, shown.slot))
            encoded = self._encoded = b"".join(parts)
        self.changed = False
        return encoded

    def showed(self, peer: ReplicaId, promised: Ballot, slot: Slot) -> None:
        """A peer's Promise or Accepted says that its disk holds this much."""
        shown = self._seen.get(peer)
        if shown is None:
            shown = Shown(1, BALLOT_ZERO, 0)
        if slot > shown.slot or promised > shown.ballot:
            shown.ballot = max(shown.ballot, promised)
            shown.slot = max(shown.slot, slot)
            self._seen[peer] = shown
            self.changed = True

    def refusal(self, hello: Hello, boot: int = 0, *, main: bool = True) -> str | None:
        """Why a peer's hello shows a forgetful disk, or None.

        Only that of the `main` connection says what its sender's disk holds now.

        `boot` is the latest start of the peer whose requests are applied here: no start counts lower, and one
        sends no request before its first promise is durable.
        Another, higher incarnation begins anew: it was re-admitted.

        Raises:
            Forgetful: the disk is an older one for certain, or it is the late hello of a process that has ended, and
                there is nobody to be told.
        """
        if not main:
            known = self._seen.get(hello.id)
            admitted = 0 if known is None else known.incarnation
            return _outdated(hello, admitted) if hello.incarnation < admitted else None
        self._encoded = None  # a peer that is met for the first time is noted, but is no reason to write
        shown = self._seen.setdefault(hello.id, Shown(hello.incarnation, BALLOT_ZERO, 0))
        ballot, slot = shown.ballot, shown.slot
        if hello.incarnation > shown.incarnation:
            self._seen[hello.id] = Shown(hello.incarnation, hello.promised, hello.last_slot)
            self.changed = True
            return None
        if hello.incarnation < shown.incarnation:
            return _outdated(hello, shown.incarnation)
        if hello.promised < ballot or hello.last_slot < slot:
            raise Forgetful(
                f"replica {hello.id} has forgotten what it had promised or accepted (it shows ballot {hello.promised} "
                f"and slot {hello.last_slot}, and had shown {ballot} and {slot}): its disk was wiped or rolled back, "
                f"and it must not vote until it is re-admitted"
            )
        if hello.boot < boot or (hello.boot == boot and hello.promised == BALLOT_ZERO):
            reason = (
                f"replica {hello.id} has forgotten that it was there before (it counts {hello.boot} starts, and requests "
                f"of its start {boot} are applied): its disk was wiped or rolled back, and it must not vote until it "
                f"is re-admitted"
            )
            if hello.boot < boot:
                raise Forgetful(reason)
            return reason
        return None


def _outdated(hello: Hello, admitted: int) -> str:
    return f"replica {hello.id} comes as incarnation {hello.incarnation}, but {admitted} was admitted"
