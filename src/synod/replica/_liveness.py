"""Whose session lives: the leader's deadlines, and each origin's gathering of touches.

Every frame of a client touches its session: a write by being logged, reads and pings by a `Touch` to the
leader. A ping is answered only when the leader has acknowledged that touch, and it acknowledges only after
a quorum has shown, later than the touch arrived, that it still leads: so a client whose pings are answered
knows that no leader, old or new, ends its session before its lease is over.

Leader churn must neither kill the living nor keep the dead. A new leader grants every session its whole
timeout again, except those whose silence an earlier leader has put into the log at half their timeout:
these get only the rest and one grace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from synod.base import MILLISECOND, Ballot, Micros, ReplicaId

BUCKET: Final = 100 * MILLISECOND
"""Sessions are looked at in buckets of this width: an expiry is at most so late."""

LATE: Final = 150 * MILLISECOND
"""A leader whose tick comes later than planned by more than this was itself away: deadlines move by the gap."""

EXPIRIES_PER_TICK_MAX: Final = 1_000
"""Bounds the batch that a mass expiry fills."""


class SessionView(Protocol):
    """What the leader reads of a session in the replicated state."""

    timeout_ms: int
    attach_epoch: int
    silent_since_ms: int | None


class Verdict:
    """What one look at the deadlines asks the leader to log."""

    __slots__ = ("expire", "silent")

    def __init__(self) -> None:
        self.expire: list[int] = []
        self.silent: list[tuple[int, Micros]] = []


class Deadlines:
    """The leader's clock for every session; a leader that begins makes a new one.

    Invariant: every session of the state is in exactly one bucket, unless its expiry is proposed.
    """

    __slots__ = (
        "_buckets",
        "_expiring",
        "_heard",
        "_next_bucket",
        "_planned",
        "_silencing",
        "_via",
        "awaking",
        "ballot",
        "quiet",
    )

    def __init__(self, ballot: Ballot, now: Micros) -> None:
        self.ballot = ballot
        self._heard: dict[int, Micros] = {}
        self._via: dict[int, ReplicaId] = {}
        self._buckets: dict[int, list[int]] = {}
        self._next_bucket = now // BUCKET
        self._expiring: dict[int, None] = {}
        # Between proposing that a session is silent and applying it, a touch may not be acknowledged either:
        # the record would outlive it, and a next leader would believe the record.
        self._silencing: dict[int, None] = {}
        self.awaking: dict[int, None] = {}
        self.quiet: dict[int, None] = {}
        self._planned: Micros = now + BUCKET

    def begin(self, sessions: Mapping[int, SessionView], cell_time_ms: int, grace: Micros, now: Micros) -> None:
        """Grant each session its timeout from now, but a silent one only the rest and one grace."""
        for id_, session in sessions.items():
            heard = now
            if session.silent_since_ms is not None:
                silent = max(0, cell_time_ms - session.silent_since_ms) * MILLISECOND
                timeout = session.timeout_ms * MILLISECOND
                heard = now - min(silent, timeout) + grace
                heard = min(heard, now)
            self._heard[id_] = heard
            self._put(id_, now + BUCKET)

    def opened(self, session: int, now: Micros) -> None:
        """A session was created."""
        self._heard[session] = now
        self._put(session, now + BUCKET)

    def ended(self, session: int) -> None:
        """A session was closed or has expired."""
        self._heard.pop(session, None)
        self._via.pop(session, None)
        self._expiring.pop(session, None)
        self._silencing.pop(session, None)
        self.awaking.pop(session, None)
        self.quiet.pop(session, None)

    def touched(self, session: int, now: Micros) -> None:
        """A frame of the session was applied."""
        if session in self._heard:
            self._heard[session] = now
            self.awaking.pop(session, None)
            self.quiet.pop(session, None)

    def touch(self, session: int, via: ReplicaId, sessions: Mapping[int, SessionView], now: Micros) -> bool:
        """Take a touch. False when it may not be acknowledged (yet).

        While an expiry is under way it may not at all; after a logged silence, not before the record that
        cancels it is chosen: `awaking` names the sessions for which the leader is to log one.
        """
        if session not in self._heard:
            # It is over, or not applied here yet; pings of a session that is over need no answer.
            return False
        if session in self._expiring:
            return False
        self._heard[session] = now
        self._via[session] = via
        self.quiet.pop(session, None)
        if session in self._silencing:
            return False
        if sessions[session].silent_since_ms is not None:
            self.awaking[session] = None
            return False
        return True

    def proposed(self) -> tuple[int, ...]:
        """The sessions about which records are on their way through the log."""
        return (*self._expiring, *self._silencing)

    def settled(self, sessions: Iterable[int], now: Micros) -> None:
        """The records about these sessions are applied. Whoever lives on was attached anew meanwhile."""
        for session in sessions:
            self._silencing.pop(session, None)
            if session in self._expiring:
                del self._expiring[session]
                self._heard[session] = now
                self._put(session, now + BUCKET)

    def extend(self, gap: Micros, now: Micros, via: ReplicaId | None = None) -> None:
        """Somebody was away for `gap`: the leader itself, or the origin `via`. Its silence was not the clients'."""
        for session in self._heard:
            if via is None or self._via.get(session) == via:
                self._heard[session] = min(now, self._heard[session] + gap)

    def look(self, sessions: Mapping[int, SessionView], now: Micros) -> Verdict:
        """What has come due. A late look expires nobody: it first moves the deadlines by its own lateness."""
        verdict = Verdict()
        late = now - self._planned
        self._planned = now + BUCKET
        if late > LATE:
            self.extend(late, now)
            return verdict
        bucket = self._next_bucket
        last = now // BUCKET
        while bucket <= last and len(verdict.expire) < EXPIRIES_PER_TICK_MAX:
            for session in self._buckets.pop(bucket, ()):
                self._judge(session, sessions, now, verdict)
            bucket += 1
        self._next_bucket = bucket
        return verdict

    def _judge(self, id_: int, sessions: Mapping[int, SessionView], now: Micros, verdict: Verdict) -> None:
        heard = self._heard.get(id_)
        session = sessions.get(id_)
        if heard is None or session is None or id_ in self._expiring:
            return
        timeout = session.timeout_ms * MILLISECOND
        silent = now - heard
        if silent >= timeout:
            self._expiring[id_] = None
            verdict.expire.append(id_)
            return
        if silent >= timeout // 2:
            self.quiet[id_] = None
            if session.silent_since_ms is None:
                self._silencing[id_] = None
                verdict.silent.append((id_, heard))
            self._put(id_, heard + timeout)
        else:
            self._put(id_, heard + timeout // 2)

    def _put(self, session: int, due: Micros) -> None:
        bucket = max(due // BUCKET + 1, self._next_bucket + 1)
        self._buckets.setdefault(bucket, []).append(session)

    def next_deadline(self) -> Micros:
        """When to look again."""
        return self._planned


class Touches:
    """An origin's side: which sessions were heard, and which pings wait for the leader's word.

    One round is under way at a time, and rounds start at least `interval` apart, so that the pings of ten
    thousand sessions cost forty messages a second.
    """

    __slots__ = ("_interval", "_round", "_sent", "_sent_at", "awaited")

    def __init__(self, interval: Micros) -> None:
        self._interval = interval
        self._round = 0
        self._sent: tuple[int, ...] = ()
        self.awaited = False
        self._sent_at: Micros = -interval

    def due(self, now: Micros, retry: Micros) -> bool:
        """Whether a round may start: none is under way, or the last one has had no answer for `retry`."""
        age = now - self._sent_at
        return age >= (retry if self.awaited else self._interval)

    def next_deadline(self, retry: Micros) -> Micros:
        """When a round may start."""
        return self._sent_at + (retry if self.awaited else self._interval)

    def start(self, sessions: Iterable[int], now: Micros) -> tuple[int, tuple[int, ...]]:
        """Begin a round with these sessions; those of an unanswered round go along."""
        merged = dict.fromkeys(self._sent if self.awaited else ())
        merged.update(dict.fromkeys(sessions))
        self._round += 1
        self._sent = tuple(merged)
        self.awaited = True
        self._sent_at = now
        return self._round, self._sent

    def doubt(self) -> None:
        """The leader is another, or was lost: the unanswered round may be started again at once."""
        if self.awaited:
            self._sent_at -= 1 << 60

    def answered(self, round_: int, refused: Iterable[int]) -> tuple[int, ...]:
        """The sessions whose touch the leader has acknowledged by its answer to a round."""
        if not self.awaited or round_ != self._round:
            return ()
        self.awaited = False
        refusals = frozenset(refused)
        return tuple(session for session in self._sent if session not in refusals)
