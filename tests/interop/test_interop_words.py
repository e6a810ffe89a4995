"""The four-letter words, where operators and their monitoring look; the same keys on both."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable

import pytest
from interop_wire import CREATE, EXISTS, SILENT_S, Wire, create, read, wait_until
from kazoo.client import KazooClient

from _peers import Peer, four_letter_word

pytestmark = pytest.mark.slow

MONITORED = {
    "zk_version",
    "zk_server_state",
    "zk_avg_latency",
    "zk_max_latency",
    "zk_min_latency",
    "zk_packets_received",
    "zk_packets_sent",
    "zk_num_alive_connections",
    "zk_outstanding_requests",
    "zk_znode_count",
    "zk_watch_count",
    "zk_ephemerals_count",
    "zk_approximate_data_size",
    "zk_open_file_descriptor_count",
    "zk_max_file_descriptor_count",
    "zk_uptime",
    "zk_global_sessions",
}
"""What Telegraf, Datadog, Netdata, the exporters for Prometheus and the usual Nagios checks read of `mntr`."""
OF_A_LEADER = {"zk_learners", "zk_synced_followers", "zk_quorum_size"}
TELEGRAF = re.compile(r"^zk_(\w[\w.\-]*)\s+([\w.\-]+)")
"""Telegraf gives up on a whole answer with a line unlike this."""


def said_by(system: Peer, word: bytes, number: int = 0) -> str:
    return four_letter_word(system.ports[number], word, SILENT_S)


def lines_of(system: Peer, word: bytes, number: int = 0) -> list[str]:
    return said_by(system, word, number).splitlines()


def lines_of_all(system: Peer, word: bytes, state: str) -> list[list[str]]:
    """What each server says to a word, once one of them leads and the others follow: a busy machine may elect anew.

    `state` is what stands before the state in its line.
    """
    said: list[list[str]] = []

    def is_settled() -> bool:
        said[:] = [lines_of(system, word, number) for number in range(3)]
        states = [line.removeprefix(state) for lines in said for line in lines if line.startswith(state)]
        return sorted(states) == ["follower", "follower", "leader"]

    wait_until(is_settled)
    return said


def keys_in(lines: list[str]) -> dict[str, str]:
    assert all(TELEGRAF.match(line) for line in lines), lines
    return dict(line.split("\t", 1) for line in lines)


def keys_of(system: Peer, number: int) -> dict[str, str]:
    """Of a server that serves: while another leader is elected it does not."""
    lines: list[str] = []

    def serves() -> bool:
        lines[:] = lines_of(system, b"mntr", number)
        return lines != ["This ZooKeeper instance is not currently serving requests"]

    wait_until(serves)
    return keys_in(lines)


def test_are_you_ok(system: Peer) -> None:
    """And nothing else, not even an end of line."""
    assert {said_by(system, b"ruok", number) for number in range(3)} == {"imok"}


def test_is_it_read_only(system: Peer) -> None:
    """A server with a majority takes writes."""
    wait_until(lambda: {said_by(system, b"isro", number) for number in range(3)} == {"rw"})


def test_a_word_may_have_an_end_of_line(system: Peer) -> None:
    """As `echo` and Telegraf send it; telnet sends two bytes."""
    for end in (b"\n", b"\r\n"):
        with socket.create_connection(("127.0.0.1", system.ports[0]), timeout=SILENT_S) as connection:
            connection.sendall(b"ruok" + end)
            assert connection.recv(100) == b"imok"


def test_mntr_has_the_keys_that_are_looked_for(system: Peer) -> None:
    """Each a number, but for version and state; one server leads, and knows its followers."""
    for found in map(keys_in, lines_of_all(system, b"mntr", "zk_server_state\t")):
        assert found.keys() >= MONITORED
        for key in MONITORED - {"zk_version", "zk_server_state"}:
            assert float(found[key]) >= 0, key
        assert int(found["zk_open_file_descriptor_count"]) < int(found["zk_max_file_descriptor_count"])
        if found["zk_server_state"] == "leader":
            assert found.keys() >= OF_A_LEADER
            assert int(found["zk_quorum_size"]) == 3

    # One that has come back may be about to catch up.
    wait_until(lambda: any("zk_synced_followers\t2" in lines_of(system, b"mntr", number) for number in range(3)))


def test_mntr_counts_what_there_is(system: Peer, wire: Callable[..., Wire], root: str) -> None:
    """Znodes, ephemerals, watches, connections and requests move by what a client does.

    Once the sessions that the tests before left behind have expired: else one of them does it in between.
    """
    wait_until(lambda: keys_of(system, 0)["zk_global_sessions"] == "0", within_s=30)
    before = keys_of(system, 0)
    one = wire(0)
    for i in range(3):
        assert one.ask(CREATE, create(f"{root}-{i}", b"x" * 1_000, int(i == 2))).err == 0
    assert one.ask(EXISTS, read(f"{root}-0", watch=True)).err == 0
    after = keys_of(system, 0)

    def grown(key: str) -> int:
        return int(after[key]) - int(before[key])

    assert (grown("zk_znode_count"), grown("zk_ephemerals_count")) == (3, 1)
    assert (grown("zk_watch_count"), grown("zk_global_sessions")) == (1, 1)
    assert 3_000 <= grown("zk_approximate_data_size") < 6_000
    assert grown("zk_packets_received") >= 4
    assert grown("zk_packets_sent") >= 4
    assert int(after["zk_num_alive_connections"]) >= 1


SRVR = (
    r"Zookeeper version: \d+\.\d+\.\d+-.*, built on .+",
    r"Latency min/avg/max: \d+/[\d.]+/\d+",
    r"Received: \d+",
    r"Sent: \d+",
    r"Connections: \d+",
    r"Outstanding: \d+",
    r"Zxid: 0x[0-9a-f]+",
    r"Mode: (leader|follower)",
    r"Node count: \d+",
)


def test_srvr_is_read_line_by_line(system: Peer) -> None:
    """In ZooKeeper's order, which scripts count on; a leader may add lines of its own at the end."""
    for lines in lines_of_all(system, b"srvr", "Mode: "):
        for line, form in zip(lines, SRVR, strict=False):
            assert re.fullmatch(form, line), line
        assert len(lines) >= len(SRVR)


