"""What comes from outside may be anything: the connection ends, the log says so once, and everybody else goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
import time

import pytest
from bench.peers import four_letter_word

import synod
import synod.server._host as host_module
from _cells import PATIENCE_S, Replica, config_document, http, says_ok, wait_for, write_config
from synod.base import BadArguments
from synod.client import BlockingCell
from synod.server import Server, load_config
from synod.storage import Identity, MemoryFileSystem, format_directory
from synod.wire import FrameSplitter

FRAME_BYTES_MAX = 1_048_575
CONNECT = struct.pack(">iqiqi", 0, 0, 10_000, 0, 16) + bytes(16) + b"\0"
GET, CREATE, PING, ADD_WATCH = 4, 1, 11, 106
RECURSIVE = 1


def frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def connected(port: int) -> socket.socket:
    """A connection with a session, by hand."""
    client = dial(port)
    client.sendall(frame(CONNECT))
    assert len(receive(client)) >= 36
    return client


def receive(client: socket.socket) -> bytes:
    """One frame; nothing when the server closed the connection."""
    head = exactly(client, 4)
    return exactly(client, struct.unpack(">i", head)[0]) if head else b""


def turned_away(client: socket.socket) -> bool:
    """Whether somebody who asks for a session gets none."""
    with contextlib.suppress(ConnectionError):
        client.sendall(frame(CONNECT))
    return exactly(client, 1) == b""


def exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while len(data) < size:
            more = client.recv(size - len(data))
            if not more:
                return b""
            data += more
    return data


def ends(client: socket.socket) -> bool:
    """Wait until the server has closed the connection; fails by timeout when it does not."""
    with contextlib.suppress(ConnectionError):
        while client.recv(65_536):
            pass
    return True


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    """A replica that every test of this module abuses."""
    with Replica(tmp_path_factory.mktemp("frames")) as running:
        yield running
        assert running.process is not None
        assert running.process.poll() is None, running.output()
        assert "Traceback" not in running.output()
        assert running.stop() == 0


@pytest.fixture(scope="module")
def bystander(replica):
    """Somebody whose one session outlives everything that is done here to others."""
    with BlockingCell(replica.hosts, session_timeout_ms=10_000) as cell:
        cell.create("/bystander", b"", ephemeral=True)
        yield cell


@pytest.fixture(autouse=True)
def unharmed(bystander, replica):
    """Before and after each test the bystander writes and reads, in the very same session."""
    session = bystander.session_id
    yield
    bystander.set("/bystander", b"on")
    assert bystander.get("/bystander")[0] == b"on"
    assert bystander.session_id == session
    assert bystander.exists("/bystander").ephemeral_owner == session
    wait_for(lambda: " 0" not in mntr(replica, "zk_num_alive_connections"), "the bystander's connection")


def mntr(replica: Replica, name: str) -> str:
    answer = four_letter_word(replica.client_port, b"mntr")
    return next(line for line in answer.splitlines() if line.startswith(f"{name}\t")).partition("\t")[2]


FIRST_WORDS = {
    "oversize": struct.pack(">i", FRAME_BYTES_MAX + 1) + b"x" * 100,
    "as large as can be": struct.pack(">i", 2**31 - 1),
    "negative": struct.pack(">i", -1) + b"x" * 100,
    "as small as can be": struct.pack(">i", -(2**31)),
    "empty": struct.pack(">i", 0) + frame(CONNECT),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(190),
    "noise": b"\xff" + random.Random(7).randbytes(4_095),
    "short record": frame(bytes(10)),
    "password past the end": frame(struct.pack(">iqiqi", 0, 0, 10_000, 0, 1_000)),
    "password of negative length": frame(struct.pack(">iqiqi", 0, 0, 10_000, 0, -7)),
    "unlikely word": b"quit and more",
}


@pytest.mark.parametrize("words", FIRST_WORDS.values(), ids=FIRST_WORDS.keys())
def test_whoever_begins_wrongly_is_closed(replica, words):
    """A first frame that is no connect request ends the connection without an answer."""
    with dial(replica.client_port) as client:
        client.sendall(words)
        assert exactly(client, 1) == b""


@pytest.mark.parametrize("step", [1, 3])
def test_words_may_come_in_pieces(replica, step):
    """TCP promises an order and no borders: a greeting cut anywhere is still a greeting."""
    with dial(replica.client_port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = frame(CONNECT)
        for at in range(0, len(hello), step):
            client.sendall(hello[at : at + step])
        assert len(receive(client)) >= 36
    with dial(replica.client_port) as client:
        for at in range(4):
            client.sendall(b"ruok"[at : at + 1])
        assert exactly(client, 4) == b"imok"
        assert ends(client)


LATER_WORDS = {
    "oversize": struct.pack(">iii", FRAME_BYTES_MAX + 1, 1, CREATE),
    "negative": struct.pack(">iii", -5, 1, CREATE),
    "without room for a header": frame(b"xxxx"),
    "empty": struct.pack(">i", 0) + bytes(16),
    "http": b"POST /items HTTP/1.1\r\n\r\n",
    "only a length": struct.pack(">i", 2**31 - 1),
}


@pytest.mark.parametrize("words", LATER_WORDS.values(), ids=LATER_WORDS.keys())
def test_whoever_goes_on_wrongly_is_closed(replica, words):
    """A frame that cannot be one ends the connection; what was asked before it is done."""
    with connected(replica.client_port) as client:
        client.sendall(words)
        assert ends(client)


BODIES = {
    "create": (CREATE, b"\xff" * 64),
    "get": (GET, b"\xff" * 64),
    "get of nothing": (GET, b""),
    "multi": (14, struct.pack(">i?i", CREATE, False, -1) + b"\xff" * 64),
    "endless multi": (14, struct.pack(">i?i", 13, False, -1)),
    "set watches": (101, struct.pack(">qi", 0, 2**31 - 1)),
    "unknown operation": (9_999, b""),
    "negative operation": (-42, b"\xff" * 64),
}


@pytest.mark.parametrize(("op", "body"), BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_not_one_harms_nobody(replica, op, body):
    """A whole frame with garbage behind its header is refused with an error number, or with the connection."""
    with connected(replica.client_port) as client:
        client.sendall(frame(struct.pack(">ii", 1, op) + body))
        answer = receive(client)
        if answer:
            xid, _zxid, err = struct.unpack_from(">iqi", answer)
            assert (xid, err < 0) == (1, True)


def test_whoever_leaves_in_the_middle_is_forgotten(replica):
    """Half a greeting, half a frame, then nothing: no connection stays behind."""
    before = wait_for(lambda: mntr(replica, "zk_num_alive_connections"), "a count")
    for words in (b"", b"\0", frame(CONNECT)[:20], frame(CONNECT), struct.pack(">i", FRAME_BYTES_MAX) + b"x" * 1000):
        with dial(replica.client_port) as client:
            client.sendall(words)
    with connected(replica.client_port) as client:
        client.sendall(struct.pack(">iii", 500_000, 1, CREATE) + b"x" * 1_000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a farewell
    wait_for(lambda: int(mntr(replica, "zk_num_alive_connections")) <= int(before), "all of them forgotten")


def test_a_value_over_the_limit_is_refused_and_one_below_it_is_not(bystander):
    """The limit is exact, said before anything is sent, and the connection is not the price."""
    limit = 1_047_552
    bystander.create("/large", b"x" * limit)
    assert len(bystander.get("/large")[0]) == limit
    with pytest.raises(BadArguments, match="nothing was changed"):
        bystander.set("/large", b"x" * (limit + 1))
    assert bystander.get("/large")[1].version == 0
    bystander.delete("/large")


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\5Mxxxx", b"\xff" * 64, b"\0\0\0\0"])
def test_whoever_is_no_peer_is_closed(replica, words):
    """The peers' port takes nothing but the hello of a member of this cell."""
    with dial(replica.peer_port) as client:
        client.sendall(words)
        assert ends(client)


