"""What goes wrong really goes wrong: the proxy, the namespaces, the clocks and the plan, each on its own."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from _cells import wait_for
from synod.torment import CLIENTS, FAULTS, Wires, draw_plan
from synod.torment import _clocked as clocked

QUIET_S = 0.3
"""Something does not arrive within this; when it should have, it would have within a thousandth of it."""


# -- the plan ------------------------------------------------------------------------------------------------


def test_a_seed_is_a_plan() -> None:
    """The same seed gives the same faults at the same times; another one gives others."""
    assert draw_plan(5, 60, list(FAULTS)) == draw_plan(5, 60, list(FAULTS))
    assert draw_plan(5, 60, list(FAULTS)) != draw_plan(6, 60, list(FAULTS))


def test_each_class_comes_once_before_any_comes_twice() -> None:
    """So a short run has met them all."""
    plan = draw_plan(3, 60, list(FAULTS))
    assert {planned.fault for planned in plan[: len(FAULTS)]} == FAULTS.keys()
    assert len(plan) > len(FAULTS)
    assert [planned.at for planned in plan] == sorted(planned.at for planned in plan)
    assert all(planned.at + planned.lasts <= 60.2 for planned in plan)


def test_nothing_goes_wrong_where_nothing_may() -> None:
    """`--cell`."""
    assert draw_plan(3, 60, []) == []


# -- the proxy -----------------------------------------------------------------------------------------------


class Cable:
    """A replica that says again what it is told, behind wires, and a client of it."""

    def __init__(self, wires: Wires) -> None:
        self.wires = wires
        place = wires.lay([1])[1]
        host, _, port = place.client.rpartition(":")
        self._server = socket.create_server((host, int(port)))
        threading.Thread(target=self._echo, daemon=True).start()
        wires.start()
        host, _, port = place.client_front.rpartition(":")
        self.client = socket.create_connection((host, int(port)))

    def _echo(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                threading.Thread(target=echo, args=(peer,), daemon=True).start()

    def says(self, text: bytes, seconds: float = 10.0) -> bytes:
        """What comes back of it; nothing when nothing does in time."""
        self.client.sendall(text)
        return self.hears(len(text), seconds)

    def hears(self, size: int, seconds: float = 10.0) -> bytes:
        self.client.settimeout(seconds)
        heard = b""
        with contextlib.suppress(TimeoutError):
            while len(heard) < size and (part := self.client.recv(size - len(heard))):
                heard += part
        return heard

    def close(self) -> None:
        self.client.close()
        self._server.close()
        self.wires.stop()


def echo(peer: socket.socket) -> None:
    with contextlib.suppress(OSError), peer:
        while data := peer.recv(1 << 16):
            peer.sendall(data)


@pytest.fixture
def cable() -> Iterator[Cable]:
    made = Cable(Wires(1))
    yield made
    made.close()


def test_nobody_else_is_given_the_port_of_a_replica_that_is_down() -> None:
    """Others that look for a free port meet it taken; the replica, which reuses addresses, can listen there."""
    wires = Wires(1)
    host, _, port = wires.lay([1])[1].client.rpartition(":")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((host, int(port)))
    for _ in range(2):
        with socket.create_server((host, int(port))):
            pass
    wires.stop()


@pytest.mark.parametrize("link", [(CLIENTS, 1), (1, CLIENTS)])
def test_a_cut_wire_holds_what_comes_and_lets_it_go_when_it_is_mended(cable: Cable, link) -> None:
    """In order, and nothing twice."""
    assert cable.says(b"before") == b"before"
    cable.wires.cut({link}, drop=False)
    assert cable.says(b"one", QUIET_S) == b""
    assert cable.says(b"two", QUIET_S) == b""
    cable.wires.mend({link}, drop=False)
    assert cable.hears(6) == b"onetwo"
    assert cable.wires.evidence() > 0


def test_two_cuts_of_a_wire_need_two_to_mend(cable: Cable) -> None:
    """Faults overlap."""
    cable.wires.cut({(1, CLIENTS)}, drop=False)
    cable.wires.cut({(1, CLIENTS)}, drop=False)
    cable.wires.mend({(1, CLIENTS)}, drop=False)
    assert cable.says(b"one", QUIET_S) == b""
    cable.wires.heal()
    assert cable.hears(3) == b"one"


def test_a_reset_ends_the_connections_that_cross_the_wire(cable: Cable) -> None:
    """As after a time-out of TCP."""
    assert cable.says(b"before") == b"before"
    cable.wires.cut({(1, CLIENTS)}, drop=True)
    cable.client.settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        assert cable.client.recv(1) == b""


def test_a_slow_wire_is_late_and_keeps_the_order(cable: Cable) -> None:
    """The delay of each piece is drawn anew; none overtakes another."""
    assert cable.says(b"before") == b"before"
    cable.wires.delay({(CLIENTS, 1)}, 0.1, 0.05)
    began = time.monotonic()
    for number in range(20):
        cable.client.sendall(b"%02d" % number)
    assert cable.hears(40) == b"".join(b"%02d" % number for number in range(20))
    assert time.monotonic() - began >= 0.1
    cable.wires.delay({(CLIENTS, 1)}, 0, 0)


def test_a_lossy_wire_sends_again_and_loses_nothing(cable: Cable) -> None:
    """What TCP makes of lost packets: stalls, and everything in order."""
    assert cable.says(b"before") == b"before"
    cable.wires.lose({(CLIENTS, 1)}, 0.5)
    began = time.monotonic()
    for number in range(8):
        assert cable.says(b"%02d" % number, 30) == b"%02d" % number
    assert time.monotonic() - began >= 0.2
    assert cable.wires.evidence() > 0


# -- namespaces ----------------------------------------------------------------------------------------------

ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
while True:
    peer, _ = server.accept()
    data = peer.recv(100)
    peer.sendall(data)
    peer.close()
"""

