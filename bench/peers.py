"""Start and stop what is compared: a cell of synod, Debian's Apache ZooKeeper, Debian's etcd.

Each lives in a directory of its own, on free loopback ports, with its data on disk and every acknowledgement
synced, as its package configures it; each is stopped by process id. The interop tests use them as well.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from synod.server import load_config
from synod.storage import Identity, RealFileSystem, format_directory

JARS: Final = Path("/usr/share/java")
ZOOKEEPER_NEEDS: Final = (
    "zookeeper",
    "zookeeper-jute",
    "slf4j-api",
    "slf4j-nop",
    "netty-all",
    "metrics-core",
    "snappy-java",
    "commons-io",
    "commons-cli",
)
COMPILED_PYTHON: Final = Path(__file__).parent.parent / ".venv-compiled" / "bin" / "python"
"""Made by `make compiled`: an environment whose synod has a compiled core."""

SERVES_WITHIN_S: Final = 60.0
"""A JVM on a loaded machine of two cores needs its time."""

LOOK_S: Final = 2.0
"""Who is only looked at, and has said nothing for so long, counts as one that does not answer."""

ANSWER_S: Final = 20.0
"""Who is asked has so long to answer: a busy machine may hold it up."""


PORTS: Final = range(10_000, 20_000)
"""Below the range from which the kernel draws the local ends of outgoing connections, and below where `synod up` looks:
else a port would now and then be taken before its server binds it, or while it is down."""
SLICE: Final = 500
_claims: Final[list[socket.socket]] = []


@functools.cache
def _own_ports() -> Iterator[int]:
    """The ports of this process, round and round, so that the one that was given longest ago is the next.

    Each process that starts servers has a slice to itself, by a name that only one can bind, and that goes with it.
    """
    slices = [PORTS[begin : begin + SLICE] for begin in range(0, len(PORTS), SLICE)]
    random.Random(os.getpid()).shuffle(slices)
    for own in slices:
        claim = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            claim.bind(f"\0synod-ports-{own.start}")
            _claims.append(claim)
            break
        claim.close()
    return itertools.cycle(own)


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1, one after the other, that nobody listens on.

    Raises:
        RuntimeError: there are not so many.
    """
    found: list[int] = []
    for port in itertools.islice(_own_ports(), 2 * SLICE):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                found.clear()
                continue
        if found and port != found[-1] + 1:
            found.clear()
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"there are no {count} free ports on 127.0.0.1")