def test_stat_lists_the_clients_before_it(system: Peer, wire: Callable[..., Wire]) -> None:
    """One line a connection, an empty line, then what `srvr` says: Datadog counts the lines."""
    one = wire(0)
    host, port = one.socket.getsockname()[:2]
    lines: list[str] = []

    def is_listed() -> bool:
        """With a 1 in brackets once it is waited for: ZooKeeper does not while it looks after a request."""
        lines[:] = lines_of(system, b"stat")
        return any(line.startswith(f" /{host}:{port}[1]") for line in lines)

    wait_until(is_listed)
    assert re.fullmatch(SRVR[0], lines[0])
    assert lines[1] == "Clients:"
    end = lines.index("")
    clients = lines[2:end]
    for client in clients:
        assert re.fullmatch(r" /[\d.]+:\d+\[\d+\]\(queued=\d+,recved=\d+,sent=\d+\)", client), client
    for line, form in zip(lines[end + 1 :], SRVR[1:], strict=False):
        assert re.fullmatch(form, line), line


def test_envi_tells_the_version(system: Peer, connect: Callable[..., KazooClient]) -> None:
    """kazoo reads from it which operations it may use."""
    lines = lines_of(system, b"envi")
    assert lines[0] == "Environment:"
    found = dict(line.split("=", 1) for line in lines[1:])
    assert re.match(r"3\.\d+\.\d+", found["zookeeper.version"])
    assert found.keys() >= {"zookeeper.version", "host.name", "os.name", "user.name"}
    assert connect().server_version() >= (3, 8)


def test_a_word_that_is_not_allowed_or_not_known(system: Peer) -> None:
    """What is no word is a wrong greeting: the connection is closed and the server goes on."""
    with socket.create_connection(("127.0.0.1", system.ports[0]), timeout=15) as connection:
        connection.sendall(b"zzzz")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100) == b""
    assert said_by(system, b"ruok") == "imok"
