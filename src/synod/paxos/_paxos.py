"""Multi-Paxos for one replica: acceptor, proposer and learner in one sans-IO object.

Nothing here reads a clock, draws chance of its own, or does I/O. What rests on a write is held back until
`persisted` says that the write is durable; so a Promise, an Accepted, or a candidate's Prepare cannot leave
too early, whatever the host does.

Read `step`, then `_on_prepare` and `_on_accept` (the acceptor), `_phase_one` and `_count` (the proposer),
`_learn` (the learner), and `_suspect` (elections).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal

from synod.base import Ballot, Entry, Micros, ReplicaId, Rng, Slot, invariant

from ._acceptor import Acceptor
from ._leader import Candidacy, Progress, Proposal, Reign
from ._messages import (
    Accept,
    Accepted,
    Chosen,
    Fetch,
    Heartbeat,
    HeartbeatAck,
    PaxosMessage,
    Preempted,
    Prepare,
    Probe,
    ProbeAnswer,
    Promise,
    ReadAsk,
    ReadGrant,
    Slots,
    TakeOver,
)
from ._options import Durable, LogRead, Note, PaxosOptions, PaxosReady, Write
from ._quorum import is_quorum
from ._reads import Asks, Pending

RoleName = Literal["leader", "follower", "electing"]

READS_PENDING_MAX: Final = 4_096
"""Asks that wait at a leader; each peer has one at a time, so that only a leader cut off gathers any."""


class Paxos:
    """One participant.

    Args:
        me: this replica.
        voters: the members that count, this replica among them unless it is a learner.
        options: periods and bounds.
        durable: what the log gave back.
        applied: the slot of the state that the host begins with.
        rng: chance for timeouts.
        now: microseconds.
        learners: members that learn and never count.

    Invariant: see `Acceptor`, `Candidacy` and `Reign`; at most one of candidacy and reign exists.
    """

    def __init__(
        self,
        *,
        me: ReplicaId,
        voters: tuple[ReplicaId, ...],
        options: PaxosOptions,
        durable: Durable,
        applied: Slot,
        rng: Rng,
        now: Micros,
        learners: tuple[ReplicaId, ...] = (),
    ) -> None:
        self.me = me
        self.voters = voters
        self.options = options
        self.leader: ReplicaId | None = None
        self.abstaining = False
        self._peers = tuple(sorted({*voters, *learners} - {me}))
        self._votes = me in voters
        self._acceptor = Acceptor(durable, applied, options.cache_bytes_max)
        self._rng = rng
        self._out = PaxosReady()
        self._connected: dict[ReplicaId, None] = {}
        # Writing: what is dirty goes into the next write; messages that rest on it wait in `_held`.
        self._dirty_entries: dict[Slot, Entry] = {}
        self._dirty = False
        self._next_write = 1
        self._persisted = 0
        self._writing: deque[tuple[int, Micros]] = deque()
        self._held: deque[tuple[int, ReplicaId, PaxosMessage]] = deque()
        self._own_accepts: deque[tuple[int, Ballot, Slot]] = deque()
        self._own_promise: tuple[int, Ballot] | None = None
        self._fetched: deque[tuple[int, Slot]] = deque()
        # Following.
        self._heard_at = now
        self._leader_connected = False
        self._last_seq = 0
        self._fetch: tuple[ReplicaId, Micros] | None = None
        self._fetch_answers: dict[int, tuple[ReplicaId, Slot]] = {}
        self._read_id = 0
        # Electing.
        self._highest_seen = durable.promised
        self._probe_round = 0
        self._probe_answers: dict[ReplicaId, bool] = {}
        self._probing = False
        self._suspect_at = now + (self._random(options.probe_timeout) if len(voters) > 1 else 0)
        self._candidacy: Candidacy | None = None
        self._reign: Reign | None = None
        # Reading.
        self._asks = Asks(rng.getrandbits(31))
        self._pending: deque[Pending] = deque()
        self._early: dict[ReplicaId, ReadAsk] = {}
        self._now = now

    # -- what the host may know ----------------------------------------------------------------------------

    @property
    def role(self) -> RoleName:
        """What this replica does at the moment."""
        if self._reign is not None:
            return "leader"
        return "follower" if self.leader is not None else "electing"

    @property
    def ballot(self) -> Ballot:
        """The highest ballot promised here."""
        return self._acceptor.promised

    @property
    def chosen_mark(self) -> Slot:
        """Everything up to here is chosen, and known here."""
        return self._acceptor.mark

    @property
    def serving(self) -> bool:
        """Whether this leader's opening batch and everything before it is handed out."""
        reign = self._reign
        return reign is not None and 0 < reign.opening_slot <= self._acceptor.delivered

    @property
    def needs_opening(self) -> bool:
        """Whether the host is to call `propose_opening`."""
        return self._reign is not None and self._reign.opening_slot == 0

    @property
    def can_propose(self) -> bool:
        """Whether a slot is free for the next batch."""
        reign = self._reign
        return (
            reign is not None
            and self.serving
            and not reign.handing_over
            and len(reign.open) < self.options.in_flight_slots_max
        )

    @property
    def quorum_connected(self) -> bool:
        """Whether the leader, this or the one that is heard, answers and is answered by a quorum."""
        if self._reign is not None:
            return self._reign.quorum_connected(self.me, self.options.election_timeout, self._now)
        return self.leader is not None and self._leader_connected

    def lag(self, peer: ReplicaId) -> int | None:
        """How many chosen slots a peer is behind, as the leader knows it; None at others."""
        if self._reign is None or peer not in self._reign.progress:
            return None
        return max(0, self._acceptor.mark - self._reign.progress[peer].mark)

    # -- inputs --------------------------------------------------------------------------------------------

    def connected(self, peer: ReplicaId, now: Micros) -> None:
        """Messages to and from a peer pass from now on."""
        self._now = now
        self._connected[peer] = None
        if self._reign is not None:
            self._send_heartbeat(peer)
            self._send_open(peer, now)
        elif self._candidacy is not None:
            self._send(peer, Prepare(self._candidacy.ballot, self._acceptor.mark + 1))
        elif self.leader is None:
            self._suspect_at = min(self._suspect_at, now + self._random(self.options.heartbeat // 4))
        if peer == self.leader:
            self._asks.doubt()

    def disconnected(self, peer: ReplicaId, now: Micros) -> None:
        """Messages sent to the peer may be lost; when it led, look for another leader at once."""
        self._now = now
        self._connected.pop(peer, None)
        if self._fetch is not None and self._fetch[0] == peer:
            self._fetch = None
        if self._candidacy is not None:
            self._candidacy.forget(peer)
        self._early.pop(peer, None)
        self._pending = deque(pending for pending in self._pending if pending.peer != peer)
        if self._reign is not None:
            self._reign.progress.pop(peer, None)
        elif peer == self.leader:
            self._lose_leader("its connection closed", now)
            # A short random wait, so that not all raise ballots at the same moment.
            self._suspect_at = now + self._random(self.options.heartbeat // 8)

    def step(self, peer: ReplicaId, message: PaxosMessage, now: Micros) -> None:
        """One message of a peer."""
        self._now = now
        if peer not in self._peers:
            return
        match message:
            case Accept():
                self._on_accept(peer, message, now)
            case Accepted():
                self._on_accepted(peer, message, now)
            case Chosen(ballot, mark):
                if self._hear(peer, ballot, now):
                    self._learn(peer, ballot, mark, now)
            case Heartbeat():
                self._on_heartbeat(peer, message, now)
            case HeartbeatAck():
                self._on_heartbeat_ack(peer, message, now)
            case ReadAsk():
                self._on_read_ask(peer, message)
            case ReadGrant(id_, mark):
                self._grant(id_, mark)
            case Prepare():
                self._on_prepare(peer, message, now)
            case Promise():
                self._on_promise(peer, message, now)
            case Preempted(ballot):
                self._saw(ballot, now)
            case Probe(round_):
                gone = self._leader_gone(now) and not self._stalled(now)
                self._send(peer, ProbeAnswer(round_, gone, self._acceptor.promised, self._acceptor.mark))
            case ProbeAnswer():
                self._on_probe_answer(peer, message, now)
            case Fetch(slot):
                self._on_fetch(peer, slot)
            case Slots():
                self._on_slots(peer, message, now)
            case TakeOver(ballot):
                if ballot == self._acceptor.promised and self._reign is None and self._votes:
                    self._note("election", f"replica {peer} hands over")
                    self._become_candidate(now)
        self.check()

    def persisted(self, write_id: int, now: Micros) -> None:
        """This write and all before it are durable: what rests on them may be seen."""
        self._now = now
        invariant(write_id < self._next_write, "only what was handed out can be durable")
        self._persisted = max(self._persisted, write_id)
        while self._writing and self._writing[0][0] <= write_id:
            self._writing.popleft()
        while self._held and self._held[0][0] <= write_id:
            _, peer, message = self._held.popleft()
            self._send(peer, message)
        if self._own_promise is not None and self._own_promise[0] <= write_id:
            _, ballot = self._own_promise
            self._own_promise = None
            self._promised_myself(ballot)
        while self._own_accepts and self._own_accepts[0][0] <= write_id:
            _, ballot, slot = self._own_accepts.popleft()
            self._count(self.me, ballot, slot)
        while self._fetched and self._fetched[0][0] <= write_id:
            _, slot = self._fetched.popleft()
            self._acceptor.mark = max(self._acceptor.mark, slot)
        if self._candidacy is not None:
            self._phase_one(now)
        self.check()

    def propose(self, value: bytes, now: Micros) -> Slot:
        """Propose a value for the next slot; only when `can_propose`."""
        self._now = now
        invariant(self.can_propose, "only a serving leader with a free slot proposes")
        return self._propose(value, now)

    def propose_opening(self, value: bytes, now: Micros) -> Slot:
        """Propose the opening batch of this ballot; only when `needs_opening`."""
        self._now = now
        reign = self._reign
        invariant(reign is not None and reign.opening_slot == 0, "a ballot opens once")
        slot = self._propose(value, now)
        if self._reign is not None:
            self._reign.opening_slot = slot
        return slot

    def ask(self, now: Micros) -> int:
        """Ask what must be applied before reads that have arrived by now may be served."""
        self._now = now
        return self._asks.ask()

    def hand_over(self, now: Micros) -> None:
        """Stop proposing, and have the best peer elect itself once everything open is chosen."""
        self._now = now
        if self._reign is not None and len(self.voters) > 1:
            self._reign.handing_over = True
            self._reign.handing_over_until = now + 2 * self.options.election_timeout

    def abstain(self, abstaining: bool, now: Micros) -> None:
        """Take no part in ballots while there is no room to write; an acceptor may always be silent."""
        self._now = now
        if abstaining and not self.abstaining:
            self.hand_over(now)
        self.abstaining = abstaining

    def log_read(self, request_id: int, entries: Sequence[Entry], now: Micros) -> None:
        """The answer to a LogRead."""
        self._now = now
        peer, slot = self._fetch_answers.pop(request_id)
        found = [entry for entry in entries if entry.slot <= self._acceptor.mark]
        if not found or found[0].slot != slot:
            self._send(peer, Slots(slot, snapshot=True, entries=()))
        else:
            self._send(peer, Slots(slot, False, tuple(found)))

    def installed(self, slot: Slot, now: Micros) -> None:
        """The state up to `slot` came from a snapshot, and the log begins after it."""
        self._now = now
        self._acceptor.install(slot)
        self._dirty_entries = {s: e for s, e in self._dirty_entries.items() if s > slot}
        self._fetch = None
        self.check()

    def log_trimmed(self, slot: Slot) -> None:
        """Entries up to `slot` are no longer in the log."""
        self._acceptor.log_start = max(self._acceptor.log_start, min(slot, self._acceptor.delivered))

    def tick(self, now: Micros) -> None:
        """Time has passed."""
        self._now = now
        reign, candidacy = self._reign, self._candidacy
        if reign is not None:
            self._tick_reign(reign, now)
        elif candidacy is not None:
            if now - candidacy.started_at >= self.options.election_timeout:
                self._candidacy = None
                self._note("election", f"ballot {candidacy.ballot} got no quorum")
                self._retry_later(now)
            elif now - candidacy.asked_at >= self.options.probe_timeout:
                candidacy.asked_at = now
                self._send_prepares(candidacy)
                self._phase_one(now)
        elif now >= self._suspect_at:
            self._suspect(now)
        if self._asks.latest and now - self._asks.sent_at >= 2 * self.options.heartbeat:
            self._asks.doubt()
        if self._fetch is not None and now - self._fetch[1] >= self.options.election_timeout:
            self._fetch = None
        self.check()

    def next_deadline(self) -> Micros:
        """When `tick` is due."""
        if self._reign is not None:
            due = self._reign.heartbeat_at + self.options.heartbeat
        elif self._candidacy is not None:
            due = self._candidacy.asked_at + self.options.probe_timeout
        else:
            due = self._suspect_at
        if self._asks.latest:
            due = min(due, self._asks.sent_at + 2 * self.options.heartbeat)
        if self._fetch is not None:
            due = min(due, self._fetch[1] + self.options.election_timeout)
        return max(due, self._now)

    def ready(self) -> PaxosReady:
        """What should happen now; drains."""
        now = self._now
        if self._reign is not None:
            self._serve_asks(self._reign, now)
        elif self._asks.unsent() and self.leader in self._connected:
            self._asks.sent, self._asks.sent_at = self._asks.latest, now
            votes = self._votes and not self._acceptor.unknown and not self.abstaining
            self._send(self.leader, ReadAsk(self._acceptor.promised, self._asks.latest, votes))
        if self._dirty:
            entries = tuple(self._dirty_entries[slot] for slot in sorted(self._dirty_entries))
            self._out.writes.append(Write(self._next_write, self._acceptor.promised, self._acceptor.mark, entries))
            self._writing.append((self._next_write, now))
            self._next_write += 1
            self._dirty_entries = {}
            self._dirty = False
        self._out.chosen.extend(self._acceptor.deliver())
        out, self._out = self._out, PaxosReady()
        return out

    # -- sending and writing -------------------------------------------------------------------------------

    def _send(self, peer: ReplicaId | None, message: PaxosMessage) -> None:
        if peer is not None and peer in self._connected:
            self._out.messages.append((peer, message))

    def _send_durable(self, peer: ReplicaId, message: PaxosMessage) -> None:
        """Send once everything that was changed so far is durable."""
        if self._dirty:
            self._held.append((self._next_write, peer, message))
        elif self._next_write - 1 > self._persisted:
            self._held.append((self._next_write - 1, peer, message))
        else:
            self._send(peer, message)

    def _write_entry(self, entry: Entry) -> None:
        self._acceptor.accept(entry)
        self._dirty_entries[entry.slot] = entry
        self._dirty = True

    def _stalled(self, now: Micros) -> bool:
        """Whether the disk hangs: who cannot write must neither lead nor raise ballots."""
        return bool(self._writing) and now - self._writing[0][1] > self.options.election_timeout

    def _note(self, kind: str, text: str) -> None:
        self._out.notes.append(Note(kind, text))

    def _random(self, below: Micros) -> Micros:
        return self._rng.randrange(0, max(1, below))

    # -- acceptor ------------------------------------------------------------------------------------------

    def _on_prepare(self, peer: ReplicaId, message: Prepare, now: Micros) -> None:
        if self.abstaining or not self._votes:
            return
        if not self._promise(message.ballot, now):
            self._send_durable(peer, Preempted(self._acceptor.promised))
            return
        for part in self._acceptor.promises(message.ballot, message.from_slot, self.options.promise_bytes_max):
            self._send_durable(peer, part)

    def _promise(self, ballot: Ballot, now: Micros) -> bool:
        """P1a. A higher ballot ends our own candidacy or reign, and the leader that we heard."""
        before = self._acceptor.promised
        if not self._acceptor.promise(ballot):
            return False
        if ballot > before:
            self._dirty = True
            self._highest_seen = max(self._highest_seen, ballot)
            # Heartbeats are numbered per reign: what an earlier reign of the same leader had reached must not
            # pass for an answer in this one (reads were granted a state older than their ask).
            self._last_seq = 0
            if ballot.replica != self.me:
                self._resign(f"ballot {ballot} was raised")
            if self.leader is not None and self.leader != ballot.replica:
                self.leader = None
            self._wait_for_leader(now)
        return True

    def _on_accept(self, peer: ReplicaId, message: Accept, now: Micros) -> None:
        if self.abstaining:
            return
        if not self._promise(message.ballot, now):
            self._send_durable(peer, Preempted(self._acceptor.promised))
            return
        self._hear(peer, message.ballot, now)
        held = self._acceptor.held_at(message.slot)
        if message.slot > self._acceptor.delivered and held < message.ballot:
            if message.slot <= self._acceptor.mark:
                invariant(self._acceptor.entries[message.slot].value == message.value, "a chosen slot keeps its value")
            else:
                self._write_entry(Entry(message.slot, message.ballot, message.value))
        if self._votes:
            self._send_durable(peer, Accepted(message.ballot, message.slot, self._last_seq))
        self._learn(peer, message.ballot, message.mark, now)

    # -- proposer: phase 1 ---------------------------------------------------------------------------------

    def _become_candidate(self, now: Micros) -> None:
        """Raise a ballot: promise it to ourselves durably, then ask the others."""
        highest = max(self._highest_seen, self._acceptor.promised)
        ballot = Ballot(highest.round + 1, self.me)
        self._probing = False
        self._promise(ballot, now)
        self._candidacy = Candidacy(ballot, self.voters, now)
        self._own_promise = (self._next_write, ballot)
        self._note("election", f"ballot {ballot} is raised")

    def _promised_myself(self, ballot: Ballot) -> None:
        candidacy = self._candidacy
        if candidacy is None or candidacy.ballot != ballot:
            return
        for part in self._acceptor.promises(ballot, self._acceptor.mark + 1, 1 << 62):
            candidacy.take(self.me, part)
        self._send_prepares(candidacy)

    def _send_prepares(self, candidacy: Candidacy) -> None:
        if self._own_promise is not None:
            return
        complete = candidacy.complete()
        for voter in self.voters:
            if voter != self.me and voter not in complete:
                self._send(voter, Prepare(candidacy.ballot, self._acceptor.mark + 1))

    def _on_promise(self, peer: ReplicaId, message: Promise, now: Micros) -> None:
        candidacy = self._candidacy
        if candidacy is None or message.ballot != candidacy.ballot:
            return
        candidacy.take(peer, message)
        self._phase_one(now)

    def _phase_one(self, now: Micros) -> None:
        """Lead when a quorum has promised, everything known chosen is learned, and every open slot is known."""
        candidacy = self._candidacy
        if candidacy is None or self.me not in candidacy.complete() or not candidacy.has_quorum():
            return
        mark, holder = candidacy.best_mark()
        if mark > self._acceptor.mark:
            self._fetch_from(holder, now)
            return
        proposals = candidacy.open_slots(self._acceptor.mark)
        if proposals is None:
            return
        self._candidacy = None
        self.leader = self.me
        reign = Reign(candidacy.ballot, self.voters, self._acceptor.mark + 1, list(candidacy.complete()), now)
        self._reign = reign
        self._pending.clear()
        self._asks.doubt()
        self._note("election", f"replica {self.me} leads with ballot {candidacy.ballot}")
        for slot, value in proposals:
            invariant(slot == reign.next_slot, "open slots are proposed without a gap")
            self._propose(value, now)
        self._beat(reign, now)

    # -- proposer: phase 2 ---------------------------------------------------------------------------------

    def _propose(self, value: bytes, now: Micros) -> Slot:
        reign = self._reign
        invariant(reign is not None, "only a leader proposes")
        assert reign is not None
        entry = Entry(reign.next_slot, reign.ballot, value)
        reign.next_slot += 1
        reign.open[entry.slot] = Proposal(entry, now)
        self._write_entry(entry)
        if self._votes:
            self._own_accepts.append((self._next_write, reign.ballot, entry.slot))
        for peer in self._peers:
            self._send_accept(reign, peer, entry)
        return entry.slot

    def _send_accept(self, reign: Reign, peer: ReplicaId, entry: Entry) -> None:
        """Send a value, unless the peer is so far behind that it does better to fetch."""
        if peer not in self._connected:
            return
        progress = reign.peer(peer, self._now)
        if progress.in_flight > self.options.send_window_bytes:
            return
        progress.in_flight += len(entry.value)
        self._send(peer, Accept(reign.ballot, self._acceptor.mark, entry.slot, entry.value))

    def _send_open(self, peer: ReplicaId, now: Micros) -> None:
        reign = self._reign
        if reign is None:
            return
        reign.peer(peer, now).in_flight = 0
        for proposal in reign.open.values():
            if peer not in proposal.accepted:
                self._send_accept(reign, peer, proposal.entry)

    def _on_accepted(self, peer: ReplicaId, message: Accepted, now: Micros) -> None:
        reign = self._reign
        if reign is None or message.ballot != reign.ballot:
            return
        progress = reign.peer(peer, now)
        progress.acked_at = now
        progress.seq = max(progress.seq, message.seen)
        progress.mark = max(progress.mark, message.slot - 1)
        proposal = reign.open.get(message.slot)
        progress.in_flight = 0 if proposal is None else max(0, progress.in_flight - len(proposal.entry.value))
        if peer in self.voters:
            self._count(peer, message.ballot, message.slot)

    def _count(self, voter: ReplicaId, ballot: Ballot, slot: Slot) -> None:
        """A voter holds a slot at our ballot, durably. The transition to chosen happens once, in slot order."""
        reign = self._reign
        if reign is None or ballot != reign.ballot:
            return
        proposal = reign.open.get(slot)
        if proposal is None:
            return
        proposal.accepted[voter] = None
        mark = self._acceptor.mark
        while True:
            first = reign.open.get(self._acceptor.mark + 1)
            if first is None or not is_quorum(first.accepted, self.voters):
                break
            del reign.open[self._acceptor.mark + 1]
            self._acceptor.mark += 1
        if self._acceptor.mark > mark:
            for peer in self._peers:
                self._send(peer, Chosen(reign.ballot, self._acceptor.mark))

    def _tick_reign(self, reign: Reign, now: Micros) -> None:
        if self._stalled(now):
            # A disk that hangs must not keep a leader in office: silence lets the others elect.
            self._resign("its disk hangs")
            self._retry_later(now)
            return
        timeout = self.options.election_timeout
        if not reign.quorum_connected(self.me, 4 * timeout, now) and now - reign.started_at > 4 * timeout:
            self._resign("it has lost its quorum")
            self._retry_later(now)
            return
        if now - reign.heartbeat_at >= self.options.heartbeat:
            self._beat(reign, now)
        for proposal in reign.open.values():
            if now - proposal.sent_at >= 2 * self.options.heartbeat:
                proposal.sent_at = now
                for peer in self._peers:
                    if peer not in proposal.accepted:
                        self._send_accept(reign, peer, proposal.entry)
        if reign.handing_over and now >= reign.handing_over_until:
            reign.handing_over = False  # nobody took over: better this leader than none
        if reign.handing_over and not reign.open:
            heirs = [
                (progress.mark, peer)
                for peer, progress in reign.progress.items()
                if peer in self._connected and peer in self.voters
            ]
            if heirs:
                self._send(max(heirs)[1], TakeOver(reign.ballot))

    def _beat(self, reign: Reign, now: Micros) -> None:
        reign.seq += 1
        reign.heartbeat_at = now
        reign.confirm_wanted = False
        for peer in self._peers:
            self._send_heartbeat(peer)

    def _send_heartbeat(self, peer: ReplicaId) -> None:
        reign = self._reign
        if reign is not None:
            connected = reign.quorum_connected(self.me, self.options.election_timeout, self._now)
            self._send(peer, Heartbeat(reign.ballot, self._acceptor.mark, reign.seq, connected))

    def _on_heartbeat_ack(self, peer: ReplicaId, message: HeartbeatAck, now: Micros) -> None:
        reign = self._reign
        if reign is None or message.ballot != reign.ballot:
            self._saw(message.ballot, now)
            return
        progress: Progress = reign.peer(peer, now)
        progress.acked_at = now
        progress.mark = max(progress.mark, message.mark)
        if message.votes:
            progress.seq = max(progress.seq, message.seq)

    # -- following -----------------------------------------------------------------------------------------

    def _hear(self, peer: ReplicaId, ballot: Ballot, now: Micros) -> bool:
        """A message that only the leader of `ballot` sends. False when that ballot is past."""
        if ballot < self._acceptor.promised or ballot.replica != peer:
            return False
        if self._promise(ballot, now):
            self._candidacy = None
            self._probing = False
            if self.leader != peer:
                self.leader = peer
                self._leader_connected = True
                self._asks.doubt()
            self._heard_at = now
            self._wait_for_leader(now)
        return True

    def _wait_for_leader(self, now: Micros) -> None:
        timeout = self.options.election_timeout
        self._suspect_at = now + timeout + self._random(timeout // 2)

    def _on_heartbeat(self, peer: ReplicaId, message: Heartbeat, now: Micros) -> None:
        if not self._hear(peer, message.ballot, now):
            self._send(peer, HeartbeatAck(self._acceptor.promised, 0, 0, votes=False))
            return
        self._last_seq = max(self._last_seq, message.seq)
        self._leader_connected = message.quorum_connected
        if not message.quorum_connected:
            self._suspect_at = min(self._suspect_at, now + self._random(self.options.election_timeout))
        self._learn(peer, message.ballot, message.mark, now)
        votes = self._votes and not self._acceptor.unknown and not self.abstaining
        self._send(peer, HeartbeatAck(message.ballot, message.seq, self._acceptor.mark, votes))

    def _learn(self, peer: ReplicaId, ballot: Ballot, mark: Slot, now: Micros) -> None:
        """Take the leader's mark where we hold its ballot; fetch what we do not."""
        if self._acceptor.learn_mark(ballot, mark):
            self._fetch_from(peer, now)

    def _fetch_from(self, peer: ReplicaId, now: Micros) -> None:
        if self._fetch is None and not self._fetched and peer in self._connected:
            self._fetch = (peer, now)
            self._send(peer, Fetch(self._acceptor.mark + 1))

    def _on_fetch(self, peer: ReplicaId, slot: Slot) -> None:
        if slot > self._acceptor.mark:
            self._send(peer, Slots(slot, snapshot=False, entries=()))
        elif slot <= self._acceptor.log_start:
            self._send(peer, Slots(slot, snapshot=True, entries=()))
        else:
            entries = self._acceptor.cached(slot, self.options.fetch_bytes_max)
            if entries is not None:
                self._send(peer, Slots(slot, False, entries))
            else:
                self._read_id += 1
                self._fetch_answers[self._read_id] = (peer, slot)
                self._out.log_reads.append(LogRead(self._read_id, slot, self.options.fetch_bytes_max))

    def _on_slots(self, peer: ReplicaId, message: Slots, now: Micros) -> None:
        """Chosen entries: hold them, and hand them out once they are durable here."""
        if self._fetch is not None and self._fetch[0] == peer:
            self._fetch = None
        if message.snapshot:
            if message.slot == self._acceptor.mark + 1:
                self._out.snapshot_wanted = peer
            return
        if self.abstaining:
            return
        upto = self._acceptor.mark
        for entry in message.entries:
            if entry.slot <= upto:
                continue
            if entry.slot != upto + 1:
                break
            held = self._acceptor.entries.get(entry.slot)
            if held is None or held.ballot < entry.ballot:
                self._write_entry(entry)
            else:
                invariant(held.value == entry.value or held.ballot == entry.ballot, "a chosen slot keeps its value")
            upto = entry.slot
        if upto > self._acceptor.mark:
            self._dirty = True
            self._fetched.append((self._next_write, upto))
        if self._candidacy is not None:
            self._phase_one(now)

    # -- elections -----------------------------------------------------------------------------------------

    def _leader_gone(self, now: Micros) -> bool:
        """Whether, as far as this replica can tell, nobody leads who could choose anything."""
        if self._reign is not None:
            return not self._reign.quorum_connected(self.me, self.options.election_timeout, now)
        if self.leader is None or self.leader not in self._connected or not self._leader_connected:
            return True
        return now - self._heard_at >= self.options.election_timeout

    def _suspect(self, now: Micros) -> None:
        """Ask the others whether the leader is gone for them too, before any ballot is raised."""
        self._retry_later(now)
        if not self._votes or self.abstaining or self._stalled(now) or not self._leader_gone(now):
            return
        if self.leader is not None:
            self._lose_leader("it was silent" if self._leader_connected else "it has lost its quorum", now)
        self._probe_round += 1
        self._probing = True
        self._probe_answers = {self.me: True}
        for voter in self.voters:
            if voter != self.me:
                self._send(voter, Probe(self._probe_round))
        self._probed(now)

    def _retry_later(self, now: Micros) -> None:
        probe = self.options.probe_timeout
        self._suspect_at = now + probe // 2 + self._random(probe)

    def _on_probe_answer(self, peer: ReplicaId, message: ProbeAnswer, now: Micros) -> None:
        self._highest_seen = max(self._highest_seen, message.promised)
        if message.mark > self._acceptor.mark and self.leader is None:
            self._fetch_from(peer, now)
        if not self._probing or message.round != self._probe_round:
            return
        if message.mark > self._acceptor.mark + self.options.candidate_lag_slots_max:
            self._probing = False  # that one does better; what is missing here is on its way
            return
        self._probe_answers[peer] = message.gone
        self._probed(now)

    def _probed(self, now: Micros) -> None:
        agreeing = [voter for voter, gone in self._probe_answers.items() if gone]
        if self._probing and is_quorum(agreeing, self.voters):
            self._become_candidate(now)

    def _lose_leader(self, why: str, now: Micros) -> None:
        self._note("election", f"replica {self.leader} seems gone: {why}")
        self.leader = None
        self._asks.doubt()
        self._suspect_at = min(self._suspect_at, now + self._random(self.options.probe_timeout))

    def _saw(self, ballot: Ballot, now: Micros) -> None:
        """Somebody has promised a higher ballot: ours can choose nothing any more."""
        if ballot <= self._acceptor.promised:
            return
        self._highest_seen = max(self._highest_seen, ballot)
        if self._reign is not None or self._candidacy is not None:
            self._resign(f"ballot {ballot} was promised")
            self._retry_later(now)

    def _resign(self, why: str) -> None:
        """Lead no more, or stop trying to."""
        if self._reign is not None:
            self._note("election", f"replica {self.me} leads no more: {why}")
        self._reign = None
        self._candidacy = None
        self._pending.clear()
        self._early.clear()
        self._asks.doubt()
        if self.leader == self.me:
            self.leader = None

    # -- reading -------------------------------------------------------------------------------------------

    def _on_read_ask(self, peer: ReplicaId, message: ReadAsk) -> None:
        reign = self._reign
        if reign is None:
            return
        if message.ballot > reign.ballot:
            self._saw(message.ballot, self._now)
            return
        if not self.serving:
            self._early[peer] = message
            return
        showed = [self.me, peer] if message.votes and message.ballot == reign.ballot else [self.me]
        if is_quorum(showed, self.voters):
            self._send(peer, ReadGrant(message.id, self._acceptor.mark))
        elif len(self._pending) < READS_PENDING_MAX:
            self._pending.append(Pending(peer, message.id, reign.seq + 1, self._acceptor.mark))
            reign.confirm_wanted = True

    def _serve_asks(self, reign: Reign, now: Micros) -> None:
        """The leader's own asks join those of its peers; answer those whose heartbeat a quorum has answered."""
        if not self.serving:
            return
        if self._early:
            early, self._early = self._early, {}
            for peer, message in early.items():
                self._on_read_ask(peer, message)
        if self._asks.unsent():
            self._asks.sent, self._asks.sent_at = self._asks.latest, now
            if is_quorum([self.me], self.voters):
                self._grant(self._asks.latest, self._acceptor.mark)
            else:
                self._pending.append(Pending(self.me, self._asks.latest, reign.seq + 1, self._acceptor.mark))
                reign.confirm_wanted = True
        if reign.confirm_wanted:
            self._beat(reign, now)
        if not self._pending:
            return
        confirmed = reign.confirmed_seq(self.me)
        while self._pending and self._pending[0].seq <= confirmed:
            ask = self._pending.popleft()
            if ask.peer == self.me:
                self._grant(ask.id, ask.mark)
            else:
                self._send(ask.peer, ReadGrant(ask.id, ask.mark))

    def _grant(self, upto: int, mark: Slot) -> None:
        self._out.grants.extend((ask, mark) for ask in self._asks.granted(upto))

    # -- invariants ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert what must hold between any two steps."""
        if not self.options.checks:
            return
        self._acceptor.check()
        invariant(self._reign is None or self._candidacy is None, "a leader is no candidate")
        if self._reign is not None:
            invariant(self._acceptor.promised == self._reign.ballot, "a leader has promised no higher ballot")
            invariant(self._reign.next_slot > self._acceptor.mark, "a leader proposes past the chosen mark")
        invariant(self._persisted < self._next_write, "only what was handed out can be durable")
