"""Every test of this room runs against Apache ZooKeeper, which is the oracle, and against a cell of synod.

Two long-lived systems of three servers each; a test works below a root of its own. A test that kills a server
starts it again before it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from interop_wire import CLOSE, CREATE, PATIENCE_S, SYNC, Wire, create, text
from kazoo.client import KazooClient
from kazoo.handlers.threading import KazooTimeoutError

from _peers import Peer, SynodCell, ZooKeeper, nudge

SESSION_TIMEOUT_MS_MIN = 1_000
SESSION_TIMEOUT_MS_MAX = 10_000
JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

_roots = itertools.count(1)


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Three servers of Apache ZooKeeper, with the session timeouts that the cell has."""
    directory = tmp_path_factory.mktemp("zookeeper")
    with ZooKeeper(directory, tick_ms=SESSION_TIMEOUT_MS_MIN // 2, jvm=JVM) as system:
        yield system


@pytest.fixture(scope="session")
def synod_cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """A cell of three replicas."""
    settings = {
        "session.timeout_ms_min": SESSION_TIMEOUT_MS_MIN,
        "session.timeout_ms_max": SESSION_TIMEOUT_MS_MAX,
    }
    with SynodCell(tmp_path_factory.mktemp("synod"), settings=settings) as system:
        yield system


@pytest.fixture(
    params=[
        pytest.param("zookeeper", marks=pytest.mark.requires("zookeeper")),
        pytest.param("synod"),
    ]
)
def system(request: pytest.FixtureRequest) -> Peer:
    """Each of the two in turn."""
    name = "zookeeper" if request.param == "zookeeper" else "synod_cell"
    peer: Peer = request.getfixturevalue(name)
    return peer


@pytest.fixture
def root() -> str:
    """A path that no other test uses."""
    return f"/test-{os.getpid()}-{next(_roots)}"


def asked(system: Peer, op: int, body: bytes) -> None:
    """One request, in a session of its own: one that is kept for the next request may have expired by then."""
    one = Wire(system.ports[0])
    one.ask(op, body)
    one.ask(CLOSE)
    one.drop()


@contextlib.contextmanager
def kept_awake(system: Peer) -> Iterator[None]:
    """ZooKeeper forgets requests of a client that is alone, and kazoo only waits for their answers. See `nudge`."""
    done = threading.Event()
    nudging = threading.Thread(target=keep_nudging, args=(system.ports, done))
    if system.name == "ZooKeeper":
        nudging.start()
    try:
        yield
    finally:
        done.set()
        if nudging.ident is not None:
            nudging.join()


def keep_nudging(ports: Sequence[int], done: threading.Event) -> None:
    while not done.wait(2.0):
        for port in ports:
            with contextlib.suppress(OSError):
                nudge(port)


@pytest.fixture
def connect(system: Peer, root: str) -> Iterator[Callable[..., KazooClient]]:
    """Makes started kazoo clients below this test's root; `replica` names one server, else it may be any."""
    clients: list[KazooClient] = []
    one_at_a_time = threading.Lock()
    asked(system, CREATE, create(root))

    def make(
        *, replica: int | None = None, hosts: str = "", timeout: float = 10.0, chroot: bool = True, **options
    ) -> KazooClient:
        with one_at_a_time:
            asked(system, SYNC, text(root))
        hosts = hosts or (system.hosts if replica is None else f"127.0.0.1:{system.ports[replica]}")
        client = KazooClient(hosts + (root if chroot else ""), timeout=timeout, **options)
        clients.append(client)
        client.start(timeout=PATIENCE_S)
        return client

    with kept_awake(system):
        yield make
        for client in clients:
            with contextlib.suppress(KazooTimeoutError):
                client.stop()
            client.close()


@pytest.fixture
def zk(connect: Callable[..., KazooClient]) -> KazooClient:
    """A started kazoo client."""
    return connect()


@pytest.fixture
def wire(system: Peer) -> Iterator[Callable[..., Wire]]:
    """Makes bare connections: frames out, frames in."""
    wires: list[Wire] = []

    def make(replica: int = 0, **options) -> Wire:
        wires.append(Wire(system.ports[replica], **options))
        return wires[-1]

    yield make
    for one in wires:
        one.drop()
