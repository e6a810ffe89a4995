"""The learner: which slots are chosen, and how this replica comes to hold them.

Only a leader declares a slot chosen. It tells its *mark*, the highest slot up to which everything is chosen;
a mark of ballot b speaks only for slots that are held at b: a value held at another ballot may be one that
lost. Everything else is fetched from a replica that knows it to be chosen, written to the log, and handed out
once durable, without a gap.

    delivered <= mark <= target      handed out; known and held here; known to be chosen somewhere

The mark also decides who the members are: `configuration` is what every slot up to it has made of them, and so the
one under which the slots past it are decided, up to and including the next change.
"""

from __future__ import annotations

from synod.base import (
    BALLOT_ZERO,
    Ballot,
    ConfigError,
    Configuration,
    Entry,
    Micros,
    ReplicaId,
    Slot,
    invariant,
    is_change,
)

from ._acceptor import Acceptor, cost
from ._messages import Slots
from ._options import Durable


class Learner:
    """What one replica knows of what is chosen.

    Invariant: `log_start` <= `delivered` <= `mark`.
    Invariant: every slot of `delivered` + 1 .. `mark` is held by the acceptor, with the chosen value.
    Invariant: `configuration` is that after the slot `mark`; `changes` counts the changes passed in this life.
    Invariant: every slot past `floor` and up to `mark` is held in memory; `chosen_bytes` is their cost.
    """

    __slots__ = (
        "_acceptor",
        "_cache_bytes_max",
        "_told_ballot",
        "_told_mark",
        "changes",
        "chosen_bytes",
        "configuration",
        "delivered",
        "fetch_from",
        "fetched_at",
        "floor",
        "log_start",
        "mark",
        "target",
        "unreadable",
        "writing",
    )

    def __init__(
        self,
        acceptor: Acceptor,
        durable: Durable,
        applied: Slot,
        configuration: Configuration,
        cache_bytes_max: int,
    ) -> None:
        self._acceptor = acceptor
        self._cache_bytes_max = cache_bytes_max
        self.log_start = durable.log_start
        self.floor = applied
        self.delivered = applied
        self.mark = applied
        self.chosen_bytes = 0
        self.configuration = configuration
        self.changes = 0
        self.unreadable: str | None = None
        """Why nothing behind the last chosen slot may be passed: whoever leads, this replica must not go on."""
        while self.mark < durable.chosen_mark and self.mark + 1 in acceptor.entries:
            if not self._pass(acceptor.entries[self.mark + 1]):
                break
        # The mark that the log knew may lie past a record that is rotten: that slot is to be fetched.
        self.target = max(self.mark, durable.chosen_mark, durable.lost_upto)
        self._told_ballot = BALLOT_ZERO
        self._told_mark: Slot = 0
        self.fetch_from: ReplicaId | None = None
        self.fetched_at: Micros = 0
        self.writing: Slot = 0

    # -- learning ------------------------------------------------------------------------------------------

    def told(self, ballot: Ballot, mark: Slot) -> bool:
        """The leader of `ballot` declares everything up to `mark` chosen. True when something is missing here."""
        if mark > self.target:
            self.target = mark
        if ballot != self._told_ballot:
            self._told_ballot = ballot
            self._told_mark = mark
        elif mark > self._told_mark:
            self._told_mark = mark
        self.catch_up()
        return self.mark < self.target

    def catch_up(self) -> None:
        """Take the told mark as far as slots are held at its ballot."""
        entries = self._acceptor.entries
        while self.mark < self._told_mark:
            entry = entries.get(self.mark + 1)
            if entry is None or entry.ballot != self._told_ballot or not self._pass(entry):
                break

    def _pass(self, entry: Entry) -> bool:
        """The next slot is chosen, and held here. False when it is a change of the members that cannot be read.

        Whose votes count behind it is unknown then, so that nothing there may be called chosen.
        """
        self.mark = entry.slot
        self.chosen_bytes += cost(entry)
        if is_change(entry.value):
            try:
                self.configuration = self.configuration.after(entry.value)
            except ConfigError as unknown:
                self.unreadable = f"it cannot read slot {entry.slot} of the log: {unknown}"
                return False
            self.changes += 1
        return True

    def declare(self, mark: Slot) -> None:
        """This replica leads, and a quorum holds everything up to `mark` at its ballot."""
        self._raise(mark)

    def fetched(self, upto: Slot) -> None:
        """Fetched entries up to here are durable."""
        if self.writing <= upto:
            self.writing = 0
        self._raise(upto)
        self.catch_up()

    def _raise(self, mark: Slot) -> None:
        while self.mark < mark and self._pass(self._acceptor.entries[self.mark + 1]):
            pass
        if self.mark > self.target:
            self.target = self.mark

    def deliver(self) -> list[Entry]:
        """The chosen entries that were not handed out yet, in order."""
        entries = self._acceptor.entries
        out = [entries[slot] for slot in range(self.delivered + 1, self.mark + 1)]
        self.delivered = self.mark
        while self.chosen_bytes > self._cache_bytes_max and self.floor < self.delivered:
            self.floor += 1
            self.chosen_bytes -= cost(entries[self.floor])
            self._acceptor.forget(self.floor)
        return out

    @property
    def ahead_bytes(self) -> int:
        """The cost of what is accepted and not known to be chosen."""
        return self._acceptor.bytes - self.chosen_bytes

    def installed(self, slot: Slot, configuration: Configuration) -> None:
        """A snapshot has brought the state up to `slot`, and who the members are there; the log begins after it."""
        if slot > self.mark:
            self.configuration = configuration
            self.changes += 1
        self.log_start = max(self.log_start, slot)
        for known in range(self.floor + 1, min(slot, self.mark) + 1):
            self.chosen_bytes -= cost(self._acceptor.entries[known])
        self._acceptor.forget_upto(slot)
        self.floor = max(self.floor, slot)
        self.mark = max(self.mark, slot)
        self.delivered = max(self.delivered, slot)
        self.target = max(self.target, slot)
        if self.writing <= slot:
            self.writing = 0
        self.fetch_from = None
        self.catch_up()

    # -- fetching ------------------------------------------------------------------------------------------

    def may_fetch(self) -> bool:
        """Whether a Fetch is to be sent: one at a time, and none while fetched entries are being written."""
        return self.mark < self.target and self.fetch_from is None and self.writing == 0

    def take(self, slots: Slots) -> list[Entry]:
        """The entries of an answer that must be written; `writing` is then the slot that they lead up to.

        Those that are held at the same or a higher ballot are right already: a value proposed at a ballot
        above that of a chosen one is the chosen one (Lamport 2001 s2.2 P2b).
        """
        upto = self.mark
        missing: list[Entry] = []
        for entry in slots.entries:
            if entry.slot <= upto:
                continue
            if entry.slot != upto + 1:
                break
            upto = entry.slot
            held = self._acceptor.entries.get(entry.slot)
            if held is not None and held.ballot >= entry.ballot:
                invariant(held.value == entry.value, "a chosen slot keeps its value")
            else:
                missing.append(entry)
        if upto > self.mark:
            self.writing = max(self.writing, upto)
        self.target = max(self.target, slots.mark)
        return missing

    def cached(self, slot: Slot, bytes_max: int) -> tuple[Entry, ...] | None:
        """Chosen entries from `slot` on, contiguous, at least one; None when they are no longer in memory."""
        if slot <= self.floor:
            return None
        out: list[Entry] = []
        size = 0
        while slot <= self.mark and (not out or size < bytes_max):
            entry = self._acceptor.entries[slot]
            out.append(entry)
            size += cost(entry)
            slot += 1
        return tuple(out)

    def check(self) -> None:
        """Assert the invariants that cost little."""
        invariant(self.log_start <= self.delivered, "the log begins at or before what is handed out")
        invariant(self.delivered <= self.mark, "what is handed out is chosen")
        invariant(self.mark <= self.target, "what is known here is known to be chosen")
        invariant(self.floor <= self.delivered, "only what is handed out leaves the memory")
        invariant(self.chosen_bytes >= 0, "the cost of what is kept is known")
        invariant(self.mark == self.floor or self.mark in self._acceptor.entries, "what is chosen here is held here")
