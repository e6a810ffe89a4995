"""Disks that are really full: a cell of processes whose majority has no room reads, refuses, and comes back."""

from __future__ import annotations

import contextlib
import subprocess
import time

import pytest
from bench.peers import four_letter_word
from kazoo.client import KazooClient
from kazoo.exceptions import NotReadOnlyCallError

from _cells import PATIENCE_S, SETTINGS, RealCell, Replica, http, sentence, small_disk, synod, wait_for
from synod.base import NotApplied, NotReadOnly, OutcomeUnknown
from synod.client import BlockingCell

pytestmark = pytest.mark.slow

REFUSED_S = 5.0
"""At once, on a busy machine as well; kazoo gives a connection up on which it has waited for seven seconds in vain."""


def kazoo(port: int) -> KazooClient:
    client = KazooClient(hosts=f"127.0.0.1:{port}", timeout=10.0)
    client.start(timeout=PATIENCE_S)
    return client


@pytest.mark.requires("root")
def test_with_a_majority_full_the_cell_reads_and_says_why_it_does_not_write(tmp_path):
    """Nothing is lost, nothing hangs, nobody starts anything again: with room the cell writes on by itself."""
    with contextlib.ExitStack() as stack:
        disks = [stack.enter_context(small_disk(tmp_path / f"replica-{n}", "24m")) for n in (2, 3)]
        cell = stack.enter_context(RealCell(tmp_path, settings=SETTINGS))
        cell.wait_settled()
        # One idle client at each replica, of two kinds; a third one that fills the disks.
        idle = [kazoo(port) for port in cell.ports]
        for client in idle:
            stack.callback(client.close)
            stack.callback(client.stop)
        sessions = [client.client_id[0] for client in idle]
        own = stack.enter_context(BlockingCell(f"127.0.0.1:{cell.ports[0]}", timeout=5.0))
        own.create("/ballast")
        own.create("/kept", b"before")
        written = fill(cell)
        for number in (1, 2):
            assert cell.status(number)["abstaining"]
            assert "this replica abstains until there is room: " in cell.whole_output(number)
        assert not cell.status(0)["abstaining"]
        # Who lost its room while the others went on for a moment is behind, and cannot learn what it cannot write.
        reading = wait_for(lambda: who_reads(cell), "the leader and the one with room, reading")
        for number in reading:
            client = idle[number]
            assert client.retry(client.get, "/kept")[0] == b"before"
            began = time.monotonic()
            with pytest.raises(NotReadOnlyCallError):
                client.set("/kept", b"refused")
            assert time.monotonic() - began < REFUSED_S
            assert http(cell.http_ports[number], "/readyz")[0] == 200
            assert four_letter_word(cell.ports[number], b"isro") == "ro"
        assert own.get("/kept")[0] == b"before"
        with pytest.raises(NotReadOnly, match="can only read at the moment; nothing was changed"):
            own.set("/kept", b"refused")
        # Who has no session cannot get one, and is told so in bounded time.
        done = synod("set", "--cell", cell.hosts, "--timeout", "5", "/kept", "new")
        assert done.returncode == 3
        assert "a majority of the cell's replicas has no room on the disk" in done.stderr
        for disk in disks:
            subprocess.run(["mount", "-o", "remount,size=96m", str(disk)], check=True)
        wait_for(lambda: not any(cell.status(n)["read_only"] for n in range(3)), "a cell that writes")
        for number in reading:
            idle[number].retry(idle[number].set, "/kept", b"after %d" % number)
            assert idle[number].client_id[0] == sessions[number]
        with BlockingCell(cell.hosts) as other:
            assert other.get("/kept")[0] == b"after %d" % reading[-1]
            assert other.exists("/ballast").version in written


def who_reads(cell: RealCell) -> list[int]:
    """The replicas that serve reads, if the leader and the one with room are among them."""
    reading = [number for number in range(3) if cell.status(number)["readable"]]
    return reading if {0, cell.leader()} <= set(reading) else []


def fill(cell: RealCell) -> range:
    """Write until the cell only reads; returns the versions that the last writes may have left.

    A busy machine may let a write fail before the disks are full: an election is enough.
    """
    done = failed = 0
    with BlockingCell(cell.hosts, timeout=5.0) as client:
        while done < 200 and failed < 10:
            try:
                client.set("/ballast", bytes([done % 256]) * 500_000)
                done += 1
            except (OutcomeUnknown, NotApplied):
                failed += 1
                with contextlib.suppress(AssertionError):
                    wait_for(lambda: all(cell.status(n)["read_only"] for n in range(3)), "full disks", 5.0)
                    return range(done, done + failed + 1)
    raise AssertionError(f"the disks were never full: {done} writes, and {failed} that failed")


@pytest.mark.requires("root")
def test_whoever_starts_without_any_room_ends_with_a_sentence_and_loses_nothing(tmp_path):
    """It cannot write that it has started; a supervisor tries again until there is room."""
    with small_disk(tmp_path / "disk", "64m") as disk, Replica(disk) as running:
        with BlockingCell(running.hosts) as cell:
            cell.create("/kept", b"yes")
        assert running.stop() == 0
        ballast = disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        done = synod("serve", str(running.config))
        assert done.returncode == 3
        assert "no space left on the device; free some, what is acknowledged is safe" in sentence(done.stderr)
        ballast.unlink()
        running.start()
        with BlockingCell(running.hosts) as cell:
            assert cell.get("/kept")[0] == b"yes"
