"""Read-index: what must be applied before a read may be served, without trusting any clock.

A replica asks the leader after the reads arrived. The leader answers with its chosen mark once a quorum has
shown, later than the ask, that its promised ballot is still the leader's: then no other leader can have
chosen anything before the ask that this mark does not cover.

In a cell of three the asker and the leader are that quorum already: one round trip, no disk.
"""

from __future__ import annotations

from synod.base import Micros, ReplicaId, Slot


class Asks:
    """The asks of this replica's own reads.

    An ask that was made later covers the earlier ones, so only the latest travels.

    Args:
        nonce: 31 random bits, the upper part of every number: a grant that was meant for an earlier life of
            this replica covers nothing in this one.
    """

    __slots__ = ("_last", "_nonce", "_open", "sent", "sent_at")

    def __init__(self, nonce: int) -> None:
        self._nonce = nonce
        self._last = nonce << 32
        self._open: list[int] = []
        self.sent = 0
        self.sent_at: Micros = 0

    def ask(self) -> int:
        """Open an ask; returns its number."""
        self._last += 1
        self._open.append(self._last)
        return self._last

    @property
    def latest(self) -> int:
        """The latest open ask, or 0."""
        return self._open[-1] if self._open else 0

    def unsent(self) -> bool:
        """Whether an open ask was not sent to the present leader."""
        return self.latest > self.sent

    def doubt(self) -> None:
        """The leader is another, or was lost: ask again."""
        self.sent = 0

    def granted(self, upto: int) -> list[int]:
        """The open asks that an answer to the ask `upto` covers."""
        if upto >> 32 != self._nonce:
            return []
        out = [ask for ask in self._open if ask <= upto]
        self._open = self._open[len(out) :]
        return out


class Pending:
    """An ask that waits at the leader for the answers to the heartbeat `seq`."""

    __slots__ = ("id", "mark", "peer", "seq")

    def __init__(self, peer: ReplicaId, id_: int, seq: int, mark: Slot) -> None:
        self.peer = peer
        self.id = id_
        self.seq = seq
        self.mark = mark
