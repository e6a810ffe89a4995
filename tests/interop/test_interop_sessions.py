"""Sessions over bare connections: what they are granted, what they survive, and how they end; the same on both."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from interop_wire import (
    CHILDREN,
    CLOSE,
    CREATE,
    DELETE,
    EXISTS,
    GET,
    PING,
    SET,
    SET_WATCHES,
    SYNC,
    Closed,
    Reader,
    Reply,
    Wire,
    create,
    read,
    set_data,
    set_watches,
    text,
    versioned,
    wait_until,
)
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss, SessionExpiredError
from kazoo.protocol.states import KazooState

from _peers import Peer

pytestmark = pytest.mark.slow

Connect = Callable[..., KazooClient]
Wires = Callable[..., Wire]

CREATED, DELETED, CHANGED, CHILDREN_CHANGED = 1, 2, 3, 4
CONNECTED = 3
NO_NODE, SESSION_MOVED = -101, -118
XID_SET_WATCHES = -8
EPHEMERAL = 1


def exists(wire: Wire, path: str, watch: bool = False) -> bool:
    reply = wire.ask(EXISTS, read(path, watch))
    assert reply.err in (0, NO_NODE)
    return reply.err == 0


@pytest.mark.parametrize(("asked", "granted"), [(1, 1_000), (-5, 1_000), (4_321, 4_321), (3_600_000, 10_000)])
def test_a_timeout_is_granted_within_bounds(wire: Wires, asked: int, granted: int) -> None:
    """What the client asks for, or the nearest bound."""
    assert wire(timeout_ms=asked).timeout_ms == granted


def test_a_greeting_is_complete(wire: Wires) -> None:
    """Version 0, a session that is not 0, 16 bytes of password, and the flag only for whoever sent one."""
    new, old = wire(), wire(read_only=None)
    assert (new.protocol, old.protocol) == (0, 0)
    assert new.session != old.session
    assert 0 not in (new.session, old.session)
    assert len(new.password or b"") == 16
    assert new.password != old.password
    assert new.greeting_rest == b"\0"
    assert old.greeting_rest in (b"", b"\0")


def test_a_session_is_resumed_by_id_and_password(wire: Wires, root: str) -> None:
    """At any server, with everything that was its own; a new timeout may be asked for."""
    first = wire(0, timeout_ms=5_000)
    assert first.ask(CREATE, create(root, b"", EPHEMERAL)).err == 0
    for replica in (1, 2, 0):
        first.drop()
        again = wire(replica, timeout_ms=6_000, session=first.session, password=first.password)
        assert (again.session, again.password, again.timeout_ms) == (first.session, first.password, 6_000)
        again.ask(SYNC, text("/"))
        stat = Reader(again.ask(EXISTS, read(root)).body).stat()
        assert stat["ephemeral_owner"] == first.session
        first = again


@pytest.mark.parametrize(
    "password", [bytes(16), bytes(range(16)), b"", b"x" * 40], ids=["zeros", "wrong", "no", "long"]
)
def test_a_wrong_password_is_refused(system: Peer, wire: Wires, root: str, password: bytes) -> None:
    """The answer names no session, the connection ends, and the owner goes on."""
    owner = wire(0)
    assert owner.ask(CREATE, create(root, b"", EPHEMERAL)).err == 0
    for replica in (0, 1):
        thief = wire(replica, session=owner.session, password=password)
        assert (thief.timeout_ms, thief.session, thief.password) == (0, 0, bytes(16))
        thief.wait_closed()
    if system.name == "ZooKeeper":  # whoever knows the id of a session may end its connection there, not the session
        owner = wire(0, session=owner.session, password=owner.password)
    assert owner.ask(SET, set_data(root, b"mine")).err == 0


def test_an_unknown_session_is_refused(wire: Wires) -> None:
    """As one that has expired."""
    nobody = wire(1, session=0x1234_5678_9ABC, password=bytes(16))
    assert (nobody.timeout_ms, nobody.session, nobody.password) == (0, 0, bytes(16))
    nobody.wait_closed()


def test_whoever_has_seen_the_future_is_turned_away(wire: Wires) -> None:
    """A client never goes back in time: it is closed without an answer, and tries another server."""
    with pytest.raises(Closed):
        wire(seen=1 << 60)


def test_whoever_has_seen_the_present_is_let_in(wire: Wires, root: str) -> None:
    """Also at a server that is about to learn of it."""
    writer = wire(0)
    for replica in (1, 2):
        seen = writer.ask(CREATE, create(f"{root}-{replica}")).zxid
        try:
            follower = wire(replica, seen=seen)
        except Closed:  # it may be behind by the time of one message, and ZooKeeper's does not wait for it
            writer.ask(SYNC, text("/"))
            wire(replica).ask(SYNC, text("/"))
            follower = wire(replica, seen=seen)
        assert exists(follower, f"{root}-{replica}")


def test_closing_ends_the_session_and_what_it_owned(wire: Wires, root: str) -> None:
    """The reply comes before the end of the connection, the ephemerals are gone with it, their watchers are told."""
    owner, other = wire(0), wire(1)
    assert owner.ask(CREATE, create(root, b"", EPHEMERAL)).err == 0
    other.ask(SYNC, text("/"))
    assert exists(other, root, watch=True)
    reply = owner.ask(CLOSE)
    assert (reply.err, reply.body) == (0, b"")
    owner.wait_closed()
    assert other.wait_event() == (DELETED, CONNECTED, root.encode())
    assert not exists(other, root)
    after = wire(2, session=owner.session, password=owner.password)
    assert after.session == 0


def test_a_ping_is_a_header(wire: Wires) -> None:
    """Its xid is -2, whatever the client counts."""
    one = wire()
    for _ in range(3):
        reply = one.ping()
        assert (reply.xid, reply.err, reply.body) == (-2, 0, b"")
    before = one.ask(EXISTS, read("/"))
    assert one.ping().zxid >= before.zxid


def test_pings_keep_a_session_and_silence_ends_it(wire: Wires, root: str) -> None:
    """Of two sessions of four seconds the silent one expires; the other one outlives it by its pings alone."""
    silent, alive, witness = wire(0, timeout_ms=4_000), wire(1, timeout_ms=4_000), wire(2)
    began = time.monotonic()
    assert silent.ask(CREATE, create(f"{root}-silent", b"", EPHEMERAL)).err == 0
    assert alive.ask(CREATE, create(f"{root}-alive", b"", EPHEMERAL)).err == 0
    witness.ask(SYNC, text("/"))
    assert exists(witness, f"{root}-silent", watch=True)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.25):
            assert alive.ping().err == 0

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        assert witness.wait_event() == (DELETED, CONNECTED, f"{root}-silent".encode())
        assert time.monotonic() - began > 2.0
    finally:
        over.set()
        beating.join()
    assert exists(witness, f"{root}-alive")
    assert wire(1, session=silent.session, password=silent.password).session == 0
    silent.wait_closed()


def test_reading_keeps_a_session(wire: Wires) -> None:
    """Any request says that the client lives, not only a ping."""
    one = wire(1, timeout_ms=4_000)
    until = time.monotonic() + 6.0
    while time.monotonic() < until:
        assert one.ask(EXISTS, read("/")).err == 0
        time.sleep(0.2)


@pytest.mark.parametrize("elsewhere", [0, 1])
def test_a_session_has_one_connection(wire: Wires, root: str, elsewhere: int) -> None:
    """Whoever resumes a session takes it over: its older connection changes nothing any more."""
    older = wire(0)
    assert older.ask(CREATE, create(root, b"0")).err == 0
    # One request more than the newer will have sent: ZooKeeper's server takes the commit of a write from elsewhere
    # for the one that it waits for when session and xid are equal, and would answer the older with success.
    assert exists(older, root)
    newer = wire(elsewhere, session=older.session, password=older.password)
    assert newer.session == older.session
    newer.ask(SYNC, text("/"))
    assert newer.ask(SET, set_data(root, b"new")).err == 0
    try:
        assert older.ask(SET, set_data(root, b"old")).err == SESSION_MOVED
        older.wait_closed()
    except (Closed, ConnectionError):
        pass
    assert Reader(newer.ask(GET, read(root)).body).text() == b"new"


def test_watches_set_again_tell_what_was_missed(wire: Wires, root: str) -> None:
    """After a reconnect each watch is told at once of what has happened, or is set again."""
    gone, writer = wire(0), wire(1)
    for name in ("data", "same", "parent", "quiet", "doomed"):
        assert writer.ask(CREATE, create(f"{root}-{name}")).err == 0
    gone.ask(SYNC, text("/"))
    for name in ("data", "same", "doomed"):
        assert gone.ask(GET, read(f"{root}-{name}", watch=True)).err == 0
    for name in ("born", "unborn"):
        assert not exists(gone, f"{root}-{name}", watch=True)
    for name in ("parent", "quiet"):
        seen = gone.ask(CHILDREN, read(f"{root}-{name}", watch=True)).zxid
    gone.drop()
    assert writer.ask(SET, set_data(f"{root}-data", b"1")).err == 0
    assert writer.ask(CREATE, create(f"{root}-parent/child")).err == 0
    assert writer.ask(CREATE, create(f"{root}-born")).err == 0
    assert writer.ask(DELETE, versioned(f"{root}-doomed")).err == 0

    wire(2).ask(SYNC, text("/"))  # else it may not have come as far as we have seen, and would turn us away
    back = wire(2, session=gone.session, password=gone.password, seen=seen)
    back.ask(SYNC, text("/"))
    back.take_events()
    request = set_watches(
        seen,
        data=[f"{root}-data", f"{root}-same", f"{root}-doomed"],
        exist=[f"{root}-born", f"{root}-unborn"],
        child=[f"{root}-parent", f"{root}-quiet"],
    )
    reply = back.ask(SET_WATCHES, request, XID_SET_WATCHES)
    assert (reply.err, reply.body) == (0, b"")
    assert exists(back, "/")  # whatever is told at once has been told before this reply
    assert sorted(back.take_events()) == sorted(
        (kind, CONNECTED, f"{root}-{name}".encode())
        for kind, name in [
            (CHANGED, "data"),
            (DELETED, "doomed"),
            (CREATED, "born"),
            (CHILDREN_CHANGED, "parent"),
        ]
    )
    assert writer.ask(SET, set_data(f"{root}-same", b"1")).err == 0
    assert back.wait_event() == (CHANGED, CONNECTED, f"{root}-same".encode())
    assert writer.ask(CREATE, create(f"{root}-unborn")).err == 0
    assert back.wait_event() == (CREATED, CONNECTED, f"{root}-unborn".encode())
    assert writer.ask(CREATE, create(f"{root}-quiet/child")).err == 0
    assert back.wait_event() == (CHILDREN_CHANGED, CONNECTED, f"{root}-quiet".encode())


def test_a_watch_goes_with_its_connection(wire: Wires, root: str) -> None:
    """A session that comes back has only the watches that it sets again."""
    first = wire(0)
    assert not exists(first, root, watch=True)
    first.drop()
    again = wire(0, session=first.session, password=first.password)
    assert again.ask(CREATE, create(root)).err == 0
    assert again.take_events() == []


def test_an_event_comes_before_the_reply_that_shows_it(wire: Wires, root: str) -> None:
    """Nobody reads the new state before he is told that the old one is over."""
    watcher, writer = wire(0), wire(1)
    assert writer.ask(CREATE, create(root, b"0")).err == 0
    watcher.ask(SYNC, text("/"))
    for i in range(1, 40):
        assert watcher.ask(GET, read(root, watch=True)).err == 0
        writer.send(SET, set_data(root, b"%d" % i))
        while Reader(watcher.ask(GET, read(root)).body).text() != b"%d" % i:
            assert watcher.events == []
        assert watcher.take_events() == [(CHANGED, CONNECTED, root.encode())]
        assert writer.receive().err == 0


def test_zxids_of_replies_never_fall(wire: Wires, root: str) -> None:
    """Over requests of all kinds, refused ones too, and over a move to another server."""
    one = wire(0)
    last = 0

    def move(to: int) -> bool:
        """A server that has not come so far yet turns us away."""
        nonlocal one
        with contextlib.suppress(Closed):
            one = wire(to, session=one.session, password=one.password, seen=last)
            return True
        return False

    for turn in range(3):
        for op, body in [
            (CREATE, create(f"{root}-{turn}")),
            (CREATE, create(f"{root}-{turn}")),
            (EXISTS, read(root)),
            (SET, set_data(f"{root}-{turn}", b"x")),
            (SET, set_data(f"{root}-{turn}", b"x", 9)),
            (SYNC, text("/")),
        ]:
            reply = one.ask(op, body)
            assert reply.zxid >= last
            last = reply.zxid
        wait_until(partial(move, turn))


@pytest.mark.parametrize("op", [9_999, 999])
def test_an_unknown_operation_costs_its_connection_at_most(wire: Wires, op: int) -> None:
    """Unimplemented, or closed; the server goes on."""
    one, other = wire(), wire()
    with contextlib.suppress(Closed):
        assert one.ask(op, text("/")).err in (-6, -5)
    assert other.ask(EXISTS, read("/")).err == 0


def test_frames_may_come_in_any_pieces(system: Peer, root: str) -> None:
    """TCP is a stream: byte by byte, and several requests in one segment."""
    wire = Wire(system.ports[0])
    bodies = [(1, CREATE, create(root, b"x")), (-2, PING, b""), (2, GET, read(root)), (3, DELETE, versioned(root))]
    stream = b"".join(struct.pack(">iii", len(body) + 8, xid, op) + body for xid, op, body in bodies)
    for at in range(len(stream)):
        wire.socket.sendall(stream[at : at + 1])
    first = [wire.receive() for _ in bodies]
    wire.socket.sendall(stream)
    second = [wire.receive() for _ in bodies]
    for replies in (first, second):
        # A ping overtakes in ZooKeeper, where it does not wait for what is under way.
        assert sorted((reply.xid, reply.err) for reply in replies) == [(-2, 0), (1, 0), (2, 0), (3, 0)]
        assert [reply.xid for reply in replies if reply.xid > 0] == [1, 2, 3]
    wire.drop()


@pytest.fixture
def killing(system: Peer) -> Iterator[Peer]:
    """The system, for tests that kill a server: all of its servers run again afterwards."""
    yield system
    for number, process in enumerate(system.processes.running):
        if process is None:
            system.processes.start(number)
    system.wait_serving()


def find_leader(system: Peer) -> int:
    wait_until(lambda: system.leader() is not None)
    leader = system.leader()
    assert leader is not None
    return leader


@pytest.mark.parametrize("whose", ["leader", "follower"])
def test_a_session_outlives_its_server(killing: Peer, wire: Wires, root: str, whose: str) -> None:
    """The server is killed, the leader's included: session and ephemerals go on at another server."""
    leader = find_leader(killing)
    victim = leader if whose == "leader" else (leader + 1) % 3
    other = (victim + 1) % 3
    owner = wire(victim)
    made = owner.ask(CREATE, create(root, b"mine", EPHEMERAL))
    assert made.err == 0
    killing.processes.kill(victim)
    owner.wait_closed()

    resumed: list[Wire] = []

    def resume() -> bool:
        try:
            resumed.append(wire(other, session=owner.session, password=owner.password, seen=made.zxid))
        except (Closed, OSError):
            return False
        return True

    wait_until(resume)
    back = resumed[-1]
    assert (back.session, back.password) == (owner.session, owner.password)
    back.ask(SYNC, text("/"))
    got = Reader(back.ask(GET, read(root)).body)
    assert got.text() == b"mine"
    assert got.stat()["ephemeral_owner"] == owner.session
    assert back.ask(SET, set_data(root, b"still mine")).err == 0