def four_letter_word(port: int, word: bytes, timeout_s: float = ANSWER_S) -> str:
    """What a server of the ZooKeeper protocol answers to a word such as `srvr`.

    Raises:
        OSError: nobody answers there.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(word)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
    return answer.decode(errors="replace")


def zookeeper_mode(port: int) -> str:
    """`leader`, `follower`, `standalone`, or nothing while it does not serve."""
    with contextlib.suppress(OSError):
        for line in four_letter_word(port, b"srvr", LOOK_S).splitlines():
            if line.startswith("Mode: "):
                return line.removeprefix("Mode: ")
    return ""


def resident_bytes(pid: int) -> int:
    """Memory that a process holds, as the kernel counts it (RSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


class Processes:
    """Some processes, by number from 0, and everything that a fault does to one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.commands: list[Sequence[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.running: list[subprocess.Popen[bytes] | None] = []

    def add(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Take in a command; `start` runs it."""
        self.commands.append(command)
        self.environments.append({**os.environ, **(environment or {})})
        self.running.append(None)

    def start(self, number: int) -> None:
        """Run it, or run it again."""
        with (self.directory / f"output-{number}").open("ab") as output:
            self.running[number] = subprocess.Popen(
                self.commands[number], env=self.environments[number], stdout=output, stderr=subprocess.STDOUT
            )

    def pid(self, number: int) -> int:
        """Its process id."""
        process = self.running[number]
        assert process is not None
        return process.pid

    def kill(self, number: int) -> None:
        """SIGKILL, as a crash."""
        process = self.running[number]
        assert process is not None
        process.kill()
        process.wait()
        self.running[number] = None

    def pause(self, number: int) -> None:
        """SIGSTOP: it holds its connections and says nothing."""
        os.kill(self.pid(number), signal.SIGSTOP)

    def resume(self, number: int) -> None:
        """SIGCONT."""
        os.kill(self.pid(number), signal.SIGCONT)

    def stop(self) -> None:
        """End all of them; leaves nobody behind."""
        for number, process in enumerate(self.running):
            if process is not None:
                self.kill(number)

    def output(self, number: int) -> str:
        """The last lines that it printed."""
        path = self.directory / f"output-{number}"
        return path.read_text(errors="replace")[-2_000:] if path.exists() else ""


class Peer:
    """A running system of some servers; a context manager.

    Args:
        directory: an empty one, its own.
        replicas: how many servers.
    """

    name = ""

    def __init__(self, directory: Path, replicas: int) -> None:
        self.directory = directory
        self.replicas = replicas
        self.ports: list[int] = []
        self.processes = Processes(directory)

    @property
    def hosts(self) -> str:
        """`host:port,host:port,...` of the client ports."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self.begin()
            self.wait_serving()
        except BaseException:
            self.processes.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.processes.stop()

    def begin(self) -> None:
        """Write the configuration and start every server, without waiting."""
        raise NotImplementedError

    def leader(self) -> int | None:
        """The number of the server that leads, or None while none does."""
        raise NotImplementedError

    def serving(self) -> bool:
        """Whether every server that runs takes clients."""
        raise NotImplementedError

    def version(self) -> str:
        """What it calls itself."""
        raise NotImplementedError

    def wait_serving(self, timeout_s: float = SERVES_WITHIN_S) -> None:
        """Wait until every server takes clients.

        Raises:
            RuntimeError: one ended by itself, or it took too long.
        """
        deadline = time.monotonic() + timeout_s
        while not self.serving():
            for number, process in enumerate(self.processes.running):
                if process is not None and process.poll() is not None:
                    raise RuntimeError(f"{self.name} {number} ended by itself: {self.processes.output(number)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not serve after {timeout_s:.0f} s: {self.processes.output(0)}")
            time.sleep(0.02)


def zookeeper_command() -> list[str] | None:
    """The start of the command that runs a server, or None if it is not installed here."""
    java = shutil.which("java")
    jars = [JARS / f"{name}.jar" for name in ZOOKEEPER_NEEDS]
    if java is None or not jars[0].exists():
        return None
    return [java, "-cp", ":".join(map(str, jars))]


class ZooKeeper(Peer):
    """Apache ZooKeeper, one server or an ensemble.

    Args:
        directory: an empty one, its own.
        replicas: how many servers.
        tick_ms: its unit of time; the smallest session timeout is two of it.
        jvm: further options of the virtual machine.
        settings: further lines of zoo.cfg.
    """

    name = "ZooKeeper"

    def __init__(
        self,
        directory: Path,
        replicas: int = 3,
        *,
        tick_ms: int = 2_000,
        jvm: Sequence[str] = (),
        settings: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(directory, replicas)
        self.tick_ms = tick_ms
        self.jvm = jvm
        self.settings = settings or {}

    def begin(self) -> None:
        command = zookeeper_command()
        if command is None:
            raise RuntimeError("Apache ZooKeeper is not installed")
        ports = free_ports(3 * self.replicas)
        self.ports = ports[: self.replicas]
        servers = "".join(
            f"server.{i + 1}=127.0.0.1:{ports[self.replicas + i]}:{ports[2 * self.replicas + i]}\n"
            for i in range(self.replicas)
        )
        for i in range(self.replicas):
            home = self.directory / f"server-{i + 1}"
            (home / "data").mkdir(parents=True, exist_ok=True)
            (home / "data" / "myid").write_text(f"{i + 1}\n")
            config = home / "zoo.cfg"
            config.write_text(
                f"tickTime={self.tick_ms}\ninitLimit=10\nsyncLimit=5\ndataDir={home}/data\n"
                f"clientPort={self.ports[i]}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n"
                "admin.enableServer=false\n4lw.commands.whitelist=*\n"
                + "".join(f"{key}={value}\n" for key, value in self.settings.items())
                + (servers if self.replicas > 1 else "")
            )
            main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
            self.processes.add([command[0], *self.jvm, *command[1:], main, str(config)])
            self.processes.start(i)

    def serving(self) -> bool:
        modes = [zookeeper_mode(port) for port in self.ports]
        return all(modes) and (self.replicas == 1 or "leader" in modes)

    def leader(self) -> int | None:
        for number, port in enumerate(self.ports):
            if self.processes.running[number] is not None and zookeeper_mode(port) == "leader":
                return number
        return None

    def version(self) -> str:
        first = four_letter_word(self.ports[0], b"srvr").splitlines()[0]
        return first.removeprefix("Zookeeper version: ").partition("-")[0].partition(",")[0]


class Etcd(Peer):
    """etcd; its clients speak gRPC, or JSON over HTTP through its gateway."""

    name = "etcd"

    def __init__(self, directory: Path, replicas: int = 3) -> None:
        super().__init__(directory, replicas)

    def begin(self) -> None:
        binary = shutil.which("etcd")
        if binary is None:
            raise RuntimeError("etcd is not installed")
        ports = free_ports(2 * self.replicas)
        self.ports = ports[: self.replicas]
        peers = [f"http://127.0.0.1:{port}" for port in ports[self.replicas :]]
        cluster = ",".join(f"r{i}={url}" for i, url in enumerate(peers))
        for i, peer in enumerate(peers):
            client = f"http://127.0.0.1:{self.ports[i]}"
            self.processes.add(
                [
                    binary,
                    f"--name=r{i}",
                    f"--data-dir={self.directory}/r{i}",
                    f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster={cluster}",
                    "--initial-cluster-state=new",
                    "--log-level=error",
                ],
                {"ETCD_UNSUPPORTED_ARCH": os.uname().machine},
            )
            self.processes.start(i)

    def ask(self, number: int, path: str, document: object) -> dict[str, object]:
        """One request through the JSON gateway."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[number]}{path}", data=json.dumps(document).encode()
        )
        with urllib.request.urlopen(request, timeout=2) as answer:
            found: dict[str, object] = json.load(answer)
        return found

    def serving(self) -> bool:
        try:
            return all(
                "leader" in self.ask(number, "/v3/maintenance/status", {})
                for number, process in enumerate(self.processes.running)
                if process is not None
            )
        except (OSError, ValueError):
            return False

    def leader(self) -> int | None:
        for number, process in enumerate(self.processes.running):
            with contextlib.suppress(OSError, ValueError):
                if process is None:
                    continue
                status = self.ask(number, "/v3/maintenance/status", {})
                header = status["header"]
                assert isinstance(header, dict)
                if status.get("leader") == header.get("member_id"):
                    return number
        return None

    def version(self) -> str:
        return str(self.ask(0, "/v3/maintenance/status", {}).get("version", ""))


