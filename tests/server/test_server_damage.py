"""Damage on the disks of real replicas: a minority's is repaired, a majority's is named to whoever operates the cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from _cells import SETTINGS, RealCell, comes_to_be, http, sentence, synod, wait_for
from synod.client import BlockingCell
from synod.storage import RealFileSystem, load_identity
from synod.storage._log import Log

pytestmark = pytest.mark.slow


def directory_of(cell: RealCell, number: int) -> Path:
    return cell.directory / f"replica-{number + 1}"


def last_value(directory: Path) -> tuple[str, int, int]:
    """Where the value of the last slot in a log is: the file, the offset, and the slot."""
    fs = RealFileSystem(read_only=True)
    identity = load_identity(fs, str(directory))
    log = Log(
        fs,
        str(directory),
        cell_id=bytes.fromhex(identity.cell_id),
        replica=identity.replica_id,
        incarnation=identity.incarnation,
        configuration=identity.configuration.digest(),
        segment_bytes=4096,
        draw_nonce=bytes,
        damage=[],
    )
    slot = max(log._places)
    place = log._places[slot]
    log.close()
    return place.segment.path, place.row.offset + 8, slot


def damage_last_value(directory: Path) -> tuple[str, int]:
    """Flip a bit of the value of the last slot in a log; gives the file and the slot."""
    path, offset, slot = last_value(directory)
    with Path(path).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    return path, slot


def kill_all_after_some_writes(cell: RealCell) -> None:
    cell.wait_settled()
    with BlockingCell(cell.hosts) as client:
        for number in range(20):
            wait_for(lambda n=number: comes_to_be(client, f"/n{n}", b"v" * 100), "a write")
    for number in range(3):
        cell.processes.kill(number)


def test_the_damage_of_one_replica_is_learned_again_and_told(tmp_path):
    """`verify` names it, the replica's log names it, and after a while there is none."""
    with RealCell(tmp_path / "cell", settings=SETTINGS) as cell:
        kill_all_after_some_writes(cell)
        path, slot = damage_last_value(directory_of(cell, 1))
        done = synod("verify", str(directory_of(cell, 1)))
        assert done.returncode == 1
        said = sentence(done.stderr)
        assert path in said
        assert f"the value of slot {slot} at offset" in said
        cell.begin()
        cell.wait_settled()
        wait_for(lambda: not cell.status(1)["damage"], "a repaired replica")
        assert f"{path}: the value of slot {slot} at offset" in cell.whole_output(1)
        with BlockingCell(cell.hosts) as client:
            assert len(client.children("/")) == 21
            client.create("/more", b"")
        for number in range(3):
            cell.processes.kill(number)
        assert synod("verify", str(directory_of(cell, 1))).returncode == 0


def test_the_damage_of_a_majority_stops_the_cell_and_is_told(tmp_path):
    """Nobody guesses: no leader, and `/readyz`, `/status`, the logs and `verify` name file, record and slot."""
    with RealCell(tmp_path / "cell", settings=SETTINGS) as cell:
        for _ in range(20):
            kill_all_after_some_writes(cell)
            slots = {last_value(directory_of(cell, number))[2] for number in (0, 1)}
            if len(slots) == 1:  # else one of them was a write behind the other
                break
        slot = slots.pop()
        assert not slots
        damaged = {number: damage_last_value(directory_of(cell, number)) for number in (0, 1)}
        for number, (path, _) in damaged.items():
            cell.processes.start(number)
            reason = wait_for(lambda n=number: unready(cell, n), "an answer")
            assert "damaged" in reason
            assert f"{path}: the value of slot {slot} at offset" in reason
            assert cell.status(number)["damage"] == [reason.splitlines()[1]]
        wait_for(
            lambda: any("cannot be decided" in cell.whole_output(n) for n in damaged),
            "a replica that says why it cannot lead",
        )
        assert cell.leader() is None
        for number, (path, _) in damaged.items():
            assert path in cell.whole_output(number)
            cell.processes.kill(number)
            done = synod("verify", "--json", str(directory_of(cell, number)))
            found = json.loads(done.stdout)
            assert (done.returncode, found["sound"]) == (1, False)
            assert path in found["damage"][0]


def unready(cell: RealCell, number: int) -> str:
    """Why a replica is not ready, once it answers."""
    try:
        status, text = http(cell.http_ports[number], "/readyz")
    except OSError:
        return ""
    return text if status == 503 else ""
