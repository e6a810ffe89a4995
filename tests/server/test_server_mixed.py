"""A cell whose replicas run different cores: compiled and pure are one system."""

from __future__ import annotations

import sys

import pytest
from kazoo.client import KazooClient

from _cells import RealCell
from _peers import COMPILED_PYTHON


@pytest.mark.slow
@pytest.mark.requires("compiled", "pure")
def test_a_mixed_cell_agrees(tmp_path) -> None:
    """Each kind leads for a while; both apply the same, down to the digest of the whole state."""
    pythons = (str(COMPILED_PYTHON), sys.executable, sys.executable)
    with RealCell(tmp_path / "cell", pythons=pythons) as cell:
        assert [cell.status(number)["compiled"] for number in range(3)] == [True, False, False]
        client = KazooClient(hosts=cell.hosts, timeout=10)
        client.start(timeout=30)
        led = set()
        for _ in range(4):  # whoever was killed may lead again, when all the others were busy
            leader = cell.wait_leader()
            led.add(leader)
            for number in range(1_200):
                client.retry(client.ensure_path, f"/mixed/{leader}/{number % 50}")
                client.retry(client.set, f"/mixed/{leader}/{number % 50}", b"%d" % number)
            cell.processes.kill(leader)
            cell.wait_settled()
            if len(led) == 2:
                break
        client.stop()
        client.close()
        assert cell.wait_digests() > 1_000
        assert len(led) == 2
