"""A recipe is tested against a cell in this process, a real cell of three replicas, and Apache ZooKeeper."""

from __future__ import annotations

import contextlib

import pytest

from client.client_systems import SYSTEMS, Relay, clients, shared, unique_root


@pytest.fixture(scope="session")
def hosts_of(tmp_path_factory):
    """The addresses of a system by its name; each is started when it is first asked for."""
    with contextlib.ExitStack() as stack:
        known: dict[str, str] = {}

        def hosts_of(name: str) -> str:
            if name not in known:
                known[name] = stack.enter_context(shared(name, tmp_path_factory.mktemp(name)))
            return known[name]

        yield hosts_of


@pytest.fixture(
    params=[pytest.param(s, marks=pytest.mark.requires("zookeeper") if s == "zookeeper" else ()) for s in SYSTEMS]
)
def hosts(request, hosts_of):
    """Each system in turn."""
    return hosts_of(request.param)


@pytest.fixture
def local_hosts(hosts_of):
    """The cell in this process."""
    return hosts_of("local")


@pytest.fixture
def root():
    """A path that no other test uses; it is not there yet."""
    return unique_root()


@pytest.fixture
async def client():
    """Makes started clients: `await client(hosts)`."""
    async with clients() as make:
        yield make


@pytest.fixture
async def relay(local_hosts):
    """A cable to the cell in this process, to be cut."""
    async with Relay(local_hosts) as cable:
        yield cable
