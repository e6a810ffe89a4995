"""`synod lock`: the command runs under the lock, and is over before anybody else could have it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from bench.peers import free_ports

from _cells import PATIENCE_S, SYNOD, RealCell, clean_environment, paused, sentence, synod, wait_for
from synod.client import BlockingCell

SESSION_TIMEOUT_S = 6.0
"""Not shorter: on a busy machine the command would be stopped before anything was cut, or later than it should."""

STUBBORN = """
import os, signal, sys, time
seen = open(sys.argv[1], "a", buffering=1)
signal.signal(signal.SIGTERM, lambda *_: print("term", time.monotonic(), file=seen))
print("token", os.environ["SYNOD_FENCING_TOKEN"], file=seen)
print("pid", os.getpid(), file=seen)
while True:
    print("alive", time.monotonic(), file=seen)
    time.sleep(0.005)
"""
"""A command that does not want to go, and leaves a trace of how long it lived."""


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """Three replicas, so that their loss is the loss of a real cell."""
    with RealCell(tmp_path_factory.mktemp("cell"), settings={"session.timeout_ms_min": 1_000}) as running:
        try:
            yield running
        finally:
            running.resume_all()


@pytest.fixture
def path(cell, request):
    """A lock that no other test uses."""
    return f"/lock-{abs(hash(request.node.name))}"


def locked(cell: RealCell, path: str, *command: str, options: tuple[str, ...] = (), **more):
    """A whole run of `synod lock`."""
    return synod("lock", *options, path, "--", *command, cell=cell.hosts, **more)


class Holding:
    """A running `synod lock` around a command.

    Args:
        hosts: of the cell, or of what stands before it.
        path: of the lock.
        command: to be run under it.
        options: of `synod lock`.
    """

    def __init__(self, hosts: str, path: str, *command: str, options: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*SYNOD, "lock", *options, path, "--", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(SYNOD_CELL=hosts),
        )

    def wait(self) -> tuple[int, str]:
        """Wait for its end: its exit code and its stderr."""
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def trace(file: Path) -> dict[str, list[str]]:
    """What a stubborn command wrote, by kind."""
    found: dict[str, list[str]] = {"token": [], "pid": [], "alive": [], "term": []}
    if file.exists():
        for line in file.read_text().splitlines():
            kind, _, value = line.partition(" ")
            if value:
                found[kind].append(value)
    return found


# -- what it returns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
    ],
    ids=["true", "7", "255", "KILL", "TERM"],
)
def test_the_exit_code_is_that_of_the_command(cell, path, command, code):
    """As a shell has it, so that it can stand before any command of a script; the lock is free afterwards."""
    done = locked(cell, path, *command)
    assert (done.returncode, done.stderr) == (code, "")
    assert locked(cell, path, "true", options=("--try",)).returncode == 0


def test_a_command_that_cannot_be_run(cell, path, tmp_path):
    """127 and 126, as a shell; the lock is free afterwards."""
    done = locked(cell, path, "no-such-command-anywhere")
    assert done.returncode == 127
    assert "no-such-command-anywhere: there is no such command" in sentence(done.stderr)
    (tmp_path / "text").write_text("words")
    done = locked(cell, path, str(tmp_path / "text"))
    assert done.returncode == 126
    assert "cannot be run: Permission denied" in sentence(done.stderr)
    assert locked(cell, path, "true", options=("--try",)).returncode == 0


def test_output_and_input_are_those_of_the_command(cell, path):
    """Nothing of our own gets between; options of the command are its own."""
    done = locked(cell, path, "cat", "-n", stdin=b"a\nb\n")
    assert done.stdout.split() == ["1", "a", "2", "b"]
    assert done.returncode == 0
    assert locked(cell, path, "echo", "--timeout", "-E", "--", "x").stdout == "--timeout -E -- x\n"


def test_tokens_rise(cell, path):
    """Whoever comes later has a larger token: what a resource compares."""
    tokens = [int(locked(cell, path, "printenv", "SYNOD_FENCING_TOKEN").stdout) for _ in range(3)]
    assert tokens == sorted(set(tokens))
    assert tokens[0] > 0


def test_nobody_there_is_the_code_for_no_lock():
    """Exit code 3, or what `-E` says: the command was not run."""
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    for options, code in (((), 3), (("-E", "75"), 75)):
        with Holding(nobody, "/x", "echo", "ran", options=(*options, "--timeout", "0.2")) as holding:
            returned, err = holding.wait()
            assert returned == code
            sentence(err)


# -- one at a time ---------------------------------------------------------------------------------------------


def test_a_lock_that_is_held_is_waited_for_or_not(cell, path, tmp_path):
    """`--try` and `--timeout` end with 3 or the code of `-E`, and the command is not run."""
    go = tmp_path / "go"
    with Holding(cell.hosts, path, "sh", "-c", f"echo held; while ! test -e {go}; do sleep 0.01; done") as holder:
        assert holder.process.stdout.readline() == b"held\n"
        for options, code in (
            (("--try",), 3),
            (("--timeout", "0.2"), 3),
            (("--try", "-E", "42"), 42),
            (("--timeout", "0.2", "-E", "0"), 0),
        ):
            done = locked(cell, path, "echo", "ran", options=options)
            assert (done.returncode, done.stdout) == (code, "")
            assert f"the lock {path} was not got in time; the command was not run" in sentence(done.stderr)
        with Holding(cell.hosts, path, "echo", "my turn") as waiting:
            with BlockingCell(cell.hosts) as client:
                wait_for(lambda: len(client.children(path)) == 2, "somebody who waits")
            assert waiting.process.poll() is None
            go.touch()
            assert holder.wait()[0] == 0
            out, _ = waiting.process.communicate(timeout=PATIENCE_S)
            assert (waiting.process.returncode, out) == (0, b"my turn\n")


def test_commands_never_run_at_the_same_time(cell, path, tmp_path):
    """Read, wait, write: without the lock they would lose each other's counts."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    script = f"n=$(cat {counter}); sleep 0.02; echo $((n + 1)) > {counter}"
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(Holding(cell.hosts, path, "sh", "-c", script)) for _ in range(6)]
        assert [holding.wait() for holding in running] == [(0, "")] * 6
    assert counter.read_text() == "6\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_signals_are_for_the_command(cell, path, number):
    """It may end as it likes, under the lock; then the lock is free at once and not after a timeout."""
    script = f"trap 'echo cleaning; exit 5' {number.name[3:]}; echo ready; while :; do sleep 0.01; done"
    with Holding(cell.hosts, path, "sh", "-c", script) as holding:
        assert holding.process.stdout.readline() == b"ready\n"
        holding.process.send_signal(number)
        out, err = holding.process.communicate(timeout=PATIENCE_S)
        assert (holding.process.returncode, out) == (5, b"cleaning\n")
        assert b"synod" not in err  # the shell may say what became of its sleep
    assert locked(cell, path, "true", options=("--try",)).returncode == 0


