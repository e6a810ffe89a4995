"""The proposer: phase 1 as a `Candidacy`, phase 2 as a `Reign`.

Phase 1 runs once per ballot for all open slots; a reign then proposes slot after slot without it.
Ref: Lamport 2001 s3 (a leader executes phase 1 for infinitely many instances at once).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from synod.base import Ballot, Entry, Micros, ReplicaId, Slot, invariant, is_change

from ._acceptor import new_entry
from ._messages import Promise
from ._quorum import is_quorum, quorum_mark
from ._reads import Confirmations

OPEN_SLOTS_MAX: Final = 1 << 20
"""Slots between the chosen mark and the last one reported: far more than all windows together can open, so
that more than this is a peer gone wrong and not a reason to propose for minutes."""

RESEND_BACKOFF_MAX: Final = 8
"""An Accept that is not answered is sent again after 2 heartbeats, then 4, up to so many times the first wait:
a connection loses nothing while it stands, so that mostly it is the peer's disk that is slow."""


class Answer:
    """One acceptor's Promise, as far as its chunks have come."""

    __slots__ = ("complete", "entries", "from_slot", "mark", "unknown")

    def __init__(self, from_slot: Slot) -> None:
        self.from_slot = from_slot
        self.mark: Slot = 0
        self.complete = False
        self.entries: list[Entry] = []
        self.unknown: set[Slot] = set()


class Candidacy:
    """Phase 1 of one ballot.

    Invariant: an acceptor counts only when every chunk of its Promise has come.
    """

    __slots__ = ("answers", "asked_at", "ballot", "from_slot", "started_at", "voters")

    def __init__(self, ballot: Ballot, voters: tuple[ReplicaId, ...], from_slot: Slot, now: Micros) -> None:
        self.ballot = ballot
        self.voters = voters
        self.from_slot = from_slot
        self.started_at = now
        self.asked_at = now
        self.answers: dict[ReplicaId, Answer] = {}

    def wanted(self, peer: ReplicaId) -> Slot | None:
        """From which slot on the peer is to be asked; None when it has told everything."""
        answer = self.answers.get(peer)
        if answer is None:
            return self.from_slot
        return None if answer.complete else answer.from_slot

    def take(self, peer: ReplicaId, promise: Promise) -> Slot | None:
        """Note a chunk; from which slot on the peer is to be asked now. Chunks out of turn are ignored."""
        answer = self.answers.get(peer)
        if answer is None:
            answer = self.answers[peer] = Answer(self.from_slot)
        if answer.complete or promise.from_slot != answer.from_slot:
            return None
        answer.mark = max(answer.mark, promise.mark)
        answer.entries.extend(promise.entries)
        answer.unknown.update(promise.unknown)
        if promise.next_slot:
            answer.from_slot = promise.next_slot
            return promise.next_slot
        answer.complete = True
        return None

    def forget(self, peer: ReplicaId) -> None:
        """A peer went: phase 1 goes on without what it promised."""
        self.answers.pop(peer, None)

    def promised(self) -> list[ReplicaId]:
        """Who has promised and told everything."""
        return [peer for peer, answer in self.answers.items() if answer.complete]

    def best_mark(self) -> tuple[Slot, ReplicaId]:
        """The highest chosen mark among the promises, and who has it: nothing is proposed at or below it."""
        return max((answer.mark, peer) for peer, answer in self.answers.items() if answer.complete)

    def undecidable(self, mark: Slot) -> tuple[Slot, list[ReplicaId]] | None:
        """The first slot past `mark` that too few of a quorum know, and whose records of it are damaged."""
        answers = [(peer, answer) for peer, answer in self.answers.items() if answer.complete]
        for slot in sorted({slot for _, answer in answers for slot in answer.unknown if slot > mark}):
            if not is_quorum([peer for peer, answer in answers if slot not in answer.unknown], self.voters):
                return slot, sorted(peer for peer, answer in answers if slot in answer.unknown)
        return None

    def open_slots(self, mark: Slot) -> list[tuple[Slot, bytes]] | None:
        """What must be proposed again past `mark`: per slot the value of the highest ballot reported (P2c).

        No further than the first change of the members: what comes after it is for other voters to decide. Gaps are filled with no-ops. None when for some slot too few acceptors *know* what they accepted: an
        acceptor with a rotten record must not pass for one that accepted nothing.
        """
        answers = [(peer, answer) for peer, answer in self.answers.items() if answer.complete]
        best: dict[Slot, Entry] = {}
        last = mark
        for _, answer in answers:
            last = max((last, *answer.unknown))
            for entry in answer.entries:
                last = max(last, entry.slot)
                held = best.get(entry.slot)
                if held is None or entry.ballot > held.ballot:
                    best[entry.slot] = entry
        invariant(last - mark <= OPEN_SLOTS_MAX, "so many slots cannot be open")
        proposals: list[tuple[Slot, bytes]] = []
        for slot in range(mark + 1, last + 1):
            know = [peer for peer, answer in answers if slot not in answer.unknown]
            if not is_quorum(know, self.voters):
                return None
            found = best.get(slot)
            proposals.append((slot, b"" if found is None else found.value))
            if found is not None and is_change(found.value):
                break
        return proposals