def format_replica(config: Path) -> None:
    """What `synod format CONFIG` does, without a process for it: a third of a second of a core, for each replica."""
    loaded = load_config(str(config), ())
    identity = Identity(loaded.id, loaded.incarnation, loaded.configuration, secrets.randbits(62) + 1)
    format_directory(RealFileSystem(), loaded.data_dir, identity)


class SynodCell(Peer):
    """A cell of synod, each replica a process of its own, run as a user runs it.

    Args:
        directory: an empty one, its own.
        replicas: how many.
        settings: keys of the configuration, as `{"session.timeout_ms_min": 1000}`.
        pythons: interpreters that have synod installed; the replicas take them in turn.
    """

    name = "synod"

    def __init__(
        self,
        directory: Path,
        replicas: int = 3,
        *,
        settings: Mapping[str, object] | None = None,
        pythons: Sequence[str] = (sys.executable,),
    ) -> None:
        super().__init__(directory, replicas)
        self.settings = settings or {}
        self.pythons = pythons
        self.http_ports: list[int] = []

    def format(self) -> None:
        """Write the configurations and give every directory its identity."""
        ports = free_ports(3 * self.replicas)
        self.ports = ports[: self.replicas]
        peer_ports = ports[self.replicas : 2 * self.replicas]
        self.http_ports = ports[2 * self.replicas :]
        cell_id = secrets.token_hex(16)
        peers = "".join(f'[[peers]]\nid = {i + 1}\naddress = "127.0.0.1:{port}"\n' for i, port in enumerate(peer_ports))
        overrides = [part for key, value in self.settings.items() for part in ("--set", f"{key}={value}")]
        for i in range(self.replicas):
            config = self.directory / f"replica-{i + 1}.toml"
            config.write_text(
                f'id = {i + 1}\ncell_id = "{cell_id}"\ndata_dir = "replica-{i + 1}"\n'
                f'[listen]\nclient = "127.0.0.1:{self.ports[i]}"\npeer = "127.0.0.1:{peer_ports[i]}"\n'
                f'http = "127.0.0.1:{self.http_ports[i]}"\n{peers}'
            )
            python = self.pythons[i % len(self.pythons)]
            synod = [python, "-m", "synod"]
            if python == sys.executable and "PYTHONPATH" not in os.environ:
                format_replica(config)
            else:  # what runs there may be another version, which formats as it knows
                subprocess.run([*synod, "format", str(config)], check=True, stderr=subprocess.DEVNULL)
            self.processes.add([*synod, "serve", str(config), *overrides])

    def begin(self) -> None:
        if not self.processes.commands:
            self.format()
        for number in range(self.replicas):
            self.processes.start(number)

    def status(self, number: int, timeout_s: float = ANSWER_S) -> dict[str, object]:
        """What a replica says of itself.

        Raises:
            OSError: it does not answer.
        """
        url = f"http://127.0.0.1:{self.http_ports[number]}/status"
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            found: dict[str, object] = json.load(answer)
        return found

    def serving(self) -> bool:
        for number, process in enumerate(self.processes.running):
            if process is None:
                continue
            try:
                url = f"http://127.0.0.1:{self.http_ports[number]}/readyz"
                with urllib.request.urlopen(url, timeout=2):
                    pass
            except OSError:
                return False
        return True

    def leader(self) -> int | None:
        for number, process in enumerate(self.processes.running):
            with contextlib.suppress(OSError, ValueError):
                if process is not None and self.status(number, LOOK_S)["role"] == "leader":
                    return number
        return None

    def version(self) -> str:
        status = self.status(0)
        return f"{status['version']} ({'compiled' if status['compiled'] else 'pure Python'})"