def test_ctrl_c_while_waiting(cell, path):
    """Exit code 130, nothing run, and nobody stays in the queue."""
    with BlockingCell(cell.hosts) as client, client.lock(path):
        with Holding(cell.hosts, path, "echo", "ran") as waiting:
            wait_for(lambda: len(client.children(path)) == 2, "somebody who waits")
            waiting.process.send_signal(signal.SIGINT)
            out, err = waiting.process.communicate(timeout=PATIENCE_S)
            assert (waiting.process.returncode, out) == (130, b"")
            assert b"Traceback" not in err
        wait_for(lambda: len(client.children(path)) == 1, "an empty queue")


# -- the lease -------------------------------------------------------------------------------------------------


class Wire(threading.Thread):
    """A cable between a client and a replica that can be cut: both ends stay open, and nothing comes through.

    Args:
        port: of the replica.
    """

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.hosts = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._sockets: list[socket.socket] = []
        self._is_cut = threading.Event()
        self._over = threading.Event()

    def cut(self) -> float:
        """From now on nothing comes through; returns the moment."""
        self._is_cut.set()
        return time.monotonic()

    def run(self) -> None:
        """Carry bytes, in both directions."""
        while not self._over.is_set():
            for key, _ in self._selector.select(timeout=0.01):
                if self._is_cut.is_set():
                    time.sleep(0.005)  # what is not read stays ready: without it this thread would spin
                elif key.fileobj is self._listener:
                    self._join()
                else:
                    self._carry(key.fileobj, key.data)

    def _join(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        self._sockets += [near, far]
        self._selector.register(near, selectors.EVENT_READ, far)
        self._selector.register(far, selectors.EVENT_READ, near)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = source.recv(65_536)
            sink.sendall(data)
        if not data:
            self._selector.unregister(source)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self._selector.close()
        for sock in (self._listener, *self._sockets):
            sock.close()


@contextlib.contextmanager
def stubborn(hosts: str, path: str, file: Path, *options: str) -> Iterator[Holding]:
    """A stubborn command that holds a lock; it is gone in the end, whatever the test finds."""
    options = ("--session-timeout", str(SESSION_TIMEOUT_S), *options)
    with Holding(hosts, path, sys.executable, "-c", STUBBORN, str(file), options=options) as holding:
        try:
            wait_for(lambda: len(trace(file)["alive"]) > 3 or holding.process.poll() is not None, "a command that runs")
            yield holding
        finally:
            for pid in trace(file)["pid"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


@pytest.mark.slow
def test_a_cut_off_holder_is_stopped_before_the_lock_passes(cell, path, tmp_path):
    """TERM, time to obey it, KILL: all of it before the next holder begins, by the one clock that both share."""
    file = tmp_path / "trace"
    with Wire(cell.ports[0]) as wire, stubborn(wire.hosts, path, file, "-E", "9") as holding:
        with BlockingCell(cell.hosts) as client:
            lock = client.lock(path)
            assert not lock.acquire(blocking=False)
            cut = wire.cut()
            assert lock.acquire(timeout=PATIENCE_S)
            passed = time.monotonic()
            seen = trace(file)
            assert lock.fencing_token > int(seen["token"][0])
            lock.release()
        code, err = holding.wait()
        assert seen == trace(file), "the command went on after its lock had passed"
        last, term = float(seen["alive"][-1]), float(seen["term"][0])
        assert last < passed
        assert last < cut + SESSION_TIMEOUT_S
        assert term < last, "it was killed without having been asked"
        assert code == 9
        assert f"the lease of {path} cannot be kept; the command is stopped" in err
        assert "Traceback" not in err


@pytest.mark.slow
def test_a_cell_that_says_nothing_is_no_reason_to_go_on(cell, path, tmp_path):
    """With every replica stopped nobody says that the lease is over; our own clock does. And the end is bounded."""
    file = tmp_path / "trace"
    cell.wait_settled()
    with stubborn(cell.hosts, path, file) as holding, paused(cell, 0, 1, 2):
        stopped = time.monotonic()
        wait_for(lambda: trace(file)["term"], "TERM")
        code, err = holding.wait()
        ended = time.monotonic()
        seen = trace(file)
        assert float(seen["alive"][-1]) < stopped + SESSION_TIMEOUT_S
        assert float(seen["term"][0]) < float(seen["alive"][-1])
        assert code == 3
        assert ended < stopped + SESSION_TIMEOUT_S + 10
        assert err.splitlines()[0] == f"synod: the lease of {path} cannot be kept; the command is stopped"
        assert "Traceback" not in err
    cell.wait_settled()
    assert locked(cell, path, "true").returncode == 0


@pytest.mark.slow
def test_children_of_the_command_go_with_it(cell, path, tmp_path):
    """What the command started may write as well as the command: the whole group is stopped."""
    file = tmp_path / "trace"
    script = f"{sys.executable} -c '{STUBBORN}' {file} & wait; wait"
    with Wire(cell.ports[0]) as wire:
        options = ("--session-timeout", str(SESSION_TIMEOUT_S))
        with Holding(wire.hosts, path, "sh", "-c", script, options=options) as holding:
            try:
                wait_for(lambda: len(trace(file)["alive"]) > 3, "a child that runs")
                cut = wire.cut()
                assert holding.wait()[0] == 3
                with BlockingCell(cell.hosts) as client, client.lock(path, timeout=PATIENCE_S):
                    passed = time.monotonic()
                assert float(trace(file)["alive"][-1]) < min(passed, cut + SESSION_TIMEOUT_S)
            finally:
                for pid in trace(file)["pid"]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)


def test_a_lock_that_moves_with_its_client_is_kept(cell, path, tmp_path):
    """The loss of a replica is no loss of the lock: the command goes on."""
    cell.wait_settled()
    go = tmp_path / "go"
    leader = cell.wait_leader()
    hosts = ",".join(f"127.0.0.1:{port}" for port in cell.ports)
    with Holding(hosts, path, "sh", "-c", f"echo held; while ! test -e {go}; do sleep 0.01; done; exit 4") as holder:
        assert holder.process.stdout.readline() == b"held\n"
        cell.processes.kill(leader)
        cell.wait_leader()
        with BlockingCell(hosts) as client:
            assert not client.lock(path).acquire(blocking=False)
        go.touch()
        assert holder.wait() == (4, "")
    cell.wait_settled()