def test_the_http_port_minds_its_manners(replica):
    """What is not there is 404, and noise is an answer or an end."""
    assert http(replica.http_port, "/nothing")[0] == 404
    with dial(replica.http_port) as client:
        client.sendall(b"\xff" * 64 + b"\r\n\r\n")
        assert ends(client)
    assert http(replica.http_port, "/healthz") == (200, "ok\n")


def lines_with(replica: Replica, text: str) -> list[str]:
    return [line for line in replica.output().splitlines() if text in line]


def test_abuse_is_logged_once_and_not_once_for_each(tmp_path):
    """A flood of malformed frames must not become a flood of the log: that would be the better attack."""
    with Replica(tmp_path) as running:
        began = time.monotonic()
        for _ in range(40):
            for port in (running.client_port, running.peer_port):
                with dial(port) as client:
                    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    assert ends(client)
        for said in ("malformed or oversize frames", "a peer connection is refused"):
            wait_for(lambda said=said: lines_with(running, said), said)
        if time.monotonic() - began < host_module.ABUSE_LOG_S:
            assert len(lines_with(running, "malformed or oversize frames")) == 1
            assert len(lines_with(running, "a peer connection is refused")) == 1
        assert says_ok(running.client_port)


def test_too_many_connections_are_turned_away(tmp_path):
    """Those who are in stay in, those who come after them are closed at once, and a place that is free is taken."""
    with Replica(tmp_path, None, "limits.connections=5") as running, contextlib.ExitStack() as held:
        inside = [held.enter_context(connected(running.client_port)) for _ in range(5)]
        began = time.monotonic()
        for _ in range(20):
            with dial(running.client_port) as client:
                assert turned_away(client)
        told = lines_with(running, "too many connections (5); 127.0.0.1 is turned away")
        assert len(told) == 1 or (told and time.monotonic() - began > host_module.ABUSE_LOG_S)
        for client in inside:
            client.sendall(frame(struct.pack(">ii", -2, PING)))
            assert struct.unpack_from(">iqi", receive(client))[0] == -2
        inside[0].close()

        def let_in() -> bool:
            with dial(running.client_port) as client, contextlib.suppress(ConnectionError):
                client.sendall(frame(CONNECT))
                return bool(receive(client))
            return False

        wait_for(let_in, "a place for somebody else")


