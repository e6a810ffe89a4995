"""Sessions outlive leaders, and the dead do not: docs/GUARANTEES.md, sessions."""

from __future__ import annotations

from dataclasses import dataclass

from synod.base import MILLISECOND, SECOND, Ballot
from synod.replica import CellClock, Deadlines, Touches

BALLOT = Ballot(3, 1)
SOON = SECOND // 2
OUTAGE = 4 * SOON
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
        verdict = deadlines.look(sessions, now)
        expired += [(session, now) for session in verdict.expire]
        silent += [(session, now) for session, _ in verdict.silent]
    return expired, silent


def reigning(sessions: dict[int, FakeSession], began: int = 0, *, outage: int = 0) -> Deadlines:
    """The deadlines of a leader that begins."""
    deadlines = Deadlines(BALLOT, soon=SOON, outage=outage, began=began)
    deadlines.begin(sessions)
    return deadlines


def test_a_silent_session_expires_after_its_timeout_and_not_before():
    """A lease counts from the last acknowledged touch: nobody expires earlier than that plus the timeout."""
    sessions = {7: FakeSession()}
    deadlines = reigning(sessions)
    expired, silent = run(deadlines, sessions, 0, 6 * SECOND)
    assert [session for session, _ in expired] == [7]
    assert 4 * SECOND <= expired[0][1] <= 4 * SECOND + 500 * MILLISECOND
    assert silent
    assert SOON <= silent[0][1] <= SOON + 250 * MILLISECOND


def test_touches_keep_a_session():
    """A session that is touched at least once a timeout never expires."""
    sessions = {7: FakeSession()}
    deadlines = reigning(sessions)
    at = 0
    for _ in range(10):
        expired, _ = run(deadlines, sessions, at, at + SECOND)
        assert expired == []
        at += SECOND
        deadlines.settled(deadlines.proposed(), at)
        assert deadlines.touch(7, 2, sessions, at)


def test_no_touch_is_acknowledged_while_an_expiry_is_under_way():
    """Otherwise a client would believe in a lease that the log is about to end."""
    sessions = {7: FakeSession()}
    deadlines = reigning(sessions)
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
    deadlines = reigning(sessions)
    _, silent = run(deadlines, sessions, 0, 3 * SECOND)
    assert silent
    assert not deadlines.touch(7, 2, sessions, 3 * SECOND), "proposed"
    sessions[7].silent_since_ms = 0
    deadlines.settled(deadlines.proposed(), 3 * SECOND)
    assert not deadlines.touch(7, 2, sessions, 3 * SECOND), "logged"
    assert deadlines.take_awaking() == (7,)
    sessions[7].silent_since_ms = None
    assert deadlines.touch(7, 2, sessions, 3 * SECOND), "cancelled"


def test_a_silence_is_cancelled_once_however_often_the_session_is_touched_meanwhile():
    """Origins touch again until they are answered; without a quorum a record for each would fill the memory."""
    sessions = {7: FakeSession(timeout_ms=8_000, silent_since_ms=0)}
    deadlines = reigning(sessions)
    assert not deadlines.touch(7, 2, sessions, SECOND)
    assert deadlines.take_awaking() == (7,)
    for at in range(SECOND, 3 * SECOND, STEP):
        assert not deadlines.touch(7, 2, sessions, at)
    assert deadlines.take_awaking() == ()
    assert deadlines.proposed() == (7,)
    deadlines.settled(deadlines.proposed(), 3 * SECOND)
    assert not deadlines.touch(7, 2, sessions, 3 * SECOND), "the record was void: another is needed"
    assert deadlines.take_awaking() == (7,)


def test_a_record_of_a_silence_that_a_write_ended_before_it_is_cancelled_at_once():
    """The write is in the log before the record; a next leader would count from before the write."""
    sessions = {7: FakeSession()}
    deadlines = reigning(sessions)
    _, silent = run(deadlines, sessions, 0, SECOND)
    assert silent
    deadlines.touched(7, SECOND)
    sessions[7].silent_since_ms = 0
    deadlines.settled(deadlines.proposed(), SECOND)
    assert deadlines.take_awaking() == (7,)


def test_an_old_leader_logs_only_silences_that_the_living_do_not_reach():
    """Clients ping at a third of their timeout: once a leader has reigned for half of it, their pings are not logged."""
    sessions = {7: FakeSession()}
    deadlines = reigning(sessions)
    for at in range(0, 6 * SECOND, SECOND):
        run(deadlines, sessions, at, at + SECOND)
        deadlines.settled(deadlines.proposed(), at + SECOND)
        assert deadlines.touch(7, 2, sessions, at + SECOND)
    expired, silent = run(deadlines, sessions, 6 * SECOND, 9 * SECOND)
    assert not expired
    assert 8 * SECOND <= silent[0][1] <= 8 * SECOND + 250 * MILLISECOND


def test_who_falls_silent_again_early_in_a_reign_is_noticed_as_soon():
    """The record that ended its first silence says that it may have been heard at any time since."""
    sessions = {7: FakeSession(timeout_ms=30_000, silent_since_ms=0)}
    deadlines = reigning(sessions, 5 * SECOND)
    run(deadlines, sessions, 5 * SECOND, 6 * SECOND)
    deadlines.touch(7, 2, sessions, 6 * SECOND)
    sessions[7].silent_since_ms = None
    deadlines.touched(7, 6 * SECOND)
    _, silent = run(deadlines, sessions, 6 * SECOND, 9 * SECOND)
    assert 6 * SECOND + SOON <= silent[0][1] <= 6 * SECOND + 2 * SOON + 250 * MILLISECOND


