"""Durable before visible: the one door through which everything passes that rests on a write.

A change of what must be durable (a promise, an accepted entry) is put here; `flush` makes one write of all
that changed since the last. A consequence (a message, an acceptance of our own, slots that were fetched) is
told to `after`: it comes back at once if nothing is being written, else when the write is durable that holds
every change made before it. So no caller can let anything out too early, and no host can forget to wait.

Ref: Lamport 2001 s2.5 (an acceptor records its intended response in stable storage before sending it).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from synod.base import Ballot, Entry, Micros, ReplicaId, Slot, invariant

from ._messages import PaxosMessage
from ._options import Write


@dataclass(frozen=True, slots=True)
class Send:
    """A message for a peer."""

    peer: ReplicaId
    message: PaxosMessage


@dataclass(frozen=True, slots=True)
class OwnPromise:
    """This replica's promise of its own ballot: it may ask the others now, and counts itself."""

    ballot: Ballot


@dataclass(frozen=True, slots=True)
class OwnAccepted:
    """This leader's own acceptance of what it proposed: it counts now."""

    ballot: Ballot
    slot: Slot


@dataclass(frozen=True, slots=True)
class Learned:
    """Fetched entries up to `slot`: they may be handed out now."""

    slot: Slot


Consequence = Send | OwnPromise | OwnAccepted | Learned


class Gate:
    """What is to be written, what is being written, and what waits for it.

    Invariant: `durable` < `_next`; ids of `_writing` and of `_waiting` rise and lie in durable+1 .. `_next`.
    Invariant: a consequence waits only for changes that were put in before it.
    """

    __slots__ = ("_dirty", "_entries", "_next", "_waiting", "_writing", "durable")

    def __init__(self) -> None:
        self.durable = 0
        self._next = 1
        self._dirty = False
        self._entries: dict[Slot, Entry] = {}
        self._writing: deque[tuple[int, Micros]] = deque()
        self._waiting: deque[tuple[int, Consequence]] = deque()

    def touch(self) -> None:
        """What is promised changed: the next write carries it."""
        self._dirty = True

    def put(self, entry: Entry) -> None:
        """An entry for the next write; a second one of its slot replaces the first."""
        self._entries[entry.slot] = entry
        self._dirty = True

    def after(self, consequence: Consequence) -> bool:
        """True when every change so far is durable: let it happen. Else it comes out of `persisted`."""
        if self._dirty:
            self._waiting.append((self._next, consequence))
        elif self._next - 1 > self.durable:
            self._waiting.append((self._next - 1, consequence))
        else:
            return True
        return False

    def flush(self, promised: Ballot, mark: Slot, now: Micros) -> Write | None:
        """The next write, if anything changed."""
        if not self._dirty:
            return None
        entries = self._entries
        ordered = tuple(entries[slot] for slot in sorted(entries))
        write = Write(self._next, promised, mark, ordered)
        self._writing.append((self._next, now))
        self._next += 1
        self._entries = {}
        self._dirty = False
        return write

    def persisted(self, write_id: int) -> list[Consequence]:
        """This write and all before it are durable; what waited for them, in order."""
        invariant(write_id < self._next, "only a write that was handed out can be durable")
        self.durable = max(self.durable, write_id)
        while self._writing and self._writing[0][0] <= write_id:
            self._writing.popleft()
        out = []
        while self._waiting and self._waiting[0][0] <= write_id:
            out.append(self._waiting.popleft()[1])
        return out

    def drop(self, upto: Slot) -> None:
        """A snapshot stands for the slots up to here: their entries need no write any more."""
        self._entries = {slot: entry for slot, entry in self._entries.items() if slot > upto}

    @property
    def unsynced(self) -> int:
        """Writes that were handed out and are not durable, and one more when something changed."""
        return len(self._writing) + self._dirty

    def stalled(self, now: Micros, patience: Micros) -> bool:
        """Whether the oldest write is older than that: the disk hangs."""
        return bool(self._writing) and now - self._writing[0][1] > patience

    def check(self) -> None:
        """Assert the invariants."""
        invariant(self.durable < self._next, "only a write that was handed out can be durable")
        invariant(not self._waiting or self._waiting[0][0] > self.durable, "nothing waits for a durable write")
        invariant(not self._waiting or self._waiting[-1][0] <= self._next, "nothing waits for a write after the next")
