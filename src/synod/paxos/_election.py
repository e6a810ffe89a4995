"""When to look for a new leader, and what to tell others who look.

Before a ballot is raised there is a round of probes: a quorum, the prober included, must agree that the leader
is gone. A leader that is connected to a quorum shares a member with every quorum, and that member says no: so
neither a replica that comes back nor one that is cut off disturbs it. The other way round, a leader that has
lost its quorum says so on its heartbeats; they vouch for it no longer, and whoever is connected to a quorum
can take over, even if it still hears the old leader.

Ref: Ongaro 2014 s9.6 (a pre-vote); Ng, Haridi & Carbone 2023 (Omni-Paxos: quorum-connected leaders make
progress under partial partitions).

What this replica believes is one of

    follows     a leader is heard; it is vouched for until `vouched_at` + election_timeout, where only what it
                sends while it says that it is quorum-connected vouches for it
    holds       somebody has just raised a ballot here: give it a chance (`hold_until`)
    looks       nobody leads, as far as can be seen: probe when `suspect_at` has come
"""

from __future__ import annotations

from typing import Final

from synod.base import Ballot, Micros, ReplicaId, Rng, invariant

from ._messages import ProbeAnswer
from ._options import PaxosOptions
from ._quorum import Verdict, verdict

CLOSED_CONNECTION_SPREAD: Final = 8
"""A closed connection is noticed by all at once: each waits up to heartbeat / 8 before it probes, so that two
seldom raise ballots at the same moment, and a killed leader is still replaced long within 200 ms."""

CONNECT_SPREAD: Final = 4
"""A replica that starts probes up to heartbeat / 4 after its first peer is there, most likely with the rest."""


class Election:
    """What one replica believes of the leader, and its round of probes.

    Invariant: while a leader is heard that has its quorum there is no round of probes.
    Invariant: `highest_seen` is at least every ballot that was seen here; the next one raised is above it.
    """

    __slots__ = (
        "_me",
        "_no",
        "_options",
        "_patience",
        "_rng",
        "_yes",
        "heard_at",
        "highest_seen",
        "hold_for",
        "hold_until",
        "leader",
        "leader_connected",
        "leader_read_only",
        "probing",
        "round",
        "suspect_at",
        "vouched_at",
    )

    def __init__(self, me: ReplicaId, options: PaxosOptions, promised: Ballot, rng: Rng, now: Micros) -> None:
        self._me = me
        self._options = options
        self._rng = rng
        self.leader: ReplicaId | None = None
        self.leader_connected = False
        self.leader_read_only = False
        self.vouched_at = now
        self.heard_at = now
        self._patience: Micros = 0
        self.hold_for: ReplicaId | None = None
        self.hold_until: Micros = now
        self.suspect_at = now
        self.highest_seen = promised
        # A random start, so that an answer to an earlier life's probe fits no round of this one.
        self.round = rng.getrandbits(48)
        self.probing = False
        self._yes: dict[ReplicaId, None] = {}
        self._no: dict[ReplicaId, None] = {}

    def _random(self, below: Micros) -> Micros:
        return self._rng.randrange(0, max(1, below))

    # -- what is believed ----------------------------------------------------------------------------------

    def follow(self, leader: ReplicaId, quorum_connected: bool | None, now: Micros) -> bool:
        """The leader was heard; None: by a message that does not say whether it is quorum-connected.

        True when it is another leader than before.
        """
        new = self.leader != leader
        if new:
            self.leader = leader
            self.leader_connected = False
            self.leader_read_only = False
            self._be_patient()
        if quorum_connected is not None:
            self.leader_connected = quorum_connected
        self.heard_at = now
        if self.leader_connected:
            self.vouched_at = now
            self.suspect_at = now + self._patience
            self.probing = False
        return new

    def _be_patient(self) -> None:
        timeout = self._options.election_timeout
        self._patience = timeout + self._random(timeout // 2)

    def hold(self, candidate: ReplicaId, now: Micros) -> None:
        """A ballot was raised by `candidate`: nobody leads until it has had its chance."""
        self.leader = None
        self.vouched_at = now
        self.probing = False
        self.hold_for = candidate
        self.hold_until = now + self._options.election_timeout
        self.suspect_at = self.hold_until + self._random(self._options.election_timeout // 2)

    def lose(self, now: Micros, within: Micros) -> None:
        """Nobody leads, as far as can be seen: probe at a random moment of the time given."""
        self.leader = None
        self.probing = False
        self.hold_for = None
        self.hold_until = now
        self.suspect_at = now + self._random(within)

    def hurry(self, now: Micros, within: Micros) -> None:
        """Something changed: probe within this time, unless that is to happen sooner anyway."""
        if self.leader is None and now >= self.hold_until:
            self.suspect_at = min(self.suspect_at, now + self._random(within))

    def wait(self, now: Micros) -> None:
        """Not now: try again after a probe's time or so."""
        probe = self._options.probe_timeout
        self.suspect_at = now + probe // 2 + self._random(probe)

    def gone(self, now: Micros) -> bool:
        """Whether this replica, which does not lead, agrees that there is no leader who could choose anything."""
        if self.leader is None:
            return now >= self.hold_until
        return now - self.vouched_at >= self._options.election_timeout

    # -- probes --------------------------------------------------------------------------------------------

    def begin_round(self, now: Micros) -> int:
        """A new round of probes, agreed to by this replica; returns its number."""
        self.round += 1
        self.probing = True
        self._yes = {self._me: None}
        self._no = {}
        self.wait(now)
        return self.round

    def answered(self, peer: ReplicaId, answer: ProbeAnswer, voters: tuple[ReplicaId, ...]) -> Verdict:
        """Count an answer, if it is one to the present round."""
        if not self.probing or answer.round != self.round:
            return "pending"
        (self._yes if answer.gone else self._no)[peer] = None
        return self.counted(voters)

    def counted(self, voters: tuple[ReplicaId, ...]) -> Verdict:
        """How the round stands; it ends once that is clear."""
        outcome = verdict(self._yes, self._no, voters)
        if outcome != "pending":
            self.probing = False
        return outcome

    def refused(self, now: Micros) -> None:
        """A quorum cannot agree: somebody hears a leader, so there is no hurry."""
        timeout = self._options.election_timeout
        self.suspect_at = now + timeout // 2 + self._random(timeout // 2)

    def next_ballot(self) -> Ballot:
        """A ballot above every one that was seen."""
        return Ballot(self.highest_seen.round + 1, self._me)

    def check(self) -> None:
        """Assert the invariants."""
        vouched = self.leader is not None and self.leader_connected
        invariant(not vouched or not self.probing, "nobody probes who hears a leader that has its quorum")
