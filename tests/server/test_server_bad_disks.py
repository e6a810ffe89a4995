"""Disks that hang or refuse a write, under real processes: the cell goes on, and the replica does what is safe.

A thread writes the log here: its calls are those that strace can delay and refuse.
"""

from __future__ import annotations

import time

import pytest

from _cells import STEADY, RealCell, comes_to_be, tampered, wait_for
from synod.client import BlockingCell

pytestmark = [pytest.mark.slow, pytest.mark.requires("strace")]

HANG_S = 60
"""A sync takes longer than anybody waits here; it ends when strace does."""


@pytest.fixture
def cell(tmp_path):
    with RealCell(tmp_path, settings={**STEADY, "io_uring": "false"}) as running:
        running.wait_settled()
        yield running
        for number in range(3):
            assert "Traceback" not in running.whole_output(number)


def test_a_leader_whose_disk_hangs_hands_over_and_comes_back(cell):
    """It lives, its connections stand, and it can promise nothing: silence lets the others elect. Nothing is lost."""
    leader = cell.wait_leader()
    ballot = cell.status(leader)["ballot"]
    others = ",".join(f"127.0.0.1:{cell.ports[n]}" for n in range(3) if n != leader)
    with BlockingCell(others, timeout=10.0) as client:
        wait_for(lambda: comes_to_be(client, "/before"), "a write")
        with tampered(cell.processes.pid(leader), f"fdatasync:delay_enter={HANG_S * 1_000_000}"):
            began = time.monotonic()
            done = 0
            new = leader
            while new == leader or done < 20:
                assert time.monotonic() - began < HANG_S
                done += comes_to_be(client, f"/during-{done:04}")
                new = next((n for n in range(3) if n != leader and cell.role(n) == "leader"), new)
            assert cell.status(new)["ballot"] > ballot
            assert cell.processes.running[leader].poll() is None, "it is alive"
            for said in (
                "disk: a write is older than the election timeout",
                f"replica {leader + 1} leads no more: its disk hangs",
            ):
                wait_for(lambda said=said: said in cell.whole_output(leader), said)
        cell.wait_settled()
        names = sorted(name for name in client.children("/") if name.startswith("during-"))
        assert names == [f"during-{number:04}" for number in range(done)]
    with BlockingCell(f"127.0.0.1:{cell.ports[leader]}") as there:
        assert there.exists(f"/{names[-1]}") is not None


@pytest.mark.parametrize("role", ["leader", "follower"])
@pytest.mark.parametrize(("call", "said"), [("pwrite64", "writing "), ("fdatasync", "syncing ")])
def test_an_error_of_the_active_segment_stops_the_process_at_once(cell, call, said, role):
    """Nobody knows what the segment holds now: no second write, no sync, exit code 3, and the cell goes on, and loses nothing."""
    leader = cell.wait_leader()
    broken = leader if role == "leader" else (leader + 1) % 3
    process = cell.processes.running[broken]
    others = ",".join(f"127.0.0.1:{cell.ports[n]}" for n in range(3) if n != broken)
    done: list[str] = []

    def write(client: BlockingCell) -> None:
        name = f"{len(done):05}"
        if comes_to_be(client, f"/{name}"):
            done.append(name)

    def ended(client: BlockingCell) -> bool:
        write(client)
        return process.poll() is not None

    def found(client: BlockingCell) -> list[str]:
        return sorted(name for name in client.children("/") if name.isdecimal())

    with BlockingCell(others, timeout=10.0) as client:
        for _ in range(20):
            write(client)
        with tampered(process.pid, f"{call}:error=EIO"):
            wait_for(lambda: ended(client), "the end of the replica")
        for _ in range(20):
            write(client)
        assert found(client) == done
    assert process.returncode == 3
    last = cell.whole_output(broken).splitlines()[-1]
    assert last.startswith(f"synod: this replica stops: {said}")
    assert "Input/output error" in last
    assert ("it may have lost what it held" in last) == (call == "fdatasync")
    # With a disk that works it comes back, and knows all of it.
    cell.processes.running[broken] = None
    cell.wait_settled()
    with BlockingCell(f"127.0.0.1:{cell.ports[broken]}") as there:
        assert found(there) == done
