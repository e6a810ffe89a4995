"""Multi-Paxos for one replica: acceptor, proposer, learner and elections composed into one sans-IO object.

Nothing here reads a clock, draws chance of its own, or does I/O. What rests on a write goes through the `Gate`
and leaves once `persisted` says that the write is durable; so a Promise, an Accepted, or a candidate's Prepare
cannot leave too early, whatever the host does.

Read `step` first, then `_on_prepare` and `_on_accept` (the acceptor), `_phase_one` and `_count` (the proposer),
`_on_told` and `_on_slots` (the learner), `_suspect` (elections), `_serve_asks` (reads), `_reconfigure` (members).

What each role makes of each message; empty: the message is ignored, because it is late or meant for another
role. A *follower* here is everybody who neither leads nor has raised a ballot; `!` marks what ends the role.

|              | follower                       | candidate                      | leader                         |
|--------------|--------------------------------|--------------------------------|--------------------------------|
| Probe        | gone, unless vouched or held   | gone, once its time is over    | gone, if without its quorum    |
| ProbeAnswer  | counts towards standing        | what may be fetched            |                                |
| Prepare      | Promise or Preempted           | Promise ! or Preempted         | Promise ! or Preempted         |
| Promise      |                                | counts towards phase 1         |                                |
| Accept       | Accepted or Preempted          | Accepted ! or Preempted        | Accepted ! or Preempted        |
| Accepted     |                                |                                | counts towards phase 2         |
| Preempted    | remembers the ballot           | stands down !                  | stands down !                  |
| Chosen       | learns                         | learns !                       | learns !                       |
| Heartbeat    | HeartbeatAck or Preempted      | HeartbeatAck ! or Preempted    | HeartbeatAck ! or Preempted    |
| HeartbeatAck |                                |                                | counts: connected, reads       |
| Fetch        | Slots                          | Slots                          | Slots                          |
| Slots        | learns                         | learns                         | stands down ! if superseded    |
| ReadAsk      |                                |                                | ReadGrant, when confirmed      |
| ReadGrant    | grants                         | grants                         | grants                         |
| TakeOver     | raises a ballot                |                                |                                |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from synod.base import BALLOT_ZERO, Ballot, Configuration, Entry, Micros, ReplicaId, Rng, Slot, invariant, is_change

from ._acceptor import Acceptor, new_entry
from ._election import CLOSED_CONNECTION_SPREAD, CONNECT_SPREAD, Election
from ._gate import Gate, Learned, OwnAccepted, OwnPromise, Send
from ._leader import RESEND_BACKOFF_MAX, Candidacy, Progress, Reign
from ._learner import Learner
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
from ._options import NOTHING, Durable, LogRead, Note, PaxosOptions, PaxosReady
from ._quorum import is_quorum
from ._reads import Asks

RoleName = Literal["leader", "follower", "electing"]

HAND_OVER_TIMEOUTS_MAX: Final = 2
"""Election timeouts that a hand-over may take; if nobody has taken over by then, better this leader than none."""

NEVER: Final = 1 << 62
"""A moment that does not come."""

UNCONNECTED_TIMEOUTS_MAX: Final = 4
"""Election timeouts after which a leader without a quorum stands down by itself. Longer than the others need
to replace it, so that it only matters when nobody could; it then looks for its peers as everybody does."""


class Paxos:
    """One participant.

    Args:
        me: this replica.
        configuration: the members at the slot `applied`; what was chosen after it may have changed them.
        options: periods and bounds.
        durable: what the log gave back.
        applied: the slot of the state that the host begins with.
        rng: chance for timeouts.
        now: microseconds.
        incarnation: which life of its id this replica is; another one's vote is not its own.
        disk: the number of its disk; see `Member`.

    Invariant: at most one of candidacy and reign exists, and its ballot is the one promised here.
    Invariant: a leader proposes past everything that it knows to be chosen.
    """

    def __init__(
        self,
        *,
        me: ReplicaId,
        configuration: Configuration,
        options: PaxosOptions,
        durable: Durable,
        applied: Slot,
        rng: Rng,
        now: Micros,
        incarnation: int = 1,
        disk: int = 0,
    ) -> None:
        self.me = me
        self._incarnation = incarnation
        self._disk = disk
        self.options = options
        self.abstaining = False
        self._remembers = True
        self._abstained_at = now
        self._lost_upto = durable.lost_upto
        self._repair_from: ReplicaId = me
        self._undecidable: tuple[Slot, list[ReplicaId]] | None = None
        self._now = now
        self._out = PaxosReady()
        self._connected: dict[ReplicaId, None] = {}
        self._gate = Gate()
        self._acceptor = Acceptor(durable, applied)
        self._learner = Learner(self._acceptor, durable, applied, configuration, options.cache_bytes_max)
        self._take_members()
        self._election = Election(me, options, self._acceptor.promised, rng, now)
        if len(self.voters) > 1:
            self._election.wait(now)  # time to be called by a leader that is there already
        self._woken_late = False
        self._candidacy: Candidacy | None = None
        self._reign: Reign | None = None
        self._made: Accept | None = None
        self._asks = Asks(rng.getrandbits(31))
        self._early: dict[ReplicaId, ReadAsk] = {}
        self._log_reads: dict[int, tuple[ReplicaId, Slot]] = {}
        self._last_log_read = 0

    # -- what the host may know ----------------------------------------------------------------------------

    @property
    def role(self) -> RoleName:
        """What this replica does at the moment."""
        if self._reign is not None:
            return "leader"
        return "follower" if self._election.leader is not None else "electing"

    @property
    def configuration(self) -> Configuration:
        """The members after the last slot that is known to be chosen."""
        return self._learner.configuration

    @property
    def unreadable(self) -> str | None:
        """Why this replica must stop: a chosen change of the members that this version cannot read."""
        return self._learner.unreadable

    @property
    def votes(self) -> bool:
        """Whether this replica, with this disk, is a voter."""
        return self._votes

    @property
    def changes_known(self) -> int:
        """How many changes of the members are known here, those included that are accepted and perhaps not chosen."""
        ahead = any(is_change(e.value) for e in self._acceptor.entries.values() if e.slot > self._learner.mark)
        return self._learner.configuration.generation + ahead

    @property
    def leader(self) -> ReplicaId | None:
        """The leader that is heard, this replica itself when it leads."""
        return self.me if self._reign is not None else self._election.leader

    @property
    def heard_at(self) -> Micros:
        """When the leader was heard last, by one that follows it."""
        return self._election.heard_at

    @property
    def ballot(self) -> Ballot:
        """The highest ballot promised here."""
        return self._acceptor.promised

    @property
    def chosen_mark(self) -> Slot:
        """Everything up to here is chosen, and known here."""
        return self._learner.mark

    @property
    def repairing(self) -> bool:
        """Whether state that was lost with a damaged snapshot is still being learned again: no votes until then."""
        return self._learner.mark < self._lost_upto

    @property
    def unknown(self) -> frozenset[Slot]:
        """Slots whose record is damaged and not repaired yet."""
        return frozenset(self._acceptor.unknown)

    @property
    def serving(self) -> bool:
        """Whether this leader's opening slot and everything before it is handed out."""
        reign = self._reign
        return reign is not None and 0 < reign.opening_slot <= self._learner.delivered

    @property
    def needs_opening(self) -> bool:
        """Whether the host is to call `propose_opening`."""
        return self._reign is not None and self._reign.opening_slot == 0 and not self._reign.changing

    @property
    def can_propose(self) -> bool:
        """Whether a slot is free for the next batch."""
        reign = self._reign
        return (
            reign is not None
            and 0 < reign.opening_slot <= self._learner.delivered
            and not reign.handing_over
            and not reign.changing
            and len(reign.open) < self.options.in_flight_slots_max
            and self._gate.unsynced < self.options.unsynced_writes_max
        )

    @property
    def at_rest(self) -> bool:
        """Whether this replica leads, and all that it proposed is chosen."""
        return self._reign is not None and not self._reign.open

    @property
    def outpaced(self) -> bool:
        """Whether the last slot was chosen without a voter that is about to answer for it; see `Reign.outpaced`."""
        return self._reign is not None and self._reign.outpaced()

    @property
    def can_change(self) -> bool:
        """Whether a change of the members may be proposed: nothing else is under way."""
        return self.can_propose and self.at_rest

    def reaches(self, voters: tuple[ReplicaId, ...]) -> bool:
        """Whether this leader is connected to a quorum of these voters, the present ones or others."""
        reign = self._reign
        return reign is not None and is_quorum(reign.near(self.me, self.options.election_timeout, self._now), voters)

    def takes_part(self, peer: ReplicaId) -> bool:
        """Whether a peer is connected to this leader, answers it, and is able to accept."""
        reign = self._reign
        return (
            reign is not None
            and peer in self._connected
            and peer in reign.near(self.me, self.options.election_timeout, self._now)
        )

    @property
    def quorum_connected(self) -> bool:
        """Whether the leader, this or the one that is heard, is answered by a quorum."""
        if self._reign is not None:
            return self._reign.quorum_connected(self.me, self.options.election_timeout, self._now)
        return self._election.leader is not None and self._election.leader_connected

    @property
    def behind(self) -> bool:
        """Whether somebody knows a slot to be chosen that is not known here."""
        return self._learner.mark < self._learner.target

    @property
    def read_only(self) -> bool:
        """Whether a leader is in touch with a quorum, and no quorum has room to accept anything: reads only."""
        reign = self._reign
        if reign is None:
            return self._election.leader is not None and self._election.leader_read_only
        timeout = self.options.election_timeout
        # Who was held up for so long has looked at nobody meanwhile: what it hears first may be that all is well.
        if self._now - reign.able_at <= timeout or self._quorum_able(reign):
            return False
        return self._confirms() and reign.quorum_heard(self.me, timeout, self._now)

    def _quorum_able(self, reign: Reign) -> bool:
        """Whether those who can accept at this moment are a quorum."""
        able = () if self.abstaining else (self.me,)
        return reign.quorum_able(able, self.options.election_timeout, self._now)

    def lag(self, peer: ReplicaId) -> int | None:
        """How many chosen slots a peer is behind, as the leader knows it; None at others."""
        if self._reign is None or peer not in self._reign.progress:
            return None
        return max(0, self._learner.mark - self._reign.progress[peer].mark)

    def silence(self, peer: ReplicaId) -> Micros | None:
        """How long a connected peer has not answered, as the leader knows it; None at others.

        One that has never answered this leader counts as silent for an election timeout when they meet.
        """
        if self._reign is None or peer not in self._reign.progress:
            return None
        return self._now - self._reign.progress[peer].acked_at

    # -- inputs: connections and messages ------------------------------------------------------------------

    def connected(self, peer: ReplicaId, now: Micros) -> None:
        """Messages to and from a peer pass from now on, in order; those of an earlier connection are lost."""
        self._now = now
        if peer in self._connected:
            self._lose_messages(peer)
        self._connected[peer] = None
        reign, candidacy = self._reign, self._candidacy
        if reign is not None:
            self._meet(reign, peer, now - self.options.election_timeout - 1)
            self._send_heartbeat(reign, peer)
            self._send_accepts(reign, peer, reign.progress[peer])
        elif candidacy is not None:
            self._send_prepare(candidacy, peer)
        elif self._election.leader == peer:
            self._asks.doubt()
        else:
            self._election.hurry(now, self.options.heartbeat // CONNECT_SPREAD)
        self.check()

    def disconnected(self, peer: ReplicaId, now: Micros) -> None:
        """The connection is gone; when it was the leader's, look for another at once."""
        self._now = now
        if peer not in self._connected:
            return
        del self._connected[peer]
        self._lose_messages(peer)
        if self._candidacy is not None:
            self._candidacy.forget(peer)
            self._phase_one()
        elif self._reign is None and peer in (self._election.leader, self._election.hold_for):
            self._note("election", f"the connection to replica {peer} closed", "connection closed")
            self._election.lose(now, self.options.heartbeat // CLOSED_CONNECTION_SPREAD)
            self._asks.doubt()
        self.check()

    def _lose_messages(self, peer: ReplicaId) -> None:
        """What was on its way to or from the peer may never arrive."""
        if self._learner.fetch_from == peer:
            self._learner.fetch_from = None
        if self._reign is not None:
            self._reign.progress.pop(peer, None)
            self._reign.confirmations.forget(peer)
            self._early.pop(peer, None)

    def step(self, peer: ReplicaId, message: PaxosMessage, now: Micros) -> None:
        """One message of a connected peer."""
        self._now = now
        if peer not in self._connected:
            return  # left over from a connection that is gone
        # No `match`: compiled, it looks up every class and attribute by its name. What every write brings comes first.
        if isinstance(message, Accept):
            self._on_accept(peer, message)
        elif isinstance(message, Accepted):
            self._on_accepted(peer, message)
        elif isinstance(message, Chosen):
            if self._follow(peer, message.ballot, None):
                self._on_told(peer, message.ballot, message.mark)
        elif isinstance(message, ReadAsk):
            self._on_read_ask(peer, message)
        elif isinstance(message, ReadGrant):
            self._grant(message.id, message.mark)
        elif isinstance(message, Heartbeat):
            self._on_heartbeat(peer, message)
        elif isinstance(message, HeartbeatAck):
            self._on_heartbeat_ack(peer, message)
        elif isinstance(message, Prepare):
            self._on_prepare(peer, message)
        elif isinstance(message, Promise):
            self._on_promise(peer, message)
        elif isinstance(message, Preempted):
            self._saw(message.ballot)
        elif isinstance(message, Probe):
            gone = self._agrees_gone(peer)
            self._send(peer, ProbeAnswer(message.round, gone, self._acceptor.promised, self._learner.mark))
            self._ask_what_changed(peer)
        elif isinstance(message, ProbeAnswer):
            self._on_probe_answer(peer, message)
        elif isinstance(message, Fetch):
            self._on_fetch(peer, message.slot)
        elif isinstance(message, Slots):
            self._on_slots(peer, message)
        else:
            self._on_take_over(peer, message)
        self.check()

    # -- inputs: the host ----------------------------------------------------------------------------------

    def persisted(self, write_id: int, now: Micros) -> None:
        """This write and all before it are durable: what rests on them may happen."""
        self._now = now
        for consequence in self._gate.persisted(write_id):
            if isinstance(consequence, Send):
                self._send(consequence.peer, consequence.message)
            elif isinstance(consequence, OwnAccepted):
                if self._reign is not None and self._reign.ballot == consequence.ballot:
                    self._count(self._reign, self.me, consequence.slot)
            elif isinstance(consequence, Learned):
                self._learned(consequence.slot)
            else:
                self._promised_myself(consequence.ballot)
        self.check()

    def propose(self, value: bytes, now: Micros) -> Slot:
        """Propose a value for the next slot; only when `can_propose`."""
        self._now = now
        invariant(self.can_propose, "only a serving leader with a free slot proposes")
        invariant(not is_change(value) or self.can_change, "a change of the members is alone under way")
        assert self._reign is not None
        return self._propose(self._reign, value)

    def propose_opening(self, value: bytes, now: Micros) -> Slot:
        """Propose the opening batch of this ballot; only when `needs_opening`."""
        self._now = now
        invariant(self.needs_opening, "a ballot opens once")
        assert self._reign is not None
        self._reign.opening_slot = self._reign.next_slot
        return self._propose(self._reign, value)

    def ask(self, now: Micros) -> int:
        """Ask what must be applied before the reads that have arrived by now may be served."""
        self._now = now
        ask = self._asks.ask()
        if self._reign is not None and self.serving:
            self._ask_myself(self._reign)  # so that an Accept of this very turn can confirm it
        return ask

    def hand_over(self, now: Micros) -> None:
        """Stop proposing, and have the best peer elect itself once everything open is chosen.

        If nobody takes over within two election timeouts, this replica goes on leading.
        """
        self._now = now
        if self._reign is not None and len(self.voters) > 1:
            self._reign.handing_over_until = now + HAND_OVER_TIMEOUTS_MAX * self.options.election_timeout

    def abstain(self, abstaining: bool, now: Micros, why: str = "no room to write", *, remembers: bool = True) -> None:
        """Take no part in ballots while nothing may be written; an acceptor may always be silent.

        One that `remembers` all it has promised is still evidence for reads.
        """
        self._now = now
        self._remembers = remembers
        self._abstained_at = now
        if abstaining == self.abstaining:
            return
        self.abstaining = abstaining
        self._note("disk", f"{why}: abstains" if abstaining else "votes again")
        if self._reign is not None:
            self._reign.handing_over_until = NEVER if abstaining else None
        elif self._candidacy is not None and abstaining:
            self._stand_down(why)
            self._election.wait(now)
        self.check()

    def log_read(self, request_id: int, entries: Sequence[Entry], now: Micros) -> None:
        """The answer to a LogRead; without the first slot that was asked for, only the snapshot has it."""
        self._now = now
        peer, slot = self._log_reads.pop(request_id, (0, 0))
        if slot == 0:
            return
        found: list[Entry] = []
        for entry in entries:
            if entry.slot != slot + len(found) or entry.slot > self._learner.mark:
                break
            found.append(entry)
        self._send(peer, Slots(slot, self._learner.mark, not found, tuple(found)))

    def installed(self, slot: Slot, configuration: Configuration, now: Micros) -> None:
        """The state up to `slot` came from a snapshot with these members in it, and the log begins after it."""
        self._now = now
        self._gate.drop(slot)
        self._learner.installed(slot, configuration)
        self._reconfigure()
        if self._reign is not None:
            self._reign.settle(self._learner.mark)
        if self._candidacy is not None:
            self._phase_one()
        elif self._election.leader is not None:
            self._fetch(self._election.leader)
        self.check()

    def log_trimmed(self, slot: Slot) -> None:
        """Entries up to `slot` are no longer in the log."""
        self._learner.log_start = max(self._learner.log_start, min(slot, self._learner.delivered))

    def tick(self, now: Micros) -> None:
        """Time has passed. Messages that had arrived before are to be handed in first."""
        self._now = now
        if self._reign is not None:
            self._tick_reign(self._reign)
        elif self._candidacy is not None:
            self._tick_candidacy(self._candidacy)
        elif now >= self._election.suspect_at:
            self._suspect()
        if self._reign is None and self._asks.latest and now - self._asks.sent_at >= 2 * self.options.heartbeat:
            self._asks.doubt()
        fetch_due = self._learner.fetched_at + self.options.election_timeout
        if self._learner.fetch_from is not None and now >= fetch_due:
            self._learner.fetch_from = None
        self.check()

    def next_deadline(self) -> Micros:
        """When `tick` is due."""
        reign, candidacy, options = self._reign, self._candidacy, self.options
        if reign is not None:
            due = reign.heartbeat_at + options.heartbeat
            for progress in reign.progress.values():
                if progress.in_flight and progress.resend_at < due:
                    due = progress.resend_at
        elif candidacy is not None:
            due = min(candidacy.asked_at + options.probe_timeout, candidacy.started_at + options.election_timeout)
        else:
            due = self._election.suspect_at
        if reign is None and self._asks.sent and self._asks.latest:
            due = min(due, self._asks.sent_at + 2 * options.heartbeat)
        if self._learner.fetch_from is not None:
            due = min(due, self._learner.fetched_at + options.election_timeout)
        return max(due, self._now)

    def ready(self) -> PaxosReady:
        """What should happen now; drains. To be called after every batch of inputs."""
        learner, reign = self._learner, self._reign
        if learner.delivered < learner.mark:
            self._out.chosen.extend(learner.deliver())
        if reign is not None:
            self._serve_asks(reign)
            self._tell_mark(reign)
            if reign.handing_over and not reign.open:
                self._name_heir(reign)
        elif self._asks.unsent() and self._election.leader in self._connected:
            ask = ReadAsk(self._acceptor.promised, self._asks.send(self._now), self._confirms())
            self._send(self._election.leader, ask)
        write = self._gate.flush(self._acceptor.promised, learner.mark, self._now)
        if write is not None:
            self._out.writes.append(write)
        out = self._out
        if out.empty:
            return NOTHING
        self._out = PaxosReady()
        return out

    # -- small things --------------------------------------------------------------------------------------

    def _send(self, peer: ReplicaId | None, message: PaxosMessage) -> None:
        if peer is not None and peer in self._connected:
            self._out.messages.append((peer, message))

    def _send_durable(self, peer: ReplicaId, message: PaxosMessage) -> None:
        """Send once everything that was changed so far is durable."""
        if self._gate.after(Send(peer, message)):
            self._send(peer, message)

    def _note(self, kind: str, text: str, reason: str = "") -> None:
        self._out.notes.append(Note(kind, text, reason))

    def _stalled(self) -> bool:
        """Whether the disk hangs: who cannot write must neither lead nor raise ballots."""
        return self._gate.stalled(self._now, self.options.election_timeout)

    def _able(self) -> bool:
        """Whether this replica can promise and accept."""
        return self._votes and not self.abstaining and not self.repairing and not self._stalled()

    def _confirms(self) -> bool:
        """Whether its word on what it has promised is evidence for a read."""
        return self._votes and self._remembers and not self.repairing and not self._acceptor.unknown

    # -- acceptor ------------------------------------------------------------------------------------------

    def _on_prepare(self, peer: ReplicaId, message: Prepare) -> None:
        """Phase 1b. Ref: Lamport 2001 s2.2 phase 1 (b)."""
        self._ask_what_changed(peer)
        if self.abstaining or self.repairing or not self._votes or message.ballot.replica != peer:
            return
        if not self._promise(message.ballot):
            self._send_durable(peer, Preempted(self._acceptor.promised))
            return
        chunk = self._acceptor.report(message.from_slot, self._learner.mark, self.options.promise_chunk_bytes_max)
        self._send_durable(peer, chunk)

    def _promise(self, ballot: Ballot) -> bool:
        """P1a. A ballot that is higher than before ends our own candidacy or reign, and the leader that we heard."""
        before = self._acceptor.promised
        if not self._acceptor.promise(ballot):
            return False
        if ballot > before:
            self._gate.touch()
            self._give_way(ballot)
        return True

    def _give_way(self, ballot: Ballot) -> None:
        """Somebody raised a higher ballot: give it a chance."""
        election = self._election
        election.highest_seen = max(election.highest_seen, ballot)
        if ballot.replica != self.me:
            self._stand_down(f"ballot {ballot} was raised")
        election.hold(ballot.replica, self._now)

    def _on_accept(self, peer: ReplicaId, message: Accept) -> None:
        """Phase 2b. Ref: Lamport 2001 s2.2 phase 2 (b)."""
        if self.abstaining or not self._follow(peer, message.ballot, None):
            return
        if self.repairing:
            self._on_told(peer, message.ballot, message.mark)
            return
        slot, acceptor, learner = message.slot, self._acceptor, self._learner
        held = acceptor.entries.get(slot)
        if slot <= learner.mark:
            # Known chosen here already. It was chosen below this ballot, so that this ballot's value is the same.
            invariant(held is None or held.value == message.value, "a chosen slot keeps its value")
        elif held is None or held.ballot != message.ballot:
            if held is None and slot > learner.mark + 1 and learner.ahead_bytes > self.options.ahead_bytes_max:
                self._on_told(peer, message.ballot, message.mark)
                return  # what is missing below comes first; the leader sends this again
            entry = new_entry(slot, message.ballot, message.value)
            acceptor.accept(entry)
            self._gate.put(entry)
        else:
            invariant(held.value == message.value, "a ballot proposes one value in a slot")
        self._on_told(peer, message.ballot, message.mark)
        seq = message.seq if self._confirms() else 0
        self._send_durable(peer, Accepted(message.ballot, slot, learner.mark, seq))

    # -- proposer: phase 1 ---------------------------------------------------------------------------------

    def _become_candidate(self) -> None:
        """Raise a ballot: promise it to ourselves durably, then ask the others."""
        ballot = self._election.next_ballot()
        self._promise(ballot)
        self._candidacy = Candidacy(ballot, self.voters, self._learner.mark + 1, self._now)
        self._gate.after(OwnPromise(ballot))
        self._note("election", f"ballot {ballot} is raised", "raised")

    def _promised_myself(self, ballot: Ballot) -> None:
        candidacy = self._candidacy
        if candidacy is None or candidacy.ballot != ballot:
            return
        candidacy.take(self.me, self._acceptor.report(candidacy.from_slot, self._learner.mark, 1 << 62))
        self._send_prepares(candidacy)
        self._phase_one()

    def _send_prepares(self, candidacy: Candidacy) -> None:
        for voter in self.voters:
            self._send_prepare(candidacy, voter)

    def _send_prepare(self, candidacy: Candidacy, voter: ReplicaId) -> None:
        """Ask a voter for what is still wanted of it; nothing before our own promise is durable."""
        wanted = candidacy.wanted(voter)
        if voter in self.voters and wanted is not None and self.me in candidacy.answers:
            self._send(voter, Prepare(candidacy.ballot, wanted))

    def _on_promise(self, peer: ReplicaId, message: Promise) -> None:
        candidacy = self._candidacy
        if candidacy is None or message.ballot != candidacy.ballot or peer not in self.voters:
            return
        wanted = candidacy.take(peer, message)
        if wanted is not None:
            self._send(peer, Prepare(candidacy.ballot, wanted))
        self._phase_one()

    def _phase_one(self) -> None:
        """Lead once a quorum has promised, everything it knows chosen is learned, and every open slot is known."""
        candidacy = self._candidacy
        if candidacy is None:
            return
        promised = candidacy.promised()
        if self.me not in promised or not is_quorum(promised, self.voters):
            return
        mark, holder = candidacy.best_mark()
        if mark > self._learner.mark:
            self._learner.target = max(self._learner.target, mark)
            self._fetch(holder)
            return
        proposals = candidacy.open_slots(self._learner.mark)
        if proposals is not None:
            self._become_leader(candidacy, proposals)
        elif (found := candidacy.undecidable(self._learner.mark)) is not None and found != self._undecidable:
            self._undecidable = found
            who = ", ".join(map(str, found[1]))
            self._note("disk", f"slot {found[0]} cannot be decided: its record is damaged at too many (replicas {who})")

    def _become_leader(self, candidacy: Candidacy, proposals: list[tuple[Slot, bytes]]) -> None:
        """Phase 1 is won: propose what may have been chosen, then whatever the host wants."""
        self._candidacy = None
        reign = self._reign = Reign(candidacy.ballot, self.voters, self._learner.mark + 1, self._now)
        promised = candidacy.promised()
        for peer in self._connected:
            # Who promised has just been heard: the reign begins quorum-connected.
            self._meet(reign, peer, self._now if peer in promised else self._now - self.options.election_timeout - 1)
        reign.handing_over_until = NEVER if self.abstaining else None
        self._asks.doubt()
        self._note(
            "election", f"replica {self.me} leads with ballot {candidacy.ballot}, {len(proposals)} slots open", "leads"
        )
        self._beat(reign)
        for slot, value in proposals:
            invariant(slot == reign.next_slot, "open slots are proposed without a gap")
            self._propose(reign, value)

    def _tick_candidacy(self, candidacy: Candidacy) -> None:
        now = self._now
        if now - candidacy.started_at >= self.options.election_timeout:
            self._stand_down("it got no quorum in time")
            self._election.lose(now, self.options.probe_timeout)
        elif now - candidacy.asked_at >= self.options.probe_timeout:
            candidacy.asked_at = now
            self._send_prepares(candidacy)
            self._phase_one()

    # -- proposer: phase 2 ---------------------------------------------------------------------------------

    def _meet(self, reign: Reign, peer: ReplicaId, acked_at: Micros) -> None:
        reign.progress[peer] = Progress(self._learner.mark + 1, acked_at)

    def _propose(self, reign: Reign, value: bytes) -> Slot:
        """Phase 2a; our own acceptance is written while the Accepts travel, and counts once it is durable."""
        entry = reign.add(value)
        self._acceptor.accept(entry)
        self._gate.put(entry)
        self._gate.after(OwnAccepted(reign.ballot, entry.slot))
        for peer, progress in reign.progress.items():
            self._send_accepts(reign, peer, progress)
        return entry.slot

    def _send_accepts(self, reign: Reign, peer: ReplicaId, progress: Progress) -> None:
        """Send a peer what its window has room for. One message object serves all peers."""
        mark = self._learner.mark
        while True:
            entry = reign.next_accept(peer, progress, mark, self.options.send_window_bytes)
            if entry is None:
                return
            seq = progress.seq_told = reign.confirmations.stamp()
            progress.mark_told = mark
            if len(progress.in_flight) == 1:
                progress.resend_after = progress.resend_after or 2 * self.options.heartbeat
                progress.resend_at = self._now + progress.resend_after
            made = self._made
            if made is None or made.slot != entry.slot or made.seq != seq or made.mark != mark:
                made = self._made = Accept(reign.ballot, entry.slot, mark, seq, entry.value)
            self._out.messages.append((peer, made))

    def _on_accepted(self, peer: ReplicaId, message: Accepted) -> None:
        reign = self._reign
        if reign is None or message.ballot != reign.ballot:
            return
        progress = reign.progress[peer]
        progress.acked_at = self._now
        progress.mark = max(progress.mark, message.mark)
        progress.seq = max(progress.seq, message.seq)
        progress.done(message.mark)
        progress.accepted(message.slot)
        progress.resend_after = 2 * self.options.heartbeat
        progress.resend_at = self._now + progress.resend_after
        self._count(reign, peer, message.slot)
        self._send_accepts(reign, peer, progress)

    def _count(self, reign: Reign, voter: ReplicaId, slot: Slot) -> None:
        """Somebody holds a slot at our ballot, durably: only here a slot becomes chosen."""
        mark = reign.accepted(voter, slot, self._learner.mark)
        if mark > self._learner.mark:
            self._learner.declare(mark)
            self._reconfigure()

    def _tell_mark(self, reign: Reign) -> None:
        """Tell the mark at once to those whom no Accept of this turn has told."""
        mark = self._learner.mark
        if mark == reign.mark_told:
            return  # whoever was met since then was told by its first heartbeat
        reign.mark_told = mark
        told: Chosen | None = None
        for peer, progress in reign.progress.items():
            if progress.mark_told < mark:
                progress.mark_told = mark
                told = told or Chosen(reign.ballot, mark)
                self._out.messages.append((peer, told))

    def _tick_reign(self, reign: Reign) -> None:
        now, options = self._now, self.options
        if self._stalled() and not self.abstaining:
            # A disk that hangs must not keep a leader in office: silence lets the others elect.
            self._note("disk", "a write is older than the election timeout", "hangs")
            self._stand_down("its disk hangs")
            self._election.wait(now)
            return
        if self._quorum_able(reign):
            reign.able_at = now
        if reign.quorum_heard(self.me, options.election_timeout, now):
            reign.connected_at = now
        elif now - reign.connected_at >= UNCONNECTED_TIMEOUTS_MAX * options.election_timeout:
            self._stand_down("it has lost its quorum")
            self._election.wait(now)
            return
        if reign.handing_over_until is not None and now >= reign.handing_over_until:
            reign.handing_over_until = None
        if now - reign.heartbeat_at >= options.heartbeat:
            self._beat(reign)
        for peer, progress in reign.progress.items():
            if progress.in_flight and now >= progress.resend_at:
                self._resend(reign, peer, progress)

    def _resend(self, reign: Reign, peer: ReplicaId, progress: Progress) -> None:
        """Go back to the first open slot that the peer has not accepted."""
        after = min(2 * progress.resend_after, 2 * RESEND_BACKOFF_MAX * self.options.heartbeat)
        owes = reign.owes(peer, progress)
        progress.in_flight.clear()
        progress.in_flight_bytes = 0
        progress.resend_after = after
        if owes:
            progress.next_slot = self._learner.mark + 1
            self._send_accepts(reign, peer, progress)

    def _beat(self, reign: Reign) -> None:
        reign.heartbeat_at = self._now
        for peer in reign.progress:
            self._send_heartbeat(reign, peer)

    def _send_heartbeat(self, reign: Reign, peer: ReplicaId) -> None:
        connected = self._quorum_able(reign)
        progress = reign.progress[peer]
        seq = progress.seq_told = reign.confirmations.stamp()
        progress.mark_told = self._learner.mark
        self._send(peer, Heartbeat(reign.ballot, self._learner.mark, seq, connected, self.read_only))

    def _on_heartbeat_ack(self, peer: ReplicaId, message: HeartbeatAck) -> None:
        reign = self._reign
        if reign is None or message.ballot != reign.ballot:
            return
        progress = reign.progress[peer]
        progress.acked_at = self._now
        progress.accepts = message.accepts
        progress.confirms = message.seq > 0
        progress.mark = max(progress.mark, message.mark)
        progress.seq = max(progress.seq, message.seq)
        if progress.in_flight:
            progress.done(message.mark)
            self._send_accepts(reign, peer, progress)

    def _name_heir(self, reign: Reign) -> None:
        """Everything is chosen: have the most caught-up peer elect itself; another one if it does not.

        Without room here the others must be a quorum by themselves: else better this leader, for reads, than none.
        Equal disks are full at the same time, so that one who has just lost its room listens for a while first.
        """
        timeout = self.options.election_timeout
        if self.abstaining and (
            self._now - self._abstained_at < timeout or not reign.quorum_able((), timeout, self._now)
        ):
            return
        if reign.heir is not None and self._now - reign.heir_told_at < 2 * self.options.probe_timeout:
            return
        # One that hangs would stand for election when it wakes, and depose whoever leads by then.
        near = reign.near(self.me, timeout, self._now)
        able = [
            (peer != reign.heir, progress.mark, peer)
            for peer, progress in reign.progress.items()
            if peer in self.voters and peer in near
        ]
        if able:
            reign.heir = max(able)[2]
            reign.heir_told_at = self._now
            self._send(reign.heir, TakeOver(reign.ballot))

    # -- following and learning ----------------------------------------------------------------------------

    def _follow(self, peer: ReplicaId, ballot: Ballot, quorum_connected: bool | None) -> bool:
        """A message that only the leader of `ballot` sends. False when that ballot is past.

        An abstaining replica cannot write a promise, but may listen.
        """
        if ballot.replica != peer:
            return False
        promised = self._acceptor.promised
        if ballot != promised:
            if ballot < promised:
                self._send_durable(peer, Preempted(promised))
                return False
            if not self.abstaining:
                self._promise(ballot)
            elif self._election.leader != peer:
                self._give_way(ballot)
        if self._election.follow(peer, quorum_connected, self._now):
            self._asks.doubt()
        self._woken_late = False
        return True

    def _on_heartbeat(self, peer: ReplicaId, message: Heartbeat) -> None:
        if self._follow(peer, message.ballot, message.quorum_connected):
            self._election.leader_read_only = message.read_only
            self._on_told(peer, message.ballot, message.mark)
            seq = message.seq if self._confirms() else 0
            self._send(peer, HeartbeatAck(message.ballot, seq, self._learner.mark, self._able()))

    def _on_told(self, peer: ReplicaId, ballot: Ballot, mark: Slot) -> None:
        """Take the leader's mark where we hold its ballot; fetch what we do not."""
        missing = self._learner.told(ballot, mark)
        self._reconfigure()
        if missing:
            self._fetch(peer)

    def _fetch(self, peer: ReplicaId) -> None:
        if peer in self._connected and self._learner.may_fetch() and not self.abstaining:
            self._learner.fetch_from = peer
            self._learner.fetched_at = self._now
            self._send(peer, Fetch(self._learner.mark + 1))

    def _on_fetch(self, peer: ReplicaId, slot: Slot) -> None:
        """Send what is known to be chosen: from memory, else from the log, else point to the snapshot."""
        learner = self._learner
        if slot > learner.mark:
            self._send(peer, Slots(slot, learner.mark, snapshot=False, entries=()))
        elif slot <= learner.log_start:
            self._send(peer, Slots(slot, learner.mark, snapshot=True, entries=()))
        else:
            entries = learner.cached(slot, self.options.fetch_bytes_max)
            if entries is not None:
                self._send(peer, Slots(slot, learner.mark, snapshot=False, entries=entries))
            else:
                self._read_log(peer, slot)

    def _read_log(self, peer: ReplicaId, slot: Slot) -> None:
        """One read at a time for each peer: a repeated Fetch replaces the one before."""
        for id_, (reader, wanted) in list(self._log_reads.items()):
            if reader == peer:
                if wanted == slot:
                    return
                del self._log_reads[id_]
        self._last_log_read += 1
        self._log_reads[self._last_log_read] = (peer, slot)
        self._out.log_reads.append(LogRead(self._last_log_read, slot, self.options.fetch_bytes_max))

    def _on_slots(self, peer: ReplicaId, message: Slots) -> None:
        """Chosen entries: hold them, and hand them out once they are durable here."""
        learner = self._learner
        if learner.fetch_from == peer:
            learner.fetch_from = None
        if message.snapshot:
            if message.slot == learner.mark + 1:
                self._want_snapshot(peer)
            return
        if self.abstaining:
            return
        highest = max((entry.ballot for entry in message.entries), default=BALLOT_ZERO)
        self._saw(highest)
        if self._reign is not None:
            return  # phase 1 has learned everything below: this is old news
        missing = learner.take(message)
        if missing:
            self._promise_silently(max(entry.ballot for entry in missing))
        for entry in missing:
            self._acceptor.accept(entry)
            self._gate.put(entry)
        if learner.writing > learner.mark and self._gate.after(Learned(learner.writing)):
            self._learned(learner.writing)
        elif self._candidacy is not None:
            self._phase_one()

    def _promise_silently(self, ballot: Ballot) -> None:
        """Chosen entries of a ballot that had not come here: it is promised with them, and nobody is waited for."""
        if ballot > self._acceptor.promised:
            self._acceptor.promise(ballot)
            self._gate.touch()
            if self._election.leader not in (None, ballot.replica):
                self._election.lose(self._now, self.options.probe_timeout)

    def _want_snapshot(self, peer: ReplicaId) -> None:
        self._out.snapshot_wanted = peer
        self._note("catch-up", f"slot {self._learner.mark + 1} is only in the snapshot of replica {peer}")
        if self._candidacy is not None:
            self._stand_down("what it misses is only in a snapshot")
            self._election.refused(self._now)

    def _learned(self, slot: Slot) -> None:
        """Fetched entries are durable; go on where more is missing."""
        self._learner.fetched(slot)
        self._reconfigure()
        if self._reign is not None:
            self._reign.settle(self._learner.mark)
        elif self._candidacy is not None:
            self._phase_one()
        elif self._election.leader is not None:
            self._fetch(self._election.leader)
        elif self.repairing:
            self._repair()

    def _repair(self) -> None:
        """Without a leader, learn from whoever is there: perhaps there is no quorum without this replica."""
        for peer in sorted(self._connected, key=lambda peer: (peer <= self._repair_from, peer)):
            self._repair_from = peer
            self._fetch(peer)
            return

    # -- members -------------------------------------------------------------------------------------------

    def _take_members(self) -> None:
        configuration = self._learner.configuration
        self._changes = self._learner.changes
        self.voters = configuration.voters
        self._votes = configuration.votes(self.me, self._incarnation, self._disk)

    def _reconfigure(self) -> None:
        """A change of the members is chosen, if there is news: in the slots after it others may count.

        So a ballot that was promised by the old voters decides nothing more: who led, or was about to, raises a higher
        one at once, and asks the new voters. Ref: Lamport 2001 s3 (the members are part of the state, with alpha = 1).
        """
        if self._changes == self._learner.changes:
            return
        reign, candidacy = self._reign, self._candidacy
        if reign is not None:
            self._tell_mark(reign)  # to those who are members no more as well: they learn it here or never
        self._take_members()
        if self._learner.configuration.has_left(self.me, self._incarnation) and not self.abstaining:
            self._gate.touch()  # the mark goes to the disk: at its next start nobody may be left who tells it
        if reign is None and candidacy is None:
            return
        hands_over = reign is not None and reign.handing_over
        self._stand_down("the members of the cell have changed")
        if self._may_stand() and not hands_over:
            self._become_candidate()
            return
        if reign is not None:
            self._name_heir(reign)
        self._election.lose(self._now, self.options.probe_timeout)

    def _ask_what_changed(self, peer: ReplicaId) -> None:
        """Who is asked for a vote that it does not have may not know yet that it has one."""
        learner = self._learner
        if not self._votes and learner.fetch_from is None and learner.writing == 0 and not self.abstaining:
            learner.fetch_from = peer
            learner.fetched_at = self._now
            self._send(peer, Fetch(learner.mark + 1))

    # -- elections -----------------------------------------------------------------------------------------

    def _may_stand(self) -> bool:
        return self._reign is None and self._able()

    def _suspect(self) -> None:
        """Ask the others whether the leader is gone for them too, before any ballot is raised."""
        now, election = self._now, self._election
        if not self._woken_late and len(self.voters) > 1 and now - election.suspect_at >= self.options.heartbeat:
            # It was this replica that slept: what the leader sent meanwhile may lie in the sockets.
            self._woken_late = True
            election.suspect_at = now + self.options.heartbeat // 2
            return
        self._woken_late = False
        if election.leader is not None and now - election.heard_at >= self.options.election_timeout:
            self._note("election", f"replica {election.leader} was silent", "silence")
            election.lose(now, 1)
            self._asks.doubt()
        if self.repairing and election.leader is None:
            self._repair()
        if not self._may_stand() or not election.gone(now):
            election.wait(now)
            return
        round_ = election.begin_round(now)
        for voter in self.voters:
            if voter != self.me:
                self._send(voter, Probe(round_))
        if election.counted(self.voters) == "won":
            self._become_candidate()

    def _on_take_over(self, peer: ReplicaId, message: TakeOver) -> None:
        if message.ballot == self._acceptor.promised and self._may_stand() and self._candidacy is None:
            self._note("election", f"replica {peer} hands over", "hand-over")
            self._become_candidate()

    def _agrees_gone(self, prober: ReplicaId) -> bool:
        """The answer to a probe. Who could not promise anyway does not help to unseat anybody."""
        if self._reign is not None:
            connected = self._reign.quorum_connected(self.me, self.options.election_timeout, self._now)
            return not self.abstaining and not connected
        if not self._able():
            return False
        # A leader that probes has stood down, and knows better than we do.
        return self._election.leader == prober or self._election.gone(self._now)

    def _on_probe_answer(self, peer: ReplicaId, message: ProbeAnswer) -> None:
        election, learner = self._election, self._learner
        election.highest_seen = max(election.highest_seen, message.promised)
        if self._reign is not None:
            return
        if message.mark > learner.target:
            learner.target = message.mark
        if message.mark > learner.mark and election.leader is None:
            self._fetch(peer)
        if election.probing and message.mark > learner.mark + self.options.candidate_lag_slots_max:
            election.probing = False  # that one would lead better; what is missing here is on its way
            election.wait(self._now)
            return
        match election.answered(peer, message, self.voters):
            case "won":
                if self._candidacy is None and self._may_stand():
                    self._become_candidate()
            case "lost":
                election.refused(self._now)
            case "pending":
                pass

    def _saw(self, ballot: Ballot) -> None:
        """Somebody has promised a higher ballot: ours can choose nothing any more."""
        election = self._election
        election.highest_seen = max(election.highest_seen, ballot)
        if self._reign is not None and ballot > self._reign.ballot:
            # Perhaps nobody uses that ballot: then the probe says so, and this replica leads again at once.
            self._stand_down(f"ballot {ballot} was promised")
            election.lose(self._now, self.options.heartbeat // CLOSED_CONNECTION_SPREAD)
        elif self._candidacy is not None and ballot > self._candidacy.ballot:
            self._stand_down(f"ballot {ballot} was promised")
            election.lose(self._now, self.options.probe_timeout)

    def _stand_down(self, why: str) -> None:
        """Lead no more, or stop trying to."""
        if self._reign is not None:
            self._note("election", f"replica {self.me} leads no more: {why}", "stands down")
        elif self._candidacy is not None:
            self._note("election", f"ballot {self._candidacy.ballot} is given up: {why}", "given up")
        self._reign = None
        self._candidacy = None
        self._made = None
        self._early.clear()
        self._asks.doubt()

    # -- reading -------------------------------------------------------------------------------------------

    def _on_read_ask(self, peer: ReplicaId, message: ReadAsk) -> None:
        reign = self._reign
        if reign is None:
            return  # the asker hears of another leader, or asks again
        if message.ballot > reign.ballot:
            self._saw(message.ballot)
        elif self.serving:
            self._answer_ask(reign, peer, message)
        else:
            self._early[peer] = message

    def _answer_ask(self, reign: Reign, peer: ReplicaId, message: ReadAsk) -> None:
        """At once, if the ask itself is evidence enough; else after a confirm round."""
        showed = [self.me, peer] if message.counts and message.ballot == reign.ballot else [self.me]
        if is_quorum(showed, self.voters):
            self._send(peer, ReadGrant(message.id, self._learner.mark))
        else:
            reign.confirmations.join(peer, message.id, self._learner.mark)

    def _ask_myself(self, reign: Reign) -> None:
        ask = self._asks.send(self._now)
        if is_quorum((self.me,), self.voters):
            self._grant(ask, self._learner.mark)
        else:
            reign.confirmations.join(self.me, ask, self._learner.mark)

    def _serve_asks(self, reign: Reign) -> None:
        """Answer the asks whose round a quorum has answered, and send the messages of the next round."""
        if not self.serving:
            return
        if self._early:
            early, self._early = self._early, {}
            for peer, message in early.items():
                self._answer_ask(reign, peer, message)
        if self._asks.unsent():
            self._ask_myself(reign)
        confirmations = reign.confirmations
        if not confirmations.waiting:
            return
        for peer, ask, mark in confirmations.confirmed(reign.confirmed_seq(self.me), self._learner.mark):
            if peer == self.me:
                self._grant(ask, mark)
            else:
                self._send(peer, ReadGrant(ask, mark))
        if confirmations.waiting:
            for peer, progress in reign.progress.items():
                if progress.seq_told < confirmations.seq and peer in self.voters:
                    self._send_heartbeat(reign, peer)

    def _grant(self, upto: int, mark: Slot) -> None:
        for ask in self._asks.granted(upto):
            self._out.grants.append((ask, mark))

    # -- invariants ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert what must hold between any two steps."""
        if not self.options.checks:
            return
        self._gate.check()
        self._acceptor.check()
        self._learner.check()
        self._election.check()
        reign, candidacy = self._reign, self._candidacy
        if reign is not None:
            invariant(candidacy is None, "a leader is no candidate")
            invariant(self._acceptor.promised == reign.ballot, "a leader has promised no higher ballot")
            reign.check(self._learner.mark)
        elif candidacy is not None:
            invariant(self._acceptor.promised == candidacy.ballot, "a candidate has promised no higher ballot")
