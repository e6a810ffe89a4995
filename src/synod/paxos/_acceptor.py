"""The acceptor and its memory: what was promised, what was accepted, and what is known to be chosen.

    P1a  an acceptor accepts ballot b iff it has not promised a higher one      (Lamport 2001 s2.2)
    P2c  a proposer respects the highest accepted ballot that a quorum reports  (kept by the leader)

Nothing here sends or writes: the callers do, and nothing that rests on a change here leaves before the
change is durable.
"""

from __future__ import annotations

from synod.base import BALLOT_ZERO, Ballot, Entry, Slot, invariant

from ._messages import Promise
from ._options import Durable

_ENTRY_OVERHEAD = 64  # bytes a cached entry costs besides its value


class Acceptor:
    """One acceptor's state.

    Invariant: `delivered` <= `mark`: what is handed out is chosen.
    Invariant: every slot in `delivered`+1 .. `mark` is held in `entries`.
    Invariant: `promised` is at least the ballot of every entry that was accepted from a leader.
    """

    __slots__ = (
        "_cache_bytes_max",
        "_cached",
        "_floor",
        "delivered",
        "entries",
        "log_start",
        "mark",
        "promised",
        "unknown",
    )

    def __init__(self, durable: Durable, applied: Slot, cache_bytes_max: int) -> None:
        self.promised = durable.promised
        self.entries = {entry.slot: entry for entry in durable.entries if entry.slot > applied}
        self.unknown = {slot for slot in durable.unknown if slot > applied}
        self.log_start = durable.log_start
        self.mark = applied
        self.delivered = applied
        while self.mark < durable.chosen_mark and self.mark + 1 in self.entries:
            self.mark += 1
        self._floor = applied
        self._cached = sum(len(entry.value) + _ENTRY_OVERHEAD for entry in self.entries.values())
        self._cache_bytes_max = cache_bytes_max

    def promise(self, ballot: Ballot) -> bool:
        """P1a. False when a higher ballot was promised; promising the same again is no harm."""
        if ballot < self.promised:
            return False
        self.promised = ballot
        return True

    def accept(self, entry: Entry) -> None:
        """Hold a value at a ballot; the caller has checked the promise."""
        held = self.entries.get(entry.slot)
        if held is not None:
            invariant(held.ballot <= entry.ballot, "the highest ballot per slot wins")
            invariant(held.ballot != entry.ballot or held.value == entry.value, "one value per ballot and slot")
            invariant(entry.slot > self.mark or held.value == entry.value, "a chosen slot keeps its value")
            self._cached -= len(held.value) + _ENTRY_OVERHEAD
        self.entries[entry.slot] = entry
        self.unknown.discard(entry.slot)
        self._cached += len(entry.value) + _ENTRY_OVERHEAD

    def held_at(self, slot: Slot) -> Ballot:
        """The ballot at which a slot is held, or zero."""
        entry = self.entries.get(slot)
        return BALLOT_ZERO if entry is None else entry.ballot

    def learn_mark(self, ballot: Ballot, mark: Slot) -> bool:
        """The leader of `ballot` says that everything up to `mark` is chosen. True when something is missing here.

        A mark counts only for slots that are held at that very ballot: a value held at another one may have
        lost to the value that was chosen.
        """
        while self.mark < mark:
            entry = self.entries.get(self.mark + 1)
            if entry is None or entry.ballot != ballot:
                return True
            self.mark += 1
        return False

    def deliver(self) -> list[Entry]:
        """The chosen entries that were not handed out yet, in order."""
        out = [self.entries[slot] for slot in range(self.delivered + 1, self.mark + 1)]
        self.delivered = self.mark
        self._trim()
        return out

    def _trim(self) -> None:
        while self._cached > self._cache_bytes_max and self._floor < self.delivered:
            self._floor += 1
            entry = self.entries.pop(self._floor, None)
            if entry is not None:
                self._cached -= len(entry.value) + _ENTRY_OVERHEAD

    def cached(self, slot: Slot, bytes_max: int) -> tuple[Entry, ...] | None:
        """Chosen entries from `slot` on, contiguous and at least one; None when they are no longer in memory."""
        if slot <= self._floor or slot not in self.entries:
            return None
        out: list[Entry] = []
        size = 0
        while slot <= self.mark and (not out or size < bytes_max):
            entry = self.entries[slot]
            out.append(entry)
            size += len(entry.value)
            slot += 1
        return tuple(out)

    def install(self, slot: Slot) -> None:
        """A snapshot has brought the state up to `slot`."""
        for old in [held for held in self.entries if held <= slot]:
            self._cached -= len(self.entries.pop(old).value) + _ENTRY_OVERHEAD
        self.unknown = {unknown for unknown in self.unknown if unknown > slot}
        self.mark = max(self.mark, slot)
        self.delivered = max(self.delivered, slot)
        self.log_start = max(self.log_start, slot)
        self._floor = max(self._floor, slot)

    def promises(self, ballot: Ballot, from_slot: Slot, bytes_max: int) -> list[Promise]:
        """The parts of a Promise: accepted entries past both chosen marks, and what cannot be read there."""
        first = max(self.mark + 1, from_slot)
        entries = [self.entries[slot] for slot in sorted(self.entries) if slot >= first]
        unknown = tuple(sorted(slot for slot in self.unknown if slot >= first))
        parts: list[list[Entry]] = [[]]
        size = 0
        for entry in entries:
            if parts[-1] and size + len(entry.value) > bytes_max:
                parts.append([])
                size = 0
            parts[-1].append(entry)
            size += len(entry.value)
        return [
            Promise(ballot, self.mark, at, at == len(parts) - 1, tuple(part), unknown if at == len(parts) - 1 else ())
            for at, part in enumerate(parts)
        ]

    def check(self) -> None:
        """Assert the invariants; cheap enough for every step."""
        invariant(self.delivered <= self.mark, "what is handed out is chosen")
        invariant(self.log_start <= self.delivered, "the log begins at or before what is handed out")
        invariant(self._floor <= self.delivered, "only what is handed out leaves the cache")
