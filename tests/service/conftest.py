"""Every promise of the service room is tested against a synod cell, and where it matters against Apache ZooKeeper."""

from __future__ import annotations

import pytest
from service_world import client_of, local_cell


@pytest.fixture(scope="session")
def local_hosts():
    """A cell of one replica, for the whole run of this worker."""
    with local_cell() as cell:
        yield cell.hosts


@pytest.fixture(params=["synod", pytest.param("zookeeper", marks=pytest.mark.requires("zookeeper"))])
def hosts(request):
    """The addresses of a cell: synod's, and ZooKeeper's where it is installed."""
    if request.param == "synod":
        return request.getfixturevalue("local_hosts")
    return request.getfixturevalue("zookeeper_server").hosts


@pytest.fixture
async def cell(local_hosts):
    """A started client of the synod cell."""
    async with client_of(local_hosts) as started:
        yield started


@pytest.fixture
def unique(request):
    """A name that no other test uses."""
    return f"t{abs(hash(request.node.nodeid)):x}"