class Proposal:
    """A slot that is proposed and not known chosen yet."""

    __slots__ = ("accepted", "entry")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.accepted: dict[ReplicaId, None] = {}


class Progress:
    """What a leader knows of one peer, and what is on its way to it.

    Invariant: `in_flight_bytes` is the sum over `in_flight`, which is (slot, bytes) in the order sent.
    """

    __slots__ = (
        "accepts",
        "acked_at",
        "confirms",
        "in_flight",
        "in_flight_bytes",
        "mark",
        "mark_told",
        "next_slot",
        "resend_after",
        "resend_at",
        "seq",
        "seq_told",
    )

    def __init__(self, next_slot: Slot, acked_at: Micros) -> None:
        self.accepts = True
        self.confirms = True
        self.acked_at = acked_at
        self.mark: Slot = 0
        self.seq = 0
        self.resend_after: Micros = 0
        self.reset(next_slot)

    def reset(self, next_slot: Slot) -> None:
        """A new connection: nothing is on its way, and the peer has been told nothing."""
        self.next_slot = next_slot
        self.in_flight: list[tuple[Slot, int]] = []
        self.in_flight_bytes = 0
        self.mark_told: Slot = 0
        self.seq_told = 0
        self.resend_at: Micros = 0
        self.resend_after = 0

    def sent(self, slot: Slot, size: int) -> None:
        """An Accept is on its way."""
        self.in_flight.append((slot, size))
        self.in_flight_bytes += size

    def accepted(self, slot: Slot) -> None:
        """The peer holds this slot. It says nothing of those before it: while a peer abstains it refuses silently."""
        if self.in_flight and self.in_flight[0][0] == slot:
            self.in_flight_bytes -= self.in_flight.pop(0)[1]
            return
        for position, (sent, size) in enumerate(self.in_flight):
            if sent == slot:
                del self.in_flight[position]
                self.in_flight_bytes -= size
                return

    def done(self, upto: Slot) -> None:
        """The peer knows that everything up to here is chosen."""
        while self.in_flight and self.in_flight[0][0] <= upto:
            self.in_flight_bytes -= self.in_flight.pop(0)[1]


