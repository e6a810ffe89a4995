"""Every promise of the service room is tested against a synod cell, and where it matters against Apache ZooKeeper."""

from __future__ import annotations

import pytest
from bench.peers import ZooKeeper
from service_world import client_of, local_cell

from synod.base import SECOND


@pytest.fixture(scope="session")
def local_hosts():
    """A cell of one replica, for the whole run of this worker."""
    with local_cell() as cell:
        yield cell.hosts


@pytest.fixture(scope="session")
def zookeeper_hosts(tmp_path_factory):
    """One Apache ZooKeeper server, for the whole run of this worker."""
    with ZooKeeper(tmp_path_factory.mktemp("zookeeper"), replicas=1) as server:
        yield server.hosts


@pytest.fixture(params=["synod", pytest.param("zookeeper", marks=pytest.mark.requires("zookeeper"))])
def hosts(request):
    """The addresses of a cell: synod's, and ZooKeeper's where it is installed."""
    return request.getfixturevalue("local_hosts" if request.param == "synod" else "zookeeper_hosts")


@pytest.fixture
async def cell(local_hosts):
    """A started client of the synod cell."""
    async with client_of(local_hosts) as started:
        yield started


@pytest.fixture
def still(monkeypatch):
    """The clock of balancing stands still: who was set aside is not tried again, however long a test takes."""
    for module in ("_nodes", "_router", "_system", "_transport"):
        monkeypatch.setattr(f"synod.service.{module}.now_micros", lambda: SECOND)


@pytest.fixture
def unique(request):
    """A name that no other test uses."""
    return f"t{abs(hash(request.node.nodeid)):x}"
