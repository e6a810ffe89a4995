"""A cell whose replicas run different cores: compiled and pure are one system."""

from __future__ import annotations

import json
import sys
import time

import pytest
from kazoo.client import KazooClient

from _peers import COMPILED_PYTHON, SynodCell

DIGESTS_S = 20.0


@pytest.mark.slow
@pytest.mark.requires("compiled", "pure")
def test_a_mixed_cell_agrees(tmp_path) -> None:
    """Each kind leads for a while; both apply the same, down to the digest of the whole state."""
    pythons = (str(COMPILED_PYTHON), sys.executable, sys.executable)
    with SynodCell(tmp_path / "cell", pythons=pythons) as cell:
        assert [cell.status(number)["compiled"] for number in range(3)] == [True, False, False]
        client = KazooClient(hosts=cell.hosts, timeout=10)
        client.start(timeout=30)
        led = set()
        for _ in range(2):
            leader = cell.leader()
            assert leader is not None
            led.add(leader)
            for number in range(1_200):
                client.retry(client.ensure_path, f"/mixed/{leader}/{number % 50}")
                client.retry(client.set, f"/mixed/{leader}/{number % 50}", b"%d" % number)
            cell.processes.kill(leader)
            cell.processes.start(leader)
            cell.wait_serving()
        client.stop()
        client.close()
        statuses = settled(cell)
        assert len({status["digest"] for status in statuses}) == 1, json.dumps(statuses)
        assert statuses[0]["digest_slot"] > 1_000
        assert len(led) == 2


def settled(cell: SynodCell) -> list[dict]:
    """The statuses once all digests are of one slot."""
    until = time.monotonic() + DIGESTS_S
    while True:
        statuses = [cell.status(number) for number in range(3)]
        if len({status["digest_slot"] for status in statuses}) == 1 or time.monotonic() > until:
            return statuses
        time.sleep(0.05)