class Reign:
    """Phase 2 of one ballot: proposals, and who acknowledges them.

    Invariant: `open` holds exactly the slots from the chosen mark + 1 to `next_slot` - 1, in order.
    Invariant: while it is `changing`, the last open slot is a change of the members, and nothing more is proposed.
    """

    __slots__ = (
        "able_at",
        "ballot",
        "changing",
        "confirmations",
        "connected_at",
        "handing_over_until",
        "heartbeat_at",
        "heir",
        "heir_told_at",
        "mark_told",
        "next_slot",
        "open",
        "opening_slot",
        "progress",
        "voters",
    )

    def __init__(self, ballot: Ballot, voters: tuple[ReplicaId, ...], next_slot: Slot, now: Micros) -> None:
        self.ballot = ballot
        self.voters = voters
        self.next_slot = next_slot
        self.open: dict[Slot, Proposal] = {}
        self.opening_slot: Slot = 0
        self.changing = False
        self.confirmations = Confirmations()
        self.progress: dict[ReplicaId, Progress] = {}
        self.connected_at = now
        self.able_at = now
        self.heartbeat_at: Micros = now
        self.handing_over_until: Micros | None = None
        self.heir: ReplicaId | None = None
        self.heir_told_at: Micros = 0
        self.mark_told: Slot = 0

    @property
    def handing_over(self) -> bool:
        """Whether this leader proposes no more, and waits for another to take over."""
        return self.handing_over_until is not None

    # -- proposals -----------------------------------------------------------------------------------------

    def add(self, value: bytes) -> Entry:
        """Propose a value for the next slot."""
        invariant(not self.changing, "nothing is proposed behind a change of the members that is not chosen")
        self.changing = is_change(value)
        entry = new_entry(self.next_slot, self.ballot, value)
        self.next_slot += 1
        self.open[entry.slot] = Proposal(entry)
        return entry

    def accepted(self, voter: ReplicaId, slot: Slot, mark: Slot) -> Slot:
        """A voter holds a slot at this ballot, durably; the chosen mark that follows, contiguous from `mark`.

        The step from open to chosen is made once per slot and in order, whatever comes twice or late.
        """
        proposal = self.open.get(slot)
        if proposal is None:
            return mark
        proposal.accepted[voter] = None
        if slot != mark + 1:
            proposal = self.open.get(mark + 1)
        while proposal is not None and is_quorum(proposal.accepted, self.voters):
            mark += 1
            del self.open[mark]
            proposal = self.open.get(mark + 1)
        return mark

    def settle(self, mark: Slot) -> None:
        """Everything up to `mark` turned out to be chosen by other means: nothing of it is open any more."""
        while self.open:
            first = next(iter(self.open))
            if first > mark:
                break
            del self.open[first]

    # -- peers ---------------------------------------------------------------------------------------------

    def next_accept(self, peer: ReplicaId, progress: Progress, mark: Slot, window: int) -> Entry | None:
        """The next proposal that the peer is to be sent now, in slot order, while its window is not full.

        What was chosen meanwhile is left out: the peer fetches it.
        """
        progress.next_slot = max(progress.next_slot, mark + 1)
        while progress.next_slot < self.next_slot:
            if progress.in_flight and progress.in_flight_bytes >= window:
                return None
            proposal = self.open[progress.next_slot]
            progress.next_slot += 1
            if peer not in proposal.accepted:
                progress.sent(proposal.entry.slot, len(proposal.entry.value))
                return proposal.entry
        return None

    def owes(self, peer: ReplicaId, progress: Progress) -> bool:
        """Whether the peer has not acknowledged something that was sent to it."""
        return bool(progress.in_flight) and any(peer not in proposal.accepted for proposal in self.open.values())

    def outpaced(self) -> bool:
        """Whether all that is proposed is chosen, and a voter that keeps up has yet to answer for the last of it.

        One that owes more than that is slow, or hangs, or is gone: nobody is to wait for it.
        """
        if self.open:
            return False
        for peer, progress in self.progress.items():
            if progress.accepts and len(progress.in_flight) == 1 and peer in self.voters:
                return True
        return False

    def quorum_connected(self, me: ReplicaId, timeout: Micros, now: Micros) -> bool:
        """Whether a quorum, this leader included, has answered within the timeout and is able to accept."""
        return is_quorum(self.near(me, timeout, now), self.voters)

    def near(self, me: ReplicaId, timeout: Micros, now: Micros) -> list[ReplicaId]:
        """Who has answered within the timeout and is able to accept, this leader included; those who never vote too."""
        near = [me]
        for peer, progress in self.progress.items():
            if progress.accepts and now - progress.acked_at <= timeout:
                near.append(peer)
        return near

    def quorum_able(self, me: Sequence[ReplicaId], timeout: Micros, now: Micros) -> bool:
        """Whether those that are able to accept are a quorum; `me` is this leader, or nobody when it is not."""
        able = [*me]
        for peer, progress in self.progress.items():
            if progress.accepts and now - progress.acked_at <= timeout:
                able.append(peer)
        return is_quorum(able, self.voters)

    def quorum_heard(self, me: ReplicaId, timeout: Micros, now: Micros) -> bool:
        """Whether a quorum, this leader included, has answered within the timeout and may confirm reads."""
        near = [me]
        for peer, progress in self.progress.items():
            if (progress.accepts or progress.confirms) and now - progress.acked_at <= timeout:
                near.append(peer)
        return is_quorum(near, self.voters)

    def confirmed_seq(self, me: ReplicaId) -> int:
        """The latest confirm round that a quorum, this leader included, has answered."""
        reached = {peer: progress.seq for peer, progress in self.progress.items()}
        reached[me] = self.confirmations.seq
        return quorum_mark(reached, self.voters)

    def check(self, mark: Slot) -> None:
        """Assert the invariants."""
        invariant(len(self.open) == self.next_slot - mark - 1, "what is proposed and not chosen is open")
        invariant(not self.open or mark + 1 in self.open, "the first open slot follows the mark")
        self.confirmations.check()