def test_a_client_moves_by_itself(killing: Peer, connect: Connect) -> None:
    """An unmodified kazoo client keeps its session and its watches' purpose over the loss of its server."""
    leader = find_leader(killing)
    # The order of the hosts is the client's: it starts at the server that is about to be killed.
    hosts = ",".join(f"127.0.0.1:{killing.ports[(leader + i) % 3]}" for i in range(3))
    client = connect(hosts=hosts, randomize_hosts=False)
    states: list[str] = []
    client.add_listener(states.append)
    session = client.client_id
    client.create("/mine", b"x", ephemeral=True)
    killing.processes.kill(leader)

    def written() -> bool:
        try:
            client.set("/mine", b"y")
        except (ConnectionLoss, SessionExpiredError):
            return False
        return True

    wait_until(written)
    assert client.client_id == session
    assert KazooState.LOST not in states
    assert client.exists("/mine").ephemeralOwner == session[0]


def test_a_cell_without_a_majority_says_so_and_comes_back(killing: Peer, wire: Wires, root: str) -> None:
    """No write is acknowledged by one server of three; the session is there when the majority is."""
    leader = find_leader(killing)
    owner = wire(leader, timeout_ms=10_000)
    assert owner.ask(CREATE, create(root, b"0", EPHEMERAL)).err == 0
    for number in range(3):
        if number != leader:
            killing.processes.kill(number)
    owner.send(SET, set_data(root, b"1"))
    answers: list[Reply] = []
    owner.patience_s = 1.5
    owner.socket.settimeout(owner.patience_s)
    with contextlib.suppress(TimeoutError, Closed, ConnectionError):
        answers.append(owner.receive())
    assert not [answer for answer in answers if answer.err == 0]
    owner.drop()
    for number in range(3):
        if number != leader:
            killing.processes.start(number)
    killing.wait_serving()
    resumed: list[Wire] = []

    def resume() -> bool:
        try:
            resumed.append(wire(leader, session=owner.session, password=owner.password))
        except (Closed, OSError):
            return False
        return resumed[-1].session == owner.session

    wait_until(resume)
    resumed[-1].ask(SYNC, text("/"))
    assert Reader(resumed[-1].ask(GET, read(root)).body).text() in (b"0", b"1")
