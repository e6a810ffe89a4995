"""The proposer: phase 1 as a `Candidacy`, phase 2 as a `Reign`.

Phase 1 runs once per ballot for all open slots; a reign then proposes slot after slot without it.
Ref: Lamport 2001 s3 (a leader executes phase 1 for infinitely many instances at once).
"""

from __future__ import annotations

from collections.abc import Sequence

from synod.base import Ballot, Entry, Micros, ReplicaId, Slot

from ._messages import Promise
from ._quorum import is_quorum, quorum_size


class Answer:
    """One acceptor's Promise, as far as its parts have come."""

    __slots__ = ("complete", "entries", "mark", "parts", "unknown")

    def __init__(self, mark: Slot) -> None:
        self.mark = mark
        self.parts = 0
        self.complete = False
        self.entries: list[Entry] = []
        self.unknown: frozenset[Slot] = frozenset()


class Candidacy:
    """Phase 1 of one ballot.

    Invariant: an acceptor counts only when every part of its Promise has come.
    """

    __slots__ = ("answers", "asked_at", "ballot", "started_at", "voters")

    def __init__(self, ballot: Ballot, voters: Sequence[ReplicaId], now: Micros) -> None:
        self.ballot = ballot
        self.voters = tuple(voters)
        self.started_at = now
        self.asked_at = now
        self.answers: dict[ReplicaId, Answer] = {}

    def take(self, peer: ReplicaId, promise: Promise) -> None:
        """Note one part of a Promise; parts out of order are ignored, their sender is asked again."""
        if promise.part == 0:
            self.answers[peer] = Answer(promise.mark)
        answer = self.answers.get(peer)
        if answer is None or answer.complete or promise.part != answer.parts:
            return
        answer.parts += 1
        answer.entries.extend(promise.entries)
        if promise.last:
            answer.unknown = frozenset(promise.unknown)
            answer.complete = True

    def forget(self, peer: ReplicaId) -> None:
        """A peer is gone: phase 1 goes on without what it promised."""
        self.answers.pop(peer, None)

    def complete(self) -> dict[ReplicaId, Answer]:
        """The answers that count."""
        return {peer: answer for peer, answer in self.answers.items() if answer.complete}

    def has_quorum(self) -> bool:
        """Whether enough acceptors promised."""
        return is_quorum(self.complete().keys(), self.voters)

    def best_mark(self) -> tuple[Slot, ReplicaId]:
        """The highest chosen mark among the promises, and who has it: nothing is proposed at or below it."""
        return max((answer.mark, peer) for peer, answer in self.complete().items())

    def open_slots(self, mark: Slot) -> list[tuple[Slot, bytes]] | None:
        """What must be proposed again past `mark`: per slot the value of the highest ballot reported (P2c).

        Gaps are filled with no-ops. None when for some slot too few acceptors *know* what they accepted:
        an acceptor with a rotten record must not pass for one that accepted nothing.
        """
        answers = self.complete()
        last = max(
            (slot for answer in answers.values() for slot in (*(e.slot for e in answer.entries), *answer.unknown)),
            default=mark,
        )
        best: dict[Slot, Entry] = {}
        for answer in answers.values():
            for entry in answer.entries:
                held = best.get(entry.slot)
                if held is None or entry.ballot > held.ballot:
                    best[entry.slot] = entry
        proposals: list[tuple[Slot, bytes]] = []
        for slot in range(mark + 1, last + 1):
            know = [peer for peer, answer in answers.items() if slot not in answer.unknown and answer.mark < slot]
            if not is_quorum(know, self.voters):
                return None
            found = best.get(slot)
            proposals.append((slot, b"" if found is None else found.value))
        return proposals


class Progress:
    """What a leader knows of one peer."""

    __slots__ = ("acked_at", "in_flight", "mark", "seq")

    def __init__(self, acked_at: Micros) -> None:
        self.acked_at = acked_at
        self.seq = 0
        self.mark: Slot = 0
        self.in_flight = 0


class Proposal:
    """A slot that is proposed and not chosen yet."""

    __slots__ = ("accepted", "entry", "sent_at")

    def __init__(self, entry: Entry, now: Micros) -> None:
        self.entry = entry
        self.accepted: dict[ReplicaId, None] = {}
        self.sent_at = now


class Reign:
    """Phase 2 of one ballot: proposals, and who acknowledges them.

    Invariant: `open` holds exactly the slots from the chosen mark + 1 to `next_slot` - 1, in order.
    """

    __slots__ = (
        "ballot",
        "confirm_wanted",
        "handing_over",
        "handing_over_until",
        "heartbeat_at",
        "next_slot",
        "open",
        "opening_slot",
        "progress",
        "seq",
        "started_at",
        "voters",
    )

    def __init__(
        self, ballot: Ballot, voters: Sequence[ReplicaId], next_slot: Slot, promised: Sequence[ReplicaId], now: Micros
    ) -> None:
        self.ballot = ballot
        self.voters = tuple(voters)
        self.next_slot = next_slot
        self.open: dict[Slot, Proposal] = {}
        self.opening_slot: Slot = 0
        self.seq = 0
        self.started_at = now
        self.heartbeat_at: Micros = now
        self.handing_over = False
        self.handing_over_until: Micros = 0
        self.confirm_wanted = False
        # Who promised has just been heard: the reign begins quorum-connected.
        self.progress: dict[ReplicaId, Progress] = {peer: Progress(now) for peer in promised}

    def peer(self, peer: ReplicaId, now: Micros) -> Progress:
        """What is known of a peer; a new one has just been heard."""
        progress = self.progress.get(peer)
        if progress is None:
            progress = self.progress[peer] = Progress(now)
        return progress

    def quorum_connected(self, me: ReplicaId, timeout: Micros, now: Micros) -> bool:
        """Whether a quorum, this leader included, has answered within the timeout."""
        near = sum(
            1
            for voter in self.voters
            if voter == me or (voter in self.progress and now - self.progress[voter].acked_at <= timeout)
        )
        return near >= quorum_size(len(self.voters))

    def confirmed_seq(self, me: ReplicaId) -> int:
        """The highest heartbeat that a quorum, this leader included, has answered."""
        seqs = sorted(
            (
                self.seq if voter == me else (self.progress[voter].seq if voter in self.progress else 0)
                for voter in self.voters
            ),
            reverse=True,
        )
        return seqs[quorum_size(len(self.voters)) - 1]