def test_one_address_cannot_take_every_place(tmp_path):
    """The bound per address holds beside the bound of all."""
    with Replica(tmp_path, None, "limits.connections_per_address=2") as running, contextlib.ExitStack() as held:
        for _ in range(2):
            held.enter_context(connected(running.client_port))
        with dial(running.client_port) as client:
            assert turned_away(client)
        with socket.socket() as elsewhere:
            elsewhere.settimeout(PATIENCE_S)
            elsewhere.bind(("127.0.0.2", 0))
            elsewhere.connect(("127.0.0.1", running.client_port))
            elsewhere.sendall(frame(CONNECT))
            assert receive(elsewhere)


def test_whoever_does_not_read_is_closed(tmp_path):
    """Replies that nobody takes would cost memory without end; others get theirs."""
    with Replica(tmp_path, None, "limits.write_buffer_bytes=65536") as running, BlockingCell(running.hosts) as other:
        other.create("/large", b"x" * 1_000_000)
        with connected(running.client_port) as client:
            get = frame(struct.pack(">iii", 1, GET, 6) + b"/large\0")
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    client.sendall(get)
            wait_for(lambda: lines_with(running, "does not read its replies; its connection is closed"), "a word of it")
            came = 0
            with contextlib.suppress(ConnectionError):
                while more := client.recv(1 << 20):
                    came += len(more)
            assert came < 50_000_000, "what was on its way already, and no more"
        assert len(other.get("/large")[0]) == 1_000_000


# -- in this process, where the clock of manners can be made short ---------------------------------------------


