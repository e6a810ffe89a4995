"""Read-index: what must be applied before a read may be served, without trusting any clock.

A replica asks the leader after the reads arrived. The leader answers with its chosen mark once a quorum has
shown, later than the ask, that its promised ballot is still the leader's. Why that is enough: had a later
ballot chosen anything before the ask, a quorum would have promised it before; the two quorums share a voter,
and that voter would have had to say no.

Evidence is only what is later than the ask:

- the ask itself, which carries its sender's promised ballot, read after the reads had arrived: with the leader
  a quorum of three, so that a read at a follower costs one round trip and no disk;
- the answer to a message that the leader sent after the ask came. Every Heartbeat and every Accept carries the
  number of a *confirm round*, the answers give it back; an ask joins the next round of which nothing was sent.

A replica that may have forgotten a promise, or that has unreadable slots, or that is no voter, is evidence of
nothing. One that has no room to write remembers, and is.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from synod.base import Micros, ReplicaId, Slot, invariant

ROUNDS_MAX: Final = 8
"""Confirm rounds under way at a time; asks that come meanwhile share the next one. Some, so that a long round
trip is not waited for twice; few, so that a flood of asks makes no flood of heartbeats."""

ASKS_MAX: Final = 65_536
"""Open asks of one replica. The host has one or two at a time; more than this is a host gone wrong."""


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
        self._open: deque[int] = deque()
        self.sent = 0
        self.sent_at: Micros = 0

    def ask(self) -> int:
        """Open an ask; returns its number."""
        invariant(len(self._open) < ASKS_MAX, "a host lets its reads share an ask")
        self._last += 1
        self._open.append(self._last)
        return self._last

    @property
    def latest(self) -> int:
        """The latest open ask, or 0."""
        return self._open[-1] if self._open else 0

    def unsent(self) -> bool:
        """Whether an open ask was not sent to the present leader."""
        return bool(self._open) and self._open[-1] > self.sent

    def send(self, now: Micros) -> int:
        """The latest ask goes out."""
        self.sent = self._open[-1]
        self.sent_at = now
        return self.sent

    def doubt(self) -> None:
        """The leader is another, or was lost, or does not answer: ask again."""
        self.sent = 0

    def granted(self, upto: int) -> list[int]:
        """The open asks that an answer to the ask `upto` covers."""
        out: list[int] = []
        if upto >> 32 == self._nonce:
            while self._open and self._open[0] <= upto:
                out.append(self._open.popleft())
        return out


class _Round:
    """Asks that wait for the answers to the messages of one round; per asker the latest."""

    __slots__ = ("asks", "mark", "seq")

    def __init__(self, seq: int, mark: Slot) -> None:
        self.seq = seq
        self.mark = mark
        self.asks: dict[ReplicaId, int] = {}


class Confirmations:
    """The confirm rounds of one reign.

    Invariant: rounds rise; `seq` is the last of them while there is any.
    Invariant: an ask is in a round of which nothing had been sent when the ask came.
    """

    __slots__ = ("_late", "_rounds", "_stamped", "seq")

    def __init__(self) -> None:
        self.seq = 1
        self._stamped = True
        self._rounds: list[_Round] = []
        self._late: dict[ReplicaId, int] = {}

    def stamp(self) -> int:
        """The round of a message that is being sent now."""
        self._stamped = True
        return self.seq

    def join(self, peer: ReplicaId, ask: int, mark: Slot) -> None:
        """An ask came, when `mark` was chosen: it waits for the next round."""
        if self._stamped:
            if len(self._rounds) >= ROUNDS_MAX:
                self._late[peer] = ask
                return
            self.seq += 1
            self._stamped = False
            self._rounds.append(_Round(self.seq, mark))
        last = self._rounds[-1]
        last.mark = mark
        last.asks[peer] = ask

    @property
    def waiting(self) -> bool:
        """Whether any ask waits for the answers to a round; the latest round is `seq` then."""
        return bool(self._rounds)

    def confirmed(self, seq: int, mark: Slot) -> list[tuple[ReplicaId, int, Slot]]:
        """A quorum has answered the round `seq`: (asker, ask, mark) of every ask that is answered now."""
        out: list[tuple[ReplicaId, int, Slot]] = []
        while self._rounds and self._rounds[0].seq <= seq:
            done = self._rounds.pop(0)
            for peer, ask in done.asks.items():
                out.append((peer, ask, done.mark))
        if self._late and len(self._rounds) < ROUNDS_MAX:
            late, self._late = self._late, {}
            for peer, ask in late.items():
                self.join(peer, ask, mark)
        return out

    def forget(self, peer: ReplicaId) -> None:
        """The peer's connection is gone: it will ask again."""
        self._late.pop(peer, None)
        for waiting in self._rounds:
            waiting.asks.pop(peer, None)

    def check(self) -> None:
        """Assert the invariants."""
        invariant(len(self._rounds) <= ROUNDS_MAX, "few confirm rounds are under way")
        invariant(not self._rounds or self._rounds[-1].seq == self.seq, "the last round is the one being sent")
