"""The acceptor: what was promised, and the highest ballot accepted in each slot.

    P1a  an acceptor accepts ballot b iff it has not promised a higher one      (Lamport 2001 s2.2)
    P2c  a proposer respects the highest accepted ballot that a quorum reports  (kept by `_leader`)

Nothing here sends or writes: the composition does, and lets nothing out before the change is durable.
Differs: an entry that was learned as chosen is held like an accepted one, and raises the promise to its
ballot; promising more is never wrong, and then no entry here is above the promise.
"""

from __future__ import annotations

from typing import Final

from synod.base import BALLOT_ZERO, Ballot, Entry, Slot, invariant

from ._messages import Promise
from ._options import Durable

ENTRY_OVERHEAD_BYTES: Final = 64
"""What an entry costs besides its value, in memory and in a message; so that empty values have a cost too."""


def cost(entry: Entry) -> int:
    """Bytes that an entry takes."""
    return len(entry.value) + ENTRY_OVERHEAD_BYTES


_new_tuple: Final = tuple.__new__


def new_entry(slot: Slot, ballot: Ballot, value: bytes) -> Entry:
    """The same as `Entry(slot, ballot, value)`, whose generated `__new__` is interpreted even when compiled."""
    return _new_tuple(Entry, (slot, ballot, value))


class Acceptor:
    """One acceptor's state.

    Invariant: `promised` is at least the ballot of every entry.
    Invariant: no slot is both in `entries` and in `unknown`.
    Invariant: `bytes` is the cost of all `entries`; `last` is at least the highest slot of both.
    """

    __slots__ = ("bytes", "entries", "last", "promised", "unknown")

    def __init__(self, durable: Durable, applied: Slot) -> None:
        self.unknown = {slot for slot in durable.unknown if slot > applied}
        # Of a slot with a rotten record an older one may be left; it must not pass for the highest.
        self.entries = {e.slot: e for e in durable.entries if e.slot > applied and e.slot not in self.unknown}
        self.promised = max((durable.promised, *(entry.ballot for entry in self.entries.values())))
        self.bytes = sum(cost(entry) for entry in self.entries.values())
        self.last: Slot = max((applied, *self.entries, *self.unknown))

    def promise(self, ballot: Ballot) -> bool:
        """P1a. False when a higher ballot was promised; promising the same again is no harm."""
        if ballot < self.promised:
            return False
        self.promised = ballot
        return True

    def accept(self, entry: Entry) -> None:
        """Hold a value at a ballot that is promised; heals a slot whose record was rotten."""
        slot, ballot, value = entry
        invariant(ballot <= self.promised, "nothing is accepted above the promise")
        held = self.entries.get(slot)
        if held is not None:
            invariant(held.ballot <= ballot, "the highest ballot per slot wins")
            invariant(held.ballot != ballot or held.value == value, "one value per ballot and slot")
            self.bytes -= len(held.value) + ENTRY_OVERHEAD_BYTES
        self.entries[slot] = entry
        if self.unknown:
            self.unknown.discard(slot)
        self.bytes += len(value) + ENTRY_OVERHEAD_BYTES
        if slot > self.last:
            self.last = slot

    def held_at(self, slot: Slot) -> Ballot:
        """The ballot at which a slot is held, or zero."""
        entry = self.entries.get(slot)
        return BALLOT_ZERO if entry is None else entry.ballot

    def forget(self, slot: Slot) -> None:
        """Drop one slot from memory: the log or a snapshot has it."""
        entry = self.entries.pop(slot, None)
        if entry is not None:
            self.bytes -= cost(entry)

    def forget_upto(self, slot: Slot) -> None:
        """Drop every slot up to here: a snapshot stands for them, the unreadable ones too."""
        for old in [held for held in self.entries if held <= slot]:
            self.forget(old)
        self.unknown = {unknown for unknown in self.unknown if unknown > slot}
        self.last = max(self.last, slot)

    def report(self, from_slot: Slot, mark: Slot, bytes_max: int) -> Promise:
        """What a Promise of the present ballot says from `from_slot` on, as one chunk.

        Nothing at or below `mark`: those slots are chosen, and whoever asks must learn them, not guess them.
        """
        entries: list[Entry] = []
        unknown: list[Slot] = []
        size = 0
        next_slot = 0
        for slot in range(max(mark + 1, from_slot), self.last + 1):
            if size >= bytes_max:
                next_slot = slot
                break
            entry = self.entries.get(slot)
            if entry is not None:
                entries.append(entry)
                size += cost(entry)
            elif slot in self.unknown:
                unknown.append(slot)
                size += ENTRY_OVERHEAD_BYTES
        return Promise(self.promised, from_slot, mark, next_slot, tuple(entries), tuple(unknown))

    def check(self) -> None:
        """Assert the invariants that cost little."""
        invariant(self.bytes >= len(self.entries) * ENTRY_OVERHEAD_BYTES, "the cost of what is held is known")
        invariant(not self.unknown or self.unknown.isdisjoint(self.entries), "what is held is known")
