"""Sessions outlive leaders, and the dead do not: docs/GUARANTEES.md, sessions."""

from __future__ import annotations

from dataclasses import dataclass

from synod.base import MILLISECOND, SECOND, Ballot
from synod.replica import Deadlines, Touches

BALLOT = Ballot(3, 1)
GRACE = 2 * SECOND
STEP = 50 * MILLISECOND


@dataclass
class FakeSession:
    timeout_ms: int = 4_000
    attach_epoch: int = 1
    silent_since_ms: int | None = None


def run(deadlines: Deadlines, sessions: dict[int, FakeSession], start: int, stop: int) -> tuple[list, list]:
    """Look every 50 ms; returns (expired, silent) as (session, when)."""
    expired, silent = [], []
    for now in range(start, stop, STEP):
        if now >= deadlines.next_deadline():
            verdict = deadlines.look(sessions, now)
            expired += [(session, now) for session in verdict.expire]
            silent += [(session, now) for session, _ in verdict.silent]
    return expired, silent


def test_a_silent_session_expires_after_its_timeout_and_not_before():
    """A lease counts from the last acknowledged touch: nobody expires earlier than that plus the timeout."""
    sessions = {7: FakeSession()}
    deadlines = Deadlines(BALLOT, 0)
    deadlines.begin(sessions, 0, GRACE, 0)
    expired, silent = run(deadlines, sessions, 0, 6 * SECOND)
    assert [session for session, _ in expired] == [7]
    assert 4 * SECOND <= expired[0][1] <= 4 * SECOND + 500 * MILLISECOND
    assert silent
    assert 2 * SECOND <= silent[0][1] <= 2 * SECOND + 500 * MILLISECOND


def test_touches_keep_a_session():
    """A session that is touched at least once a timeout never expires."""
    sessions = {7: FakeSession()}
    deadlines = Deadlines(BALLOT, 0)
    deadlines.begin(sessions, 0, GRACE, 0)
    at = 0
    for _ in range(10):
        expired, _ = run(deadlines, sessions, at, at + SECOND)
        assert expired == []
        at += SECOND
        assert deadlines.touch(7, 2, sessions, at)


def test_no_touch_is_acknowledged_while_an_expiry_is_under_way():
    """Otherwise a client would believe in a lease that the log is about to end."""
    sessions = {7: FakeSession()}
    deadlines = Deadlines(BALLOT, 0)
    deadlines.begin(sessions, 0, GRACE, 0)
    run(deadlines, sessions, 0, 3 * SECOND)
    deadlines.settled(deadlines.proposed(), 3 * SECOND)  # of its silence nothing is left but the expiry to come
    expired, _ = run(deadlines, sessions, 3 * SECOND, 5 * SECOND)
    assert expired
    assert not deadlines.touch(7, 2, sessions, 5 * SECOND)
    deadlines.settled(deadlines.proposed(), 5 * SECOND)
    assert deadlines.touch(7, 2, sessions, 5 * SECOND), "the expiry was void: the session lives"


def test_no_touch_is_acknowledged_while_a_silence_is_on_its_way_or_logged():
    """A next leader would believe the record, so the touch counts only once the record is cancelled."""
    sessions = {7: FakeSession()}
    deadlines = Deadlines(BALLOT, 0)
    deadlines.begin(sessions, 0, GRACE, 0)
    _, silent = run(deadlines, sessions, 0, 3 * SECOND)
    assert silent
    assert not deadlines.touch(7, 2, sessions, 3 * SECOND), "proposed"
    sessions[7].silent_since_ms = 0
    deadlines.settled(deadlines.proposed(), 3 * SECOND)
    assert not deadlines.touch(7, 2, sessions, 3 * SECOND), "logged"
    assert list(deadlines.awaking) == [7]
    sessions[7].silent_since_ms = None
    assert deadlines.touch(7, 2, sessions, 3 * SECOND), "cancelled"


def test_a_new_leader_grants_the_living_their_whole_timeout_and_the_silent_only_the_rest():
    """Leader churn keeps no dead holder alive, and kills nobody who lives."""
    sessions = {1: FakeSession(), 2: FakeSession(silent_since_ms=10_000)}
    begin = 100 * SECOND
    deadlines = Deadlines(BALLOT, begin)
    deadlines.begin(sessions, 13_000, GRACE, begin)
    expired, _ = run(deadlines, sessions, begin, begin + 6 * SECOND)
    when = dict(expired)
    assert begin + 3 * SECOND <= when[2] <= begin + 3 * SECOND + 500 * MILLISECOND
    assert begin + 4 * SECOND <= when[1] <= begin + 4 * SECOND + 500 * MILLISECOND


def test_a_late_leader_expires_nobody_before_the_pings_are_drained():
    """A leader that was paused moves every deadline by the gap (etcd #15247 revoked everyone's leases)."""
    sessions = {7: FakeSession()}
    deadlines = Deadlines(BALLOT, 0)
    deadlines.begin(sessions, 0, GRACE, 0)
    run(deadlines, sessions, 0, SECOND)
    woken = 100 * SECOND
    assert deadlines.look(sessions, woken).expire == []
    expired, _ = run(deadlines, sessions, woken + STEP, woken + 2 * SECOND)
    assert expired == []
    expired, _ = run(deadlines, sessions, woken + 2 * SECOND, woken + 5 * SECOND)
    assert expired


def test_an_origin_that_was_away_costs_its_sessions_nothing():
    """The silence of a follower is not the silence of its clients."""
    sessions = {1: FakeSession(), 2: FakeSession()}
    deadlines = Deadlines(BALLOT, 0)
    deadlines.begin(sessions, 0, GRACE, 0)
    assert deadlines.touch(1, 2, sessions, 0)
    assert deadlines.touch(2, 3, sessions, 0)
    run(deadlines, sessions, 0, 3 * SECOND)
    deadlines.extend(3 * SECOND, 3 * SECOND, via=2)
    expired, _ = run(deadlines, sessions, 3 * SECOND, 5 * SECOND)
    assert [session for session, _ in expired] == [2]


def test_a_round_of_touches_is_answered_once_and_repeated_when_its_answer_is_lost():
    """What an unanswered round said goes along with the next one."""
    touches = Touches(25 * MILLISECOND)
    assert touches.due(0, SECOND)
    first, sessions = touches.start([1, 2], 0)
    assert sessions == (1, 2)
    assert not touches.due(30 * MILLISECOND, SECOND)
    touches.doubt()
    assert touches.due(30 * MILLISECOND, SECOND)
    second, sessions = touches.start([3], 30 * MILLISECOND)
    assert sessions == (1, 2, 3)
    assert touches.answered(first, ()) == ()
    assert touches.answered(second, (2,)) == (1, 3)
    assert touches.answered(second, ()) == ()
