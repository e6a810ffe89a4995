"""Whose session lives: the leader's deadlines, and each origin's gathering of touches.

Every frame of a client touches its session: a write by being logged, reads and pings by a `Touch` to the
leader. A ping is answered only when the leader has acknowledged that touch, and it acknowledges only after
a quorum has shown, later than the touch arrived, that it still leads: so a client whose pings are answered
knows that no leader, old or new, ends its session before its lease is over.

Leader churn must neither kill the living nor keep the dead. What the next leader may count as silence is what
the log says: since when a session has been *silent*, that is, since when no touch of it was acknowledged, nor
will be until a record that cancels it is chosen. A leader that has not reigned for long logs every silence at
once, since the next one may follow soon; later only those of half a timeout, which the living do not reach, so
that their pings cost the log nothing. See `docs/decisions/silence-is-logged.md`.

All times here are cell time (`_clock`), in microseconds: it goes on from leader to leader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, Protocol

from synod.base import MILLISECOND, Ballot, Micros, ReplicaId

BUCKET: Final = 100 * MILLISECOND
"""Sessions are looked at in buckets of this width: an expiry is at most so late."""

RECORDS_PER_LOOK_MAX: Final = 1_000
"""Bounds the batch that a mass expiry, or the silences at the beginning of a reign, fill."""


class SessionView(Protocol):
    """What the leader reads of a session in the replicated state."""

    timeout_ms: int
    attach_epoch: int
    silent_since_ms: int | None


class Heard:
    """When a peer was heard last: it is noted for each of its messages."""

    __slots__ = ("at",)

    def __init__(self, at: Micros) -> None:
        self.at = at


class Verdict:
    """What one look at the deadlines asks the leader to log."""

    __slots__ = ("expire", "silent")

    def __init__(self) -> None:
        self.expire: list[int] = []
        self.silent: list[tuple[int, Micros]] = []


class Deadlines:
    """The leader's clock for every session; a leader that begins makes a new one.

    Args:
        ballot: of this leader.
        soon: an election timeout. What pends at any replica for a new leader reaches it within this time, so
            that it expires nobody earlier; and a young leader logs a silence that is so long.
        outage: how long the cell was without a leader before clients were let go; 0 when it was not. Those who
            must find their way back get as long again, or a third of their timeout.
        began: when this reign began.

    Invariant: every session of the state is in exactly one bucket, unless its expiry is proposed.
    Invariant: whose silence waits to be logged is in the state, was not touched since, and is not about to expire.
    """

    __slots__ = (
        "_began",
        "_buckets",
        "_expiring",
        "_heard",
        "_next_bucket",
        "_outage",
        "_silencing",
        "_soon",
        "_unsaid",
        "_via",
        "_waking",
        "awaking",
        "ballot",
        "quiet",
    )

    def __init__(self, ballot: Ballot, *, soon: Micros, outage: Micros, began: Micros) -> None:
        self.ballot = ballot
        self._soon = soon
        self._outage = outage
        self._began = began
        self._heard: dict[int, Micros] = {}
        self._via: dict[int, ReplicaId] = {}
        self._buckets: dict[int, list[int]] = {}
        self._next_bucket = began // BUCKET
        self._expiring: dict[int, None] = {}
        # Between proposing that a session is silent and applying it, a touch may not be acknowledged either:
        # the record would outlive it, and a next leader would believe the record.
        self._silencing: dict[int, Micros] = {}
        # Whose silence is to be logged when it is their turn: an expiry waits for none of them.
        self._unsaid: dict[int, None] = {}
        # One record is enough: origins touch again until they are answered, and that may be long without a quorum.
        self._waking: dict[int, None] = {}
        self.awaking: dict[int, None] = {}
        self.quiet: dict[int, None] = {}

    def begin(self, sessions: Mapping[int, SessionView]) -> None:
        """Take the silences that the log tells of as they are; of everybody else nothing is known before now."""
        for id_, session in sessions.items():
            since = session.silent_since_ms
            self._heard[id_] = self._began if since is None else min(since * MILLISECOND, self._began)
            self._put(id_, self._began)

    def opened(self, session: int, now: Micros) -> None:
        """A session was created."""
        self._heard[session] = now
        self._put(session, now)

    def ended(self, session: int) -> None:
        """A session was closed or has expired."""
        self._heard.pop(session, None)
        self._via.pop(session, None)
        self._expiring.pop(session, None)
        self._silencing.pop(session, None)
        self._unsaid.pop(session, None)
        self._waking.pop(session, None)
        self.awaking.pop(session, None)
        self.quiet.pop(session, None)

    def touched(self, session: int, now: Micros) -> None:
        """A frame of the session was applied."""
        if session in self._heard:
            self._heard[session] = now
            if self.awaking or self._unsaid or self.quiet:
                self.awaking.pop(session, None)
                self._unsaid.pop(session, None)
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
        self._unsaid.pop(session, None)
        if session in self._silencing:
            return False
        if sessions[session].silent_since_ms is not None:
            if session not in self._waking:
                self.awaking[session] = None
            return False
        return True

    def take_awaking(self) -> tuple[int, ...]:
        """The sessions for which a record is now to be logged that they are silent no more."""
        taken = tuple(self.awaking)
        self._waking.update(self.awaking)
        self.awaking.clear()
        return taken

    def proposed(self) -> tuple[int, ...]:
        """The sessions about which records are on their way through the log."""
        if not (self._expiring or self._silencing or self._waking):
            return ()
        return (*self._expiring, *self._silencing, *self._waking)

    def settled(self, sessions: Iterable[int], now: Micros) -> None:
        """The records about these sessions are applied. Whoever lives on was attached anew meanwhile.

        Who was heard after a record of its silence was made, by a write that the log has before that record, say, is
        silent since then at the earliest: the record tells of too much, and is cancelled without waiting for a touch.
        """
        for session in sessions:
            self._waking.pop(session, None)
            since = self._silencing.pop(session, None)
            if since is not None and self._heard[session] > since:
                self.awaking[session] = None
            if session in self._expiring:
                del self._expiring[session]
                self._heard[session] = now
                self._put(session, now)

    def extend(self, gap: Micros, now: Micros, via: ReplicaId) -> None:
        """The origin `via` was away for `gap`: its silence was not the clients'."""
        for session, origin in self._via.items():
            if origin == via:
                self._heard[session] = min(now, self._heard[session] + gap)

    def look(self, sessions: Mapping[int, SessionView], now: Micros, *, read_only: bool = False) -> Verdict:
        """What has come due; as many silences as the expiries leave room for.

        None while nothing can be chosen: what cancels them could not be, and no touch be acknowledged until then.
        """
        verdict = Verdict()
        last = now // BUCKET
        while self._next_bucket <= last:
            due = self._buckets.pop(self._next_bucket, [])
            for at, session in enumerate(due):
                if len(verdict.expire) >= RECORDS_PER_LOOK_MAX:
                    self._buckets[self._next_bucket] = due[at:]
                    return verdict
                self._judge(session, sessions, now, verdict)
            self._next_bucket += 1
        room = 0 if read_only else RECORDS_PER_LOOK_MAX - len(verdict.expire)
        for session in tuple(islice(self._unsaid, room)):
            del self._unsaid[session]
            self._silencing[session] = self._heard[session]
            verdict.silent.append((session, self._heard[session]))
        return verdict

    def _judge(self, id_: int, sessions: Mapping[int, SessionView], now: Micros, verdict: Verdict) -> None:
        heard = self._heard.get(id_)
        session = sessions.get(id_)
        if heard is None or session is None or id_ in self._expiring:
            return
        timeout = session.timeout_ms * MILLISECOND
        # However long the silence before this reign was, whoever can reach this leader has time to do so.
        due = max(heard + timeout, self._began + self._hearing(timeout))
        if now >= due:
            self._expiring[id_] = None
            self._unsaid.pop(id_, None)
            verdict.expire.append(id_)
            return
        is_young = now - self._began < timeout // 2
        patience = min(self._soon, timeout // 2) if is_young else timeout // 2
        if now - heard < patience:
            self._put(id_, heard + patience)
            return
        self.quiet[id_] = None
        if session.silent_since_ms is None and id_ not in self._silencing:
            self._unsaid[id_] = None
        # Whoever is touched meanwhile and falls silent again is noticed as soon.
        self._put(id_, min(due, now + patience) if is_young else due)

    def _hearing(self, timeout: Micros) -> Micros:
        """How long after the beginning of a reign no session with this timeout expires."""
        return max(self._soon, self._outage, timeout // 3) if self._outage else self._soon

    def _put(self, session: int, due: Micros) -> None:
        bucket = max(due // BUCKET + 1, self._next_bucket + 1)
        self._buckets.setdefault(bucket, []).append(session)


class Touches:
    """An origin's side: which sessions were heard, and which pings wait for the leader's word.

    One round is under way at a time, and rounds start at least `interval` apart, so that the pings of ten
    thousand sessions cost ten messages a second.
    """

    __slots__ = ("_again_after", "_interval", "_round", "_sent", "_sent_at", "again_at", "awaited")

    def __init__(self, interval: Micros) -> None:
        self._interval = interval
        self._round = 0
        self._sent: tuple[int, ...] = ()
        self.awaited = False
        self._sent_at: Micros = -interval
        self._again_after = interval
        self.again_at: Micros = 0
        """When those that were refused go along again, unless something happens before that changes the answer."""

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

    def put_off(self, now: Micros, longest: Micros) -> None:
        """Some were refused: they go along again after twice as long each time, for it can be long until that helps."""
        self.again_at = now + self._again_after
        self._again_after = min(2 * self._again_after, longest)

    def hope(self) -> None:
        """Nobody is refused any more, or by another leader only: whoever is next soon goes along again."""
        self._again_after = self._interval

    def answered(self, round_: int, refused: Iterable[int]) -> tuple[int, ...]:
        """The sessions whose touch the leader has acknowledged by its answer to a round."""
        if not self.awaited or round_ != self._round:
            return ()
        self.awaited = False
        refusals = frozenset(refused)
        return tuple(session for session in self._sent if session not in refusals)
