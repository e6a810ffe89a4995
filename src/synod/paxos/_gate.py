"""Durable before visible: the one door through which everything passes that rests on a write.

A change of what must be durable (a promise, an accepted entry) is put here; `flush` makes one write of all
that changed since the last. A consequence (a message, an acceptance of our own, slots that were fetched) is
told to `after`: it comes back at once if nothing is being written, else when the write is durable that holds
every change made before it. So no caller can let anything out too early, and no host can forget to wait.

Ref: Lamport 2001 s2.5 (an acceptor records its intended response in stable storage before sending it).
"""

from __future__ import annotations

from synod.base import Ballot, Entry, Micros, ReplicaId, Slot, invariant

from ._messages import PaxosMessage
from ._options import Write


class Send:
    """A message for a peer."""

    __slots__ = ("message", "peer")

    def __init__(self, peer: ReplicaId, message: PaxosMessage) -> None:
        self.peer = peer
        self.message = message


class OwnPromise:
    """This replica's promise of its own ballot: it may ask the others now, and counts itself."""

    __slots__ = ("ballot",)

    def __init__(self, ballot: Ballot) -> None:
        self.ballot = ballot


class OwnAccepted:
    """This leader's own acceptance of what it proposed: it counts now."""

    __slots__ = ("ballot", "slot")

    def __init__(self, ballot: Ballot, slot: Slot) -> None:
        self.ballot = ballot
        self.slot = slot


class Learned:
    """Fetched entries up to `slot`: they may be handed out now."""

    __slots__ = ("slot",)

    def __init__(self, slot: Slot) -> None:
        self.slot = slot


Consequence = Send | OwnPromise | OwnAccepted | Learned


class Writing:
    """A write that was handed out, since when, and what waits for it, in order."""

    __slots__ = ("begun_at", "id", "waiting")

    def __init__(self, id: int, begun_at: Micros, waiting: list[Consequence]) -> None:  # noqa: A002 -- as in `Write`
        self.id = id
        self.begun_at = begun_at
        self.waiting = waiting


class Gate:
    """What is to be written, what is being written, and what waits for it.

    Invariant: ids of `_writing` rise without a gap up to `_next` - 1: all before them are durable.
    Invariant: a consequence waits only for changes that were put in before it.
    """

    __slots__ = ("_dirty", "_entries", "_next", "_waiting", "_writing")

    def __init__(self) -> None:
        self._next = 1
        self._dirty = False
        self._entries: dict[Slot, Entry] = {}
        self._waiting: list[Consequence] = []  # for the next write
        self._writing: list[Writing] = []

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
            self._waiting.append(consequence)
        elif self._writing:
            self._writing[-1].waiting.append(consequence)
        else:
            return True
        return False

    def flush(self, promised: Ballot, mark: Slot, now: Micros) -> Write | None:
        """The next write, if anything changed."""
        if not self._dirty:
            return None
        entries = list(self._entries.values())
        if len(entries) > 1:
            entries.sort()
        write = Write(self._next, promised, mark, tuple(entries))
        self._writing.append(Writing(self._next, now, self._waiting))
        self._next += 1
        self._waiting = []
        self._entries = {}
        self._dirty = False
        return write

    def persisted(self, write_id: int) -> list[Consequence]:
        """This write and all before it are durable; what waited for them, in order."""
        invariant(write_id < self._next, "only a write that was handed out can be durable")
        out: list[Consequence] = []
        while self._writing and self._writing[0].id <= write_id:
            out.extend(self._writing.pop(0).waiting)
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
        return bool(self._writing) and now - self._writing[0].begun_at > patience

    def check(self) -> None:
        """Assert the invariants."""
        invariant(not self._writing or self._writing[-1].id == self._next - 1, "ids are in order")
        invariant(self._dirty or not self._waiting, "what waits for the next write waits for a change")
