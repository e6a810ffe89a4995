"""Replicas and commands as a user runs them, each a process of its own, for the tests of server and command line."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import pytest
from bench.peers import LOOK_S, SynodCell, format_replica, four_letter_word, free_ports

from synod.base import NotApplied, OutcomeUnknown
from synod.client import BlockingCell

T = TypeVar("T")

SYNOD = (sys.executable, "-m", "synod")
UNAVAILABLE = 3
PATIENCE_S = 30.0
"""Longest wait for anything; a test that waits so long has failed."""

DIGESTS_S = 90.0
"""A thousand slots, one after the other, on a disk that others use as well."""

SETTINGS = {"session.timeout_ms_min": 1_000, "session.timeout_ms_max": 20_000}
"""Short sessions, so that a test of their end is short."""

STEADY = {**SETTINGS, "timing.election_timeout_ms": 3_000}
"""For tests in which whoever leads is to lead on: a busy machine holds up a process for half a second now and then, and
that is the silence after which others elect. A hand-over and the end of a connection are noticed as soon as ever."""


def wait_for(condition: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """Wait for a condition, not for a time; returns what made it true, fails with its name."""
    until = time.monotonic() + patience_s
    while True:
        if found := condition():
            return found
        assert time.monotonic() < until, f"never came: {what}"
        time.sleep(0.01)


def clean_environment(**more: str) -> dict[str, str]:
    """The environment, without what would change what a command does."""
    return {**{key: value for key, value in os.environ.items() if key != "SYNOD_CELL"}, **more}


def synod(
    *arguments: str,
    stdin: bytes = b"",
    cell: str | None = None,
    environment: Mapping[str, str] | None = None,
    **options,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    done = subprocess.run(
        [*SYNOD, *arguments],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE_S,
        env=clean_environment(**({} if cell is None else {"SYNOD_CELL": cell}), **(environment or {})),
        check=False,
        **options,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def operated(*arguments: str, cell: str) -> subprocess.CompletedProcess[str]:
    """Let a cell do what an operator asks for; asks again where nothing was changed as there was no leader to ask."""

    def asked() -> subprocess.CompletedProcess[str] | None:
        done = synod(*arguments, cell=cell)
        no_leader = ("there is none", "nothing was changed")
        return None if done.returncode == UNAVAILABLE and any(why in done.stderr for why in no_leader) else done

    done = wait_for(asked, f"a leader for {' '.join(arguments)}")
    assert done is not None
    assert done.returncode == 0, done.stderr
    return done


def sentence(stderr: str) -> str:
    """The one sentence that a failed command left on stderr; anything else there is a failure."""
    lines = stderr.splitlines()
    assert len(lines) == 1, f"not one sentence: {stderr!r}"
    assert lines[0].startswith("synod: "), stderr
    assert "Traceback" not in stderr
    said = lines[0].removeprefix("synod: ")
    assert len(said) > 20, f"says too little: {said!r}"
    return said


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory with what is in it."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def comes_to_be(client: BlockingCell, path: str, value: bytes = b"") -> bool:
    """Create it, unless it is there; False when nobody knows whether it is: on a busy machine an election is enough."""
    with contextlib.suppress(OutcomeUnknown, NotApplied):
        client.create(path, value)
        return True
    with contextlib.suppress(OutcomeUnknown, NotApplied):
        return client.exists(path) is not None
    return False


# -- one replica ---------------------------------------------------------------------------------------------


def config_document(directory: Path) -> dict[str, object]:
    """What a replica that is the whole cell is told."""
    client, peer, http = free_ports(3)
    return {
        "id": 1,
        "cell_id": secrets.token_hex(16),
        "data_dir": str(directory / "data"),
        "listen": {"client": f"127.0.0.1:{client}", "peer": f"127.0.0.1:{peer}", "http": f"127.0.0.1:{http}"},
        "peers": [{"id": 1, "address": f"127.0.0.1:{peer}"}],
    }


def write_config(path: Path, document: Mapping[str, object]) -> Path:
    """Write a document as TOML, whatever is in it."""

    def inline(value: object) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{key} = {inline(entry)}" for key, entry in value.items()) + "}"
        if isinstance(value, Sequence) and not isinstance(value, str):
            return "[" + ", ".join(map(inline, value)) + "]"
        return json.dumps(value)

    path.write_text("".join(f"{key} = {inline(value)}\n" for key, value in document.items()))
    return path


class Replica:
    """A running `synod serve`, alone in its cell.

    Args:
        directory: holds its config, its output and, unless the document says otherwise, its data.
        document: of `config_document`.
        prefix: a command to run it under, such as strace.
    """

    def __init__(
        self, directory: Path, document: Mapping[str, object] | None = None, *settings: str, prefix: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.document = document or config_document(directory)
        self.config = write_config(directory / "replica.toml", self.document)
        listen = self.document["listen"]
        assert isinstance(listen, Mapping)
        self.client_port, self.peer_port, self.http_port = (
            int(str(listen[name]).rpartition(":")[2]) for name in ("client", "peer", "http")
        )
        self.hosts = f"127.0.0.1:{self.client_port}"
        self._command = [*prefix, *SYNOD, "serve", str(self.config)]
        for setting in settings:
            self._command += ["--set", setting]
        self._output = directory / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def format(self) -> None:
        """Give the directory its identity."""
        format_replica(self.config)

    def start(self) -> None:
        """Start it, and wait until it serves."""
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output, env=clean_environment())
        wait_for(self._serves, "a replica that serves")

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the replica ended: {self.output()}"
        with contextlib.suppress(OSError):
            return http(self.http_port, "/readyz")[0] == 200
        return False

    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=PATIENCE_S)
        self.process = None
        return code

    def __enter__(self) -> Self:
        try:
            self.format()
            self.start()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def http(port: int, path: str) -> tuple[int, str]:
    """Status and text of an answer.

    Raises:
        OSError: nobody answers there.
    """
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


# -- whole cells ---------------------------------------------------------------------------------------------


class RealCell(SynodCell):
    """A cell of three replicas that a test may hurt."""

    def role(self, number: int) -> str:
        """What a replica takes itself for; nothing while it does not answer."""
        with contextlib.suppress(OSError):
            return str(self.status(number, LOOK_S)["role"])
        return ""

    def wait_leader(self) -> int:
        """The number of the replica that leads, once one does."""
        return wait_for(lambda: self._leader_found(), "a leader") - 1

    def _leader_found(self) -> int:
        found = self.leader()
        return 0 if found is None else found + 1

    def wait_settled(self) -> int:
        """Wait until every replica runs, serves, and follows the one leader; returns its number."""
        for number, process in enumerate(self.processes.running):
            if process is None or process.poll() is not None:
                self.processes.start(number)
        self.wait_serving()
        wait_for(
            lambda: sorted(map(self.role, range(self.replicas))) == ["follower"] * (self.replicas - 1) + ["leader"],
            "one leader and its followers",
        )
        return self.wait_leader()

    def wait_digests(self) -> int:
        """Write on until all who run have a digest of one slot, and compare them; returns the slot.

        One is due every 1,024 slots, and who is busy with an earlier one leaves it out.
        """
        running = [number for number, process in enumerate(self.processes.running) if process is not None]
        with BlockingCell(self.hosts) as client:

            def found() -> set[tuple[int, str]]:
                statuses = [self.status(number) for number in running]
                digests = {(int(str(status["digest_slot"])), str(status["digest"])) for status in statuses}
                slots = {slot for slot, _ in digests}
                if len(slots) == 1 and slots != {0}:
                    return digests
                with contextlib.suppress(OutcomeUnknown, NotApplied):  # an election is enough
                    client.ensure_path("/digests")
                    for _ in range(64):
                        client.set("/digests", b"")
                return set()

            digests = wait_for(found, "digests of one slot", DIGESTS_S)
        assert len(digests) == 1, digests
        return digests.pop()[0]

    def whole_output(self, number: int) -> str:
        """Everything that a replica printed since the cell was made."""
        return (self.directory / f"output-{number}").read_text(errors="replace")

    def resume_all(self) -> None:
        """SIGCONT to whoever was stopped."""
        for number, process in enumerate(self.processes.running):
            if process is not None:
                self.processes.resume(number)


@contextlib.contextmanager
def paused(cell: SynodCell, *numbers: int) -> Iterator[None]:
    """Some replicas that hold their connections and say nothing."""
    try:
        for number in numbers:
            cell.processes.pause(number)
        yield
    finally:
        for number in numbers:
            cell.processes.resume(number)


def says_ok(port: int) -> bool:
    """Whether a server answers at all."""
    with contextlib.suppress(OSError):
        return four_letter_word(port, b"ruok") == "imok"
    return False


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A port that somebody else has."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes; skips aloud where none can be mounted."""
    directory.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here: a full disk is not tried")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here ({done.stderr.strip()}): a full disk is not tried")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextlib.contextmanager
def tampered(pid: int, how: str) -> Iterator[None]:
    """From now on a system call of a process fails or is late, as strace's `inject` says: `fdatasync:error=EIO`."""
    inject = ["-e", f"trace={how.partition(':')[0]}", "-e", f"inject={how}"]
    strace = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", *inject, "-p", str(pid)], stderr=subprocess.PIPE, text=True
    )

    def attached() -> bool:
        if strace.poll() is not None:
            assert strace.stderr is not None
            pytest.skip(f"strace may not trace here ({strace.stderr.read().strip()}): {how} is not tried")
        with contextlib.suppress(OSError):  # a thread that has just ended
            tasks = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/status")]
            return all(f"TracerPid:\t{strace.pid}\n" in task for task in tasks)
        return False

    try:
        wait_for(attached, "strace at every thread")
        yield
    finally:
        strace.kill()
        strace.communicate()