def test_a_new_leader_grants_the_living_their_whole_timeout_and_the_silent_only_the_rest():
    """Leader churn keeps no dead holder alive, and kills nobody who lives."""
    sessions = {1: FakeSession(), 2: FakeSession(silent_since_ms=99_000)}
    begin = 100 * SECOND
    deadlines = reigning(sessions, begin)
    expired, _ = run(deadlines, sessions, begin, begin + 6 * SECOND)
    when = dict(expired)
    assert begin + 3 * SECOND <= when[2] <= begin + 3 * SECOND + 500 * MILLISECOND
    assert begin + 4 * SECOND <= when[1] <= begin + 4 * SECOND + 500 * MILLISECOND


def test_a_new_leader_hears_who_can_reach_it_before_it_expires_anybody():
    """However long the log says that they were silent: what pends at the replicas is on its way to the new leader."""
    sessions = {1: FakeSession(silent_since_ms=0), 2: FakeSession(silent_since_ms=0)}
    begin = 100 * SECOND
    deadlines = reigning(sessions, begin)
    expired, _ = run(deadlines, sessions, begin, begin + SOON)
    assert expired == []
    assert not deadlines.touch(1, 2, sessions, begin + SOON - STEP)
    expired, _ = run(deadlines, sessions, begin + SOON, begin + 2 * SOON)
    assert [session for session, _ in expired] == [2]


def test_after_an_outage_clients_have_time_to_find_their_way_back():
    """They were let go meanwhile, and dial again at their own pace."""
    sessions = {1: FakeSession(silent_since_ms=0), 2: FakeSession(timeout_ms=30_000, silent_since_ms=0)}
    begin = 100 * SECOND
    deadlines = reigning(sessions, begin, outage=OUTAGE)
    expired, _ = run(deadlines, sessions, begin, begin + 12 * SECOND)
    when = dict(expired)
    assert begin + OUTAGE <= when[1] <= begin + OUTAGE + 250 * MILLISECOND
    assert begin + 10 * SECOND <= when[2] <= begin + 10 * SECOND + 250 * MILLISECOND


def test_many_silences_are_logged_a_thousand_at_a_time():
    """One batch of ten thousand records would keep everybody waiting after a change of leaders."""
    sessions = {id_: FakeSession() for id_ in range(2_500)}
    deadlines = reigning(sessions)
    counts = [len(deadlines.look(sessions, SOON + 2 * STEP * i).silent) for i in range(2, 8)]
    assert max(counts) == 1_000
    assert sum(counts) == 2_500


def test_an_expiry_does_not_wait_for_the_silences_of_others():
    """With more sessions than looks have room for, a dead holder would be freed so much later."""
    sessions = {id_: FakeSession() for id_ in range(20_000)} | {20_000: FakeSession(silent_since_ms=0)}
    begin = 100 * SECOND
    deadlines = reigning(sessions, begin)
    expired, silent = run(deadlines, sessions, begin, begin + 3 * SECOND)
    assert [session for session, _ in expired] == [20_000]
    assert expired[0][1] <= begin + SOON + 250 * MILLISECOND
    assert len(silent) == len({session for session, _ in silent}) == 20_000


def test_who_is_touched_before_its_silence_is_logged_is_answered_at_once():
    """No record of it is on its way, and none is needed any more."""
    sessions = {id_: FakeSession() for id_ in range(3_000)}
    deadlines = reigning(sessions)
    _, silent = run(deadlines, sessions, 0, SOON + 3 * STEP)
    assert len(silent) < 3_000
    assert deadlines.touch(2_999, 2, sessions, SOON + 3 * STEP)
    _, silent = run(deadlines, sessions, SOON + 3 * STEP, 2 * SOON)
    assert 2_998 in dict(silent)
    assert 2_999 not in dict(silent)


def test_no_silence_is_logged_while_nothing_can_be_chosen():
    """Its end could not be logged either: a client that is heard again would get no answer, however long that takes."""
    sessions = {7: FakeSession()}
    deadlines = reigning(sessions)
    assert deadlines.look(sessions, 2 * SECOND, read_only=True).silent == []
    assert deadlines.proposed() == ()
    assert deadlines.touch(7, 2, sessions, 2 * SECOND)
    assert deadlines.look(sessions, 5 * SECOND, read_only=True).silent == []
    assert deadlines.look(sessions, 5 * SECOND + STEP).silent == [(7, 2 * SECOND)]


def test_cell_time_goes_on_from_leader_to_leader():
    """The end of a reign and the election count as silence, or a dead holder would live on as leaders change."""
    clock = CellClock(0, OUTAGE, 0)
    clock.applied(7_000, 50 * SECOND, followed=True)
    assert clock.start(7_000, 51 * SECOND) == 8 * SECOND
    assert not clock.interrupted
    assert clock.read(51 * SECOND + STEP) == 8 * SECOND + STEP


def test_cell_time_stands_still_while_nobody_could_be_heard():
    """Without a leader for long, after a start of which nobody knows how long it took, and while a leader is paused."""
    clock = CellClock(7_000, OUTAGE, 50 * SECOND)
    assert clock.start(7_000, 51 * SECOND) == 7 * SECOND
    assert clock.interrupted, "it has followed nobody since it started"
    clock.applied(7_000, 50 * SECOND, followed=True)
    assert clock.start(7_000, 50 * SECOND + OUTAGE + 1) == 7 * SECOND
    assert clock.interrupted
    woken = 100 * SECOND
    assert clock.read(woken) <= 7 * SECOND + 2 * STEP
    assert clock.stood


def test_an_origin_that_was_away_costs_its_sessions_nothing():
    """The silence of a follower is not the silence of its clients."""
    sessions = {1: FakeSession(), 2: FakeSession()}
    deadlines = reigning(sessions)
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