@pytest.fixture
async def server(tmp_path, monkeypatch):
    """A server that looks often, and has little room for what nobody reads."""
    monkeypatch.setattr(host_module, "SWEEP_S", 0.02)
    document = config_document(tmp_path) | {"limits": {"write_buffer_bytes": 1 << 16}}
    config = load_config(str(write_config(tmp_path / "replica.toml", document)))
    fs = MemoryFileSystem()
    format_directory(fs, config.data_dir, Identity(1, 1, config.configuration))
    running = Server(config, fs=fs)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


async def test_whoever_never_finishes_a_greeting_is_closed(server, monkeypatch):
    """A truncated connect request must not hold a place for ever: neither silence nor half a word does."""
    monkeypatch.setattr(host_module, "GREETING_S", 0.05)

    async def closed(words: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.config.client.port)
        writer.write(words)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b"", words
        writer.close()

    beginnings = (
        b"",
        b"\0\0",
        struct.pack(">i", len(CONNECT)),
        frame(CONNECT)[:-1],
        struct.pack(">i", FRAME_BYTES_MAX),
    )
    # All at once: a compiled server has its patience of ten seconds, whatever this test would like.
    await asyncio.gather(*map(closed, beginnings))


async def test_whoever_has_greeted_may_be_silent(server, monkeypatch):
    """The patience is for greetings; a session has its own timeout."""
    async with synod.connect(f"127.0.0.1:{server.config.client.port}", session_timeout_ms=20_000) as cell:
        session = cell.session_id
        await cell.create("/quiet", ephemeral=True)
        monkeypatch.setattr(host_module, "GREETING_S", 0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.config.client.port)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""  # this silent one was swept, the cell's connection was not
        writer.close()
        assert cell.session_id == session
        assert await cell.exists("/quiet")


async def test_a_slow_reader_of_a_lasting_watch_gets_every_event_up_to_the_end_of_its_connection(server):
    """Too slow, it is cut off; nothing is left out in between, so that it knows from where to read (etcd #17529)."""
    loop, port = asyncio.get_running_loop(), server.config.client.port
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        await loop.sock_connect(slow, ("127.0.0.1", port))
        await loop.sock_sendall(slow, frame(CONNECT))
        await loop.sock_sendall(
            slow, frame(struct.pack(">iii", 1, ADD_WATCH, 2) + b"/w" + struct.pack(">i", RECURSIVE))
        )
        splitter = FrameSplitter()
        frames: list[bytes] = []
        while len(frames) < 2:  # the greeting, and the answer to the watch
            frames += splitter.feed(await loop.sock_recv(slow, 4096))
        async with synod.connect(f"127.0.0.1:{port}") as cell:
            await cell.create("/w")
            created = ["/w"]
            went_on = False
            while not went_on:
                went_on = bool(server.host.measures.refusals["slow reader"])
                names = [
                    f"/w/{len(created) + k:05}{'x' * 900}" for k in range(20)
                ]  # a few at a time: less than its bound
                await asyncio.gather(*(cell.create(name) for name in names))
                created += names
                assert len(created) < 8_000, "nobody noticed that it does not read"
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while more := await loop.sock_recv(slow, 1 << 20):
                    frames += splitter.feed(more)
    told = [data[28:].decode() for data in frames[2:]]
    assert told == created[: len(told)]
    assert 0 < len(told) < len(created)


async def test_a_broken_frame_is_told_to_the_log(server, caplog):
    """The one line names what was wrong in words that a person understands."""
    with caplog.at_level(logging.WARNING, "synod.server"):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.config.client.port)
        writer.write(struct.pack(">i", -1) + bytes(20))
        assert await reader.read() == b""
        writer.close()
        until = time.monotonic() + PATIENCE_S
        while not (told := [said for said in warned(caplog) if "stood still" not in said]):  # so is a busy machine
            assert time.monotonic() < until, "the log never heard of it"
            await asyncio.sleep(0.005)
    assert told == ["1 connections were closed for malformed or oversize frames"]


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server told the log; others of this process tell it theirs."""
    return [record.getMessage() for record in caplog.records if record.name == "synod.server"]