ASK = """
import socket, sys
try:
    peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
    peer.sendall(b"hello")
    print(peer.recv(100) == b"hello")
except TimeoutError:
    print(False)
"""

SPACES = """
import json, os, subprocess, sys
from synod.torment import CLIENTS, Spaces

spaces = Spaces()
places = spaces.lay([1, 2, 3])
echo, ask = sys.argv[1:]
found = {}

def command(code, i, *more):
    host, _, port = places[i].client.rpartition(":")
    return [sys.executable, "-c", code, host, port, *more]

def reaches(a, b, seconds=0.4):
    enter = None if a == CLIENTS else spaces.enter(a)
    done = subprocess.run(command(ask, b, str(seconds)), preexec_fn=enter, capture_output=True, check=True)
    return done.stdout == b"True\\n"

servers = [
    subprocess.Popen(
        command(echo, i), preexec_fn=spaces.enter(i), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    for i in (1, 2)
]
try:
    for server in servers:
        server.stdout.readline()
    found["whole"] = [reaches(2, 1, 10), reaches(CLIENTS, 1, 10), reaches(3, 2, 10)]
    spaces.cut({(2, 1)}, drop=False)
    found["cut"] = [reaches(2, 1), reaches(CLIENTS, 1, 10), reaches(3, 1, 10)]
    spaces.cut({(CLIENTS, 1), (2, 1)}, drop=False)
    spaces.mend({(2, 1)}, drop=False)
    found["twice"] = [reaches(2, 1), reaches(CLIENTS, 1), reaches(CLIENTS, 2, 10)]
    spaces.heal()
    found["healed"] = [reaches(2, 1, 10), reaches(CLIENTS, 1, 10)]
    lost = spaces.evidence()
    spaces.lose({(3, 2)}, 0.999)
    found["lossy"] = [reaches(3, 2), reaches(3, 1, 10)]
    spaces.lose({(3, 2)}, 0)
    found["lossless"] = [reaches(3, 2, 10)]
    found["evidence"] = [lost > 0, spaces.evidence() > lost]
finally:
    for server in servers:
        server.kill()
        server.wait()
before = os.readlink("/proc/thread-self/ns/net")
spaces.stop()
found["left"] = [os.readlink("/proc/thread-self/ns/net") != before]
print(json.dumps(found))
"""


@pytest.mark.requires("namespaces")
def test_namespaces_lose_what_they_are_told_to_and_nothing_else() -> None:
    """One direction at a time, between replicas and to clients; afterwards the process is where it was."""
    done = subprocess.run(
        [sys.executable, "-c", SPACES, ECHO, ASK], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "whole": [True, True, True],
        "cut": [False, True, True],
        "twice": [False, False, True],
        "healed": [True, True],
        "lossy": [False, True],
        "lossless": [True],
        "evidence": [True, True],
        "left": [True],
    }


# -- clocks --------------------------------------------------------------------------------------------------

CLOCKS = """
import sys, time
sys.argv[1:1] = [None]
from pathlib import Path
from synod.torment._clocked import take_over
take_over(Path(sys.argv[2]))
for _ in sys.stdin:
    print(time.time_ns(), time.time(), time.monotonic_ns(), time.monotonic(), flush=True)
"""


def test_a_clock_of_its_own_jumps_while_the_process_runs(tmp_path) -> None:
    """The wall clock at once; the monotonic one counts from where it was told, at the speed it was told."""
    path = tmp_path / "clock"
    clocked.write_clock(path, wall_ns=0, epoch_ns=10**15, rate=2 * clocked.MILLION)
    process = subprocess.Popen(
        [sys.executable, "-c", CLOCKS, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def look() -> tuple[int, float, int, float]:
        process.stdin.write("\n")
        process.stdin.flush()
        wall_ns, wall, monotonic_ns, monotonic = process.stdout.readline().split()
        return int(wall_ns), float(wall), int(monotonic_ns), float(monotonic)

    with process:
        began = time.monotonic_ns()
        before, now, after = time.time_ns(), look(), time.time_ns()
        assert before <= now[0] <= after
        assert 10**15 <= now[2] <= 10**15 + 2 * 60 * 10**9
        clocked.write_clock(path, wall_ns=-3600 * 10**9, epoch_ns=0, rate=0)
        before, jumped, after = time.time_ns(), look(), time.time_ns()
        assert before <= jumped[0] + 3600 * 10**9 <= after
        assert jumped[1] == pytest.approx(jumped[0] / 1e9, abs=60)
        wait_for(lambda: time.monotonic_ns() - began > 2 * 10**7, "twenty milliseconds")
        last = look()
        passed = last[2] - now[2]
        assert passed > 0
        assert passed <= 2 * (time.monotonic_ns() - began)
        assert last[3] == pytest.approx(last[2] / 1e9, abs=60)
        process.stdin.close()
