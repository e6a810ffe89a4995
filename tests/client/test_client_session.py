"""The session alone: a manual clock, and the test as the cell."""

from __future__ import annotations

import pytest
from client_world import DATA, HOSTS, LEASE, STAT, TIMEOUT, World

from synod import wire
from synod.base import (
    MILLISECOND,
    SECOND,
    AuthFailed,
    BadArguments,
    BadVersion,
    ConnectionLoss,
    NotApplied,
    OperationTimeout,
    OutcomeUnknown,
    QuotaExceeded,
    SessionExpired,
    UserError,
)
from synod.client import Unavailable


def kinds(answers):
    return {sink: type(value) if isinstance(value, Exception) else value for sink, value in answers.items()}


# -- opening, resuming ------------------------------------------------------------------------------------


def test_a_session_is_opened_and_keeps_what_the_cell_grants():
    """The cell decides id, password and timeout."""
    world = World()
    request = world.connect(session_id=5, timeout_ms=4_000)
    assert request == wire.ConnectRequest(0, TIMEOUT // MILLISECOND, 0, bytes(16), False)
    assert world.states() == ["connected"]
    assert (world.session.session_id, world.session.timeout) == (5, 4 * SECOND)


def test_a_session_is_resumed_by_id_and_password_and_never_on_a_replica_that_is_behind():
    """After a lost connection the same session is attached, with the last zxid that was seen."""
    world = World()
    world.connect(session_id=5)
    world.set()
    ((header, _),) = world.arrived()
    world.answer(header.xid, STAT.encode(), zxid=900)
    world.cut()
    assert world.connect(session_id=5) == wire.ConnectRequest(900, TIMEOUT // MILLISECOND, 5, b"p" * 16, False)
    assert world.states() == ["connected", "suspended", "connected"]


def test_another_process_may_resume_a_session():
    """Who has id and password attaches from the start."""
    world = World(session_id=9, password=b"q" * 16, last_zxid_seen=3)
    assert world.dial() == wire.ConnectRequest(3, TIMEOUT // MILLISECOND, 9, b"q" * 16, False)


def test_every_address_is_tried_once_per_round_and_the_pauses_grow():
    """Random order; no pause within a round; between rounds one that grows up to its bound."""
    world = World()
    pauses, tried = [], []
    for _ in range(8):
        before = world.now
        for _ in HOSTS:
            address = world.session.dial(world.now)
            if address is None:
                world.now = world.session.next_deadline()
                address = world.session.dial(world.now)
            tried.append(address)
            world.session.lost("refused")
        pauses.append(world.now - before)
    assert all(set(tried[i : i + 3]) == set(HOSTS) for i in range(0, len(tried), 3))
    assert pauses[0] == 0
    assert 0 < pauses[1] <= 100 * MILLISECOND
    assert SECOND <= pauses[-1] <= 2 * SECOND


def test_a_replica_that_hangs_is_left_in_time_for_another():
    """An attempt that nobody answers ends before half of the timeout is over."""
    world = World()
    world.dial()
    world.pass_time(TIMEOUT // 2)
    assert world.session.hang_up
    assert "did not answer" in world.session.failure


def test_a_cell_that_answers_with_another_session_breaks_the_protocol():
    """Whoever asks for a session gets that one or none."""
    world = World()
    world.connect(session_id=5)
    world.cut()
    world.dial()
    world.greet(session_id=6)
    assert world.session.hang_up
    assert world.session.session_id == 5


# -- requests ---------------------------------------------------------------------------------------------


def test_answers_come_in_order_and_carry_values_or_errors():
    """First in, first out; an error number becomes an error whose sentence says what was not done."""
    world = World()
    world.connect()
    world.get(sink="g")
    world.set(sink="s")
    first, second = world.arrived()
    assert [first[1], second[1]] == [wire.GetData("/a"), wire.SetData("/a", b"v")]
    world.answer(first[0].xid, DATA)
    world.answer(second[0].xid, err=-103)
    answers = world.answers()
    assert answers["g"] == (b"v", STAT)
    assert isinstance(answers["s"], BadVersion)
    assert "set /a" in str(answers["s"])
    assert "nothing was changed" in str(answers["s"])


def test_an_answer_out_of_turn_breaks_the_protocol():
    """A reply to anything but the oldest request cannot be trusted; the outcome of all is unknown."""
    world = World()
    world.connect()
    world.set(sink="one")
    world.set(sink="two")
    _, (second, _) = world.arrived()
    world.answer(second.xid, STAT.encode())
    assert kinds(world.answers()) == {"one": ConnectionLoss, "two": ConnectionLoss}
    assert world.session.hang_up


@pytest.mark.parametrize("xid", [wire.XID_PING, wire.XID_AUTH, -99])
def test_an_answer_to_nothing_breaks_the_protocol(xid):
    """Nor a reply to what was never asked."""
    world = World()
    world.connect()
    world.answer(xid)
    assert world.session.hang_up


def test_a_lost_connection_repeats_reads_and_leaves_writes_unknown():
    """OutcomeUnknown for a write under way; a read is asked again by itself, before what waited behind it."""
    world = World()
    world.connect()
    world.get("/r", "read")
    world.set("/w", "write")
    assert len(world.arrived()) == 2
    world.cut()
    world.set("/later", "later")
    assert kinds(world.answers()) == {"write": ConnectionLoss}
    world.connect()
    assert [request for _, request in world.arrived()] == [wire.GetData("/r"), wire.SetData("/later", b"v")]


def test_what_was_never_sent_is_definite_when_its_time_is_over():
    """Unavailable, not OperationTimeout: nothing happened; the sentence says why no replica could be reached."""
    world = World()
    world.set(sink="write", deadline=world.now + SECOND)
    world.session.dial(world.now)
    world.cut("a:1 refused")
    world.pass_time(SECOND)
    error = world.answers()["write"]
    assert isinstance(error, Unavailable)
    assert isinstance(error, NotApplied)
    assert "a:1 refused" in str(error)


def test_what_was_sent_is_indefinite_when_its_time_is_over_unless_it_only_reads():
    """A late write may still happen; a late read changed nothing. A late answer is dropped, and the order kept."""
    world = World()
    world.connect()
    world.set(sink="write", deadline=world.now + SECOND)
    world.get(sink="read", deadline=world.now + SECOND)
    world.set(sink="next", deadline=world.now + 10 * SECOND)
    (one, _), (two, _), (three, _) = world.arrived()
    world.pass_time(SECOND)
    assert kinds(world.answers()) == {"write": OperationTimeout, "read": Unavailable}
    world.answer(one.xid, STAT.encode())
    world.answer(two.xid, DATA)
    world.answer(three.xid, STAT.encode())
    assert world.answers() == {"next": STAT}


def test_a_cancelled_request_that_was_not_sent_is_never_sent():
    """And one that was sent keeps its place in the order."""
    world = World()
    waiting = world.set("/never", "never")
    world.session.cancel(waiting)
    world.connect()
    assert world.arrived() == []
    sent = world.set("/sent", "sent")
    world.set("/next", "next")
    (one, _), (two, _) = world.arrived()
    world.session.cancel(sent)
    world.answer(one.xid, STAT.encode())
    world.answer(two.xid, STAT.encode())
    assert world.answers() == {"next": STAT}


def test_requests_under_way_and_waiting_are_bounded():
    """What is more than the window waits here; what is more than may wait is refused, and not sent."""
    world = World(in_flight_requests_max=2, waiting_requests_max=2)
    world.connect()
    for i in range(4):
        world.set(f"/{i}", str(i))
    sent = world.arrived()
    assert len(sent) == 2
    with pytest.raises(QuotaExceeded, match="nothing was sent"):
        world.set("/5", "5")
    world.answer(sent[0][0].xid, STAT.encode())
    assert [request.path for _, request in world.arrived()] == ["/2"]


def test_a_request_that_no_replica_would_take_is_refused_here():
    """The connection is not lost over a value that is too large."""
    world = World()
    world.connect()
    with pytest.raises(BadArguments, match="nothing was sent"):
        world.session.submit(wire.SetData("/a", bytes(wire.FRAME_BYTES_MAX)), path="/a", take=None, sink=0)
    assert world.arrived() == []


def test_request_numbers_begin_again_before_they_would_overflow():
    """After 2^31 - 1 comes 1: negative numbers mean something else."""
    world = World()
    world.connect()
    world.session._xid = wire.XID_MAX - 1
    world.set(sink="last")
    world.set(sink="first")
    assert [header.xid for header, _ in world.arrived()] == [wire.XID_MAX, 1]


def test_nothing_is_sent_while_the_socket_takes_no_more():
    """Back-pressure: requests wait here, in order."""
    world = World()
    world.connect()
    world.session.set_writable(False)
    world.set()
    assert world.arrived() == []
    world.session.set_writable(True)
    assert len(world.arrived()) == 1


# -- the lease --------------------------------------------------------------------------------------------


def test_the_lease_counts_from_the_send_time_of_the_last_answered_ping():
    """Not from when the answer came, and not from other answers: the cell may have begun to count at the send."""
    world = World()
    world.connect()
    opened = world.now
    assert world.session.lease_deadline == opened + LEASE
    world.pass_time(TIMEOUT // 4)
    assert [request for _, request in world.arrived()] == [wire.Bare(wire.OP_PING)]
    sent = world.now
    world.set()
    ((header, _),) = world.arrived()
    world.pass_time(SECOND)
    world.answer(header.xid, STAT.encode())
    assert world.session.lease_deadline == opened + LEASE
    world.answer_ping()
    assert world.session.lease_deadline == sent + LEASE


def test_a_busy_session_pings_as_well():
    """Answers to requests do not prolong the lease, so they do not put pings off either."""
    world = World()
    world.connect()
    pings = 0
    for _ in range(16):
        world.set()
        for header, request in world.arrived():
            if request == wire.Bare(wire.OP_PING):
                pings += 1
                world.answer_ping()
            else:
                world.answer(header.xid, STAT.encode())
        world.pass_time(TIMEOUT // 8)
    assert pings >= 7


def test_a_lease_that_is_not_prolonged_lapses_before_the_cell_could_end_the_session():
    """With the margin: told once, at the deadline, however the connection fares."""
    world = World()
    world.connect()
    opened = world.now
    world.cut()
    world.drain()
    world.now = opened + LEASE - 1
    world.session.tick(world.now)
    assert world.lapses() == []
    world.now += 1
    world.session.tick(world.now)
    assert len(world.lapses()) == 1
    assert world.now < opened + TIMEOUT
    world.session.tick(world.now + SECOND)
    assert world.lapses() == []


def test_a_process_that_was_suspended_learns_of_the_lapse_before_anything_else():
    """The clock runs on during suspend: an answer that waited in the socket comes too late for the old lease."""
    world = World()
    world.connect()
    world.pass_time(TIMEOUT // 4)
    world.now += 10 * TIMEOUT
    world.answer_ping()
    assert len(world.lapses()) == 1


def test_an_answer_that_was_on_its_way_keeps_the_lease_of_a_process_that_paused():
    """Paused past the old lease, but not past the one that the waiting answer grants: nothing is lost."""
    world = World()
    world.connect()
    world.now += TIMEOUT // 4
    world.session.tick(world.now)
    sent = world.now
    world.now = sent + LEASE - 1
    world.answer_ping()
    assert world.lapses() == []
    assert world.session.lease_deadline == sent + LEASE


def test_a_resumed_session_has_a_lease_again():
    """Attaching counts as hearing: from the send time of the connect request."""
    world = World()
    world.connect()
    world.cut()
    world.pass_time(LEASE)
    assert len(world.lapses()) == 1
    sent = world.now
    world.dial()
    world.now += SECOND
    world.greet()
    assert world.session.lease_deadline >= sent + LEASE
    assert world.session.lease_deadline < world.now + LEASE


def test_a_silent_connection_is_left_while_the_session_can_still_be_saved():
    """A third of the timeout is left to find a better replica."""
    world = World()
    world.connect()
    opened = world.now
    world.pass_time(TIMEOUT * 2 // 3)
    assert world.states() == ["connected", "suspended"]
    assert world.now <= opened + TIMEOUT * 2 // 3


def test_a_connection_that_chatters_but_answers_no_ping_is_left():
    """A replica without a leader may still send events; its pings stay unanswered, and the lease runs out."""
    world = World()
    world.connect()
    for _ in range(40):
        world.pass_time(TIMEOUT // 20)
        if world.session.state != "connected":
            break
        world.tell(wire.EVENT_DATA_CHANGED, "/elsewhere")
    assert world.session.state == "suspended"


# -- the end of a session ---------------------------------------------------------------------------------


def test_an_expired_session_fails_what_hung_on_it_and_a_new_one_is_opened():
    """Ephemerals are gone: no unsent write may slip into the new session. Plain reads go on."""
    world = World()
    world.connect(session_id=5)
    seen = []
    world.get("/w", "watched", watcher=seen.append)
    ((header, _),) = world.arrived()
    world.answer(header.xid, DATA)
    world.cut()
    world.set("/unsent", "write")
    world.get("/plain", "read")
    world.get("/again", "watch", watcher=seen.append)
    world.drain()
    world.connect(session_id=0, timeout_ms=0)
    events = world.drain()
    assert [e.state for e in events if hasattr(e, "reason")] == ["expired", "connecting"]
    errors = {e.sink: type(e.error) for e in events if hasattr(e, "sink")}
    assert errors == {"write": SessionExpired, "watch": SessionExpired}
    assert [e.event for e in events if hasattr(e, "watchers")] == [
        wire.WatcherEvent(wire.EVENT_NONE, wire.STATE_EXPIRED, "/w")
    ]
    assert world.connect(session_id=6).session_id == 0
    assert [request for _, request in world.arrived()] == [wire.GetData("/plain")]


def test_an_expiry_lapses_the_lease_even_when_it_comes_early():
    """An operator may end a session: what it held is lost at once."""
    world = World()
    world.connect(session_id=5)
    world.cut()
    world.drain()
    world.connect(session_id=0, timeout_ms=0)
    assert len(world.lapses()) == 1


def test_a_request_that_the_cell_refuses_as_expired_ends_the_session():
    """Definite for that request; what came behind it has an unknown outcome."""
    world = World()
    world.connect(session_id=5)
    world.set(sink="one")
    world.set(sink="two")
    (header, _), _ = world.arrived()
    world.answer(header.xid, err=wire.ERR_SESSION_EXPIRED)
    answers = world.answers()
    assert kinds(answers) == {"one": SessionExpired, "two": ConnectionLoss}
    assert world.session.session_id == 0


def test_closing_waits_for_what_was_sent_and_refuses_what_was_not():
    """close: the last request of the session; then nothing more."""
    world = World(in_flight_requests_max=1)
    world.connect()
    world.set(sink="sent")
    world.set(sink="unsent")
    world.session.close("bye", world.now)
    (one, _), (close, request) = world.arrived()
    assert request == wire.Bare(wire.OP_CLOSE_SESSION)
    world.answer(one.xid, STAT.encode())
    world.answer(close.xid)
    answers = world.answers()
    assert answers["sent"] == STAT
    assert isinstance(answers["unsent"], NotApplied)
    assert answers["bye"] is None
    assert world.session.state == "closed"
    with pytest.raises(UserError, match="closed"):
        world.set()


@pytest.mark.parametrize("connected", [True, False])
def test_closing_ends_even_when_the_cell_says_nothing(connected):
    """The session then ends by its timeout; the caller does not wait for that."""
    world = World()
    if connected:
        world.connect()
    world.session.close("bye", world.now)
    world.pass_time(2 * SECOND)
    assert world.answers() == {"bye": None}
    assert world.session.state == "closed"
    assert world.session.next_deadline() is None


def test_closing_fires_every_watch_and_lapses_the_lease():
    """Nobody waits forever on a closed client."""
    world = World()
    world.connect()
    world.get("/w", watcher=print)
    ((header, _),) = world.arrived()
    world.answer(header.xid, DATA)
    world.session.close("bye", world.now)
    world.cut()
    events = world.drain()
    assert [e.event.state for e in events if hasattr(e, "watchers")] == [wire.STATE_CLOSED]


# -- watches ----------------------------------------------------------------------------------------------


def watched(world, path="/w", seen=None):
    world.get(path, watcher=(seen if seen is not None else []).append)
    ((header, _),) = world.arrived()
    world.answer(header.xid, DATA, zxid=50)


def test_a_watch_fires_once_and_before_the_reply_that_shows_the_change():
    """One-shot; the order of the connection is the order of the events."""
    world = World()
    world.connect()
    watched(world)
    world.get("/w", "again")
    ((header, _),) = world.arrived()
    world.drain()
    world.tell(wire.EVENT_DATA_CHANGED, "/w")
    world.answer(header.xid, DATA)
    first, second = world.drain()
    assert first.event.type == wire.EVENT_DATA_CHANGED
    assert second.sink == "again"
    world.tell(wire.EVENT_DATA_CHANGED, "/w")
    assert world.drain() == []


def test_watches_are_set_again_on_the_next_connection_with_the_last_zxid_seen():
    """The server fires at once what was missed in between."""
    world = World()
    world.connect()
    watched(world, "/data")
    exists = wire.Exists("/none", True)
    world.session.submit(exists, path="/none", take=wire.take_stat, sink=0, watcher=print, repeatable=True)
    children = wire.GetChildren("/dir", True)
    world.session.submit(children, path="/dir", take=wire.take_children, sink=0, watcher=print, kind=2, repeatable=True)
    (one, _), (two, _) = world.arrived()
    world.answer(one.xid, err=wire.ERR_NO_NODE)
    world.answer(two.xid, wire.pack_strings(["x"]))
    world.cut()
    world.connect()
    ((header, request),) = world.arrived()
    assert header.xid == wire.XID_SET_WATCHES
    assert request == wire.SetWatches(50, ("/data",), ("/none",), ("/dir",))
    world.answer(wire.XID_SET_WATCHES)
    assert world.session.state == "connected"


def test_a_watch_of_a_read_that_failed_is_not_there():
    """A get of a missing znode sets no watch; only exists does."""
    world = World()
    world.connect()
    world.get("/none", watcher=print)
    ((header, _),) = world.arrived()
    world.answer(header.xid, err=wire.ERR_NO_NODE)
    world.cut()
    world.connect()
    assert world.arrived() == []


def test_many_watches_are_set_again_in_frames_that_a_server_takes():
    """ZooKeeper's limit is a megabyte; each frame stays far below, and none is forgotten."""
    world = World()
    world.connect()
    paths = [f"/{'x' * 200}/{i}" for i in range(2_000)]
    for path in paths:
        world.session.watches.add(0, path, print)
    world.cut()
    world.connect()
    frames = world.arrived()
    assert len(frames) > 1
    assert sorted(path for _, request in frames for path in request.data) == sorted(paths)
    assert all(len(request.encode()) < 300_000 for _, request in frames)


@pytest.mark.parametrize(
    ("event", "fires"),
    [
        (wire.EVENT_CREATED, {"data", "exist"}),
        (wire.EVENT_DATA_CHANGED, {"data", "exist"}),
        (wire.EVENT_DELETED, {"data", "exist", "child"}),
        (wire.EVENT_CHILDREN_CHANGED, {"child"}),
    ],
)
def test_each_event_uses_up_the_watches_that_the_server_used_up(event, fires):
    """As ZooKeeper's own client sorts them; the others stay."""
    world = World()
    told = set()
    names = {"data": 0, "exist": 1, "child": 2}
    watchers = {name: (lambda _, name=name: told.add(name)) for name in names}
    for name, kind in names.items():
        world.session.watches.add(kind, "/a", watchers[name])
    for watcher in world.session.watches.fire(wire.WatcherEvent(event, 3, "/a")):
        watcher(None)
    assert told == fires
    assert len(world.session.watches) == 3 - len(fires)


# -- authentication ---------------------------------------------------------------------------------------


def test_credentials_are_sent_on_every_connection_before_anything_else():
    """Also before the watches, which may depend on them."""
    world = World()
    world.session.add_auth("digest", b"u:p", sink="auth")
    world.connect()
    ((header, request),) = world.arrived()
    assert (header.xid, request) == (wire.XID_AUTH, wire.AuthRequest("digest", b"u:p"))
    world.answer(wire.XID_AUTH)
    assert world.answers() == {"auth": None}
    watched(world)
    world.cut()
    world.connect()
    assert [header.xid for header, _ in world.arrived()] == [wire.XID_AUTH, wire.XID_SET_WATCHES]


def test_refused_credentials_fail_their_caller_only():
    """They are not sent again; the session goes on without them."""
    world = World()
    world.connect()
    world.session.add_auth("digest", b"bad", sink="auth")
    world.arrived()
    world.answer(wire.XID_AUTH, err=wire.ERR_AUTH_FAILED)
    assert isinstance(world.answers()["auth"], AuthFailed)
    world.cut()
    world.connect()
    assert world.arrived() == []


def test_credentials_that_are_refused_later_close_the_client():
    """To go on without them would refuse, or permit, the wrong things."""
    world = World()
    world.session.add_auth("digest", b"u:p", sink="auth")
    world.connect()
    world.answer(wire.XID_AUTH)
    world.cut()
    world.connect()
    world.answer(wire.XID_AUTH, err=wire.ERR_AUTH_FAILED)
    assert world.session.state == "closed"


# -- hostile ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1x", b"\0\0\0\0"])
@pytest.mark.parametrize("greeted", [True, False])
def test_garbage_closes_the_connection_and_never_raises(garbage, greeted):
    """RemoteProtocolError stays inside: the session turns to another replica."""
    world = World()
    world.dial()
    if greeted:
        world.greet()
        world.set(sink="write")
        world.arrived()
    world.deliver(garbage)
    assert world.session.hang_up
    assert world.session.state in ("connecting", "suspended")
    assert all(isinstance(value, OutcomeUnknown) for value in world.answers().values())


def test_everything_may_arrive_byte_by_byte():
    """The network cuts where it likes."""
    world = World()
    world.dial()
    stream = wire.framed(wire.encode_connect_response(4_000, 7, b"p" * 16, False))
    for byte in stream:
        world.deliver(bytes([byte]))
    world.get(sink="g")
    ((header, _),) = world.arrived()
    for byte in wire.encode_reply(header.xid, 3, 0, DATA):
        world.deliver(bytes([byte]))
    assert world.answers()["g"] == (b"v", STAT)
