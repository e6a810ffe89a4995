"""`synod torment` as its users have it: what it prints, how it ends, and one sentence for each mistake."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from torment_world import good_history

from _cells import PATIENCE_S, STEADY, SYNOD, RealCell, sentence, synod, wait_for
from synod.client import BlockingCell
from synod.torment import FAULTS, draw_plan

RUN_S = 280
"""No run of these tests takes a quarter as long on a machine that has nothing else to do."""


def written(path: Path, records: list[dict], tail: str = "") -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return str(path)


# -- judging a file ------------------------------------------------------------------------------------------


def test_a_history_is_judged_again(tmp_path) -> None:
    """Exit code 0, and what was found, for people."""
    done = synod("torment", "--check", written(tmp_path / "h.jsonl", good_history()))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "BROKEN" not in done.stdout
    assert "every promise holds" in done.stdout


def test_a_broken_promise_is_exit_code_one_with_the_sentence(tmp_path) -> None:
    """And with --json, one document."""
    records = good_history()
    records.insert(-1, {"at": 9, "event": "stuck", "what": "client 3 (locks)", "seconds": 30.0})
    path = written(tmp_path / "h.jsonl", records)
    done = synod("torment", "--check", path)
    assert done.returncode == 1
    assert "client 3 (locks) had no success within 30 s" in done.stdout
    assert "PROMISES ARE BROKEN" in done.stdout
    found = json.loads(synod("torment", "--check", path, "--json").stdout)
    assert found["holds"] is False
    assert [finding["what"][:8] for finding in found["findings"]] == ["client 3"]
    assert found["history"] == path


def test_a_torn_last_line_is_left_out_and_told(tmp_path) -> None:
    """What comes before it is judged; nobody is told that the run held to its end."""
    records = good_history()
    done = synod("torment", "--check", written(tmp_path / "h.jsonl", records[:-40], '{"at": 12, "id'))
    assert done.returncode == 0, done.stderr
    number = len(records) - 40 + 1
    assert f"the last line, number {number}, is cut off in the middle: it was left out" in done.stdout
    assert "did not come to its end" in done.stdout


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: No such file"),
        ("", "is no history of `synod torment`"),
        ('{"at": 1, "event": "else"}\n', "is no history of `synod torment`"),
        ('{"at": 1, "event": "torment", "format": 99}\n', "has the format 99, and this version reads 1"),
        (
            '{"at": 1, "event": "torment", "format": 1}\nx\n{"at": 2, "event": "end"}\n',
            "line 2 is no line of a history",
        ),
        ('{"at": 1, "event": "torment", "format": 1}\n[]\n', "line 2 is no line of a history"),
        ("\xff\xfe\n", "line 1 is no line of a history"),
    ],
)
def test_what_is_no_history_is_refused(tmp_path, content: str | None, says: str) -> None:
    """One sentence, exit code 2."""
    path = tmp_path / "h.jsonl"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    done = synod("torment", "--check", str(path))
    assert done.returncode == 2
    assert says in sentence(done.stderr)
    assert done.stdout == ""


# -- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--faults", "kill,earthquake"), "there is no fault 'earthquake'; there are kill, pause"),
        (("--faults", ","), "names none"),
        (("--network", "namespaces", "--faults", "delay"), "--network namespaces cannot be had here"),
        (("--network", "namespaces", "--cell", "127.0.0.1:1"), "a cell that torment starts itself"),
        (("--seconds", "1", "--history", "/nowhere/h"), "the history /nowhere/h cannot be written: No such file"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], says: str) -> None:
    """Exit code 2, and no process was started."""
    namespaces = says.startswith("--network namespaces")
    # Where there are no tools there are no namespaces.
    environment = {"PATH": "/nowhere"} if namespaces else None
    done = synod("torment", *arguments, environment=environment)
    assert done.returncode == 2, done.stderr
    assert says in sentence(done.stderr)


def test_a_fault_that_cannot_be_had_here_is_refused_when_asked_for() -> None:
    """And where nothing is asked for it is left out, aloud (`NOT HERE`)."""
    done = synod("torment", "--faults", "slow-disk", environment={"PATH": "/nowhere"})
    assert done.returncode == 2
    assert "slow-disk cannot be had here" in sentence(done.stderr)


def test_a_cell_that_is_not_there_is_told_in_bounded_time() -> None:
    """One sentence, exit code 3."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        done = synod("torment", "--cell", f"127.0.0.1:{nobody.getsockname()[1]}")
    assert done.returncode == 3
    assert "127.0.0.1" in sentence(done.stderr)


# -- real cells ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(RUN_S + 20)
def test_a_cell_of_somebody_else_is_judged_and_left_as_it_was(tmp_path) -> None:
    """`--cell`: load and judgement, no harm, and nothing left behind."""
    with RealCell(tmp_path / "cell", settings=STEADY) as cell:
        cell.wait_settled()
        with BlockingCell(cell.hosts) as client:
            client.create("/theirs", b"1")
        kept = tmp_path / "h.jsonl"
        done = torment("--cell", cell.hosts, "--seconds", "3", "--json", "--history", str(kept))
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert found["holds"]
        assert found["faults"] == {}
        assert found["answered"] > 50
        assert synod("torment", "--check", str(kept)).returncode == 0
        with BlockingCell(cell.hosts) as client:
            assert sorted(client.children("/")) == ["theirs", "zookeeper"]


@pytest.mark.slow
@pytest.mark.timeout(RUN_S + 20)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_leaves_nothing_behind(tmp_path, number: int) -> None:
    """No process, no disk, no directory, no traceback; and a history that can be judged as far as it goes."""
    kept = tmp_path / "h.jsonl"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    arguments = ("--seconds", "60", "--seed", "11", "--history", str(kept))
    with subprocess.Popen(
        [*SYNOD, "torment", *arguments], stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert "seed 11" in running.stderr.readline()
        wait_for(lambda: '"event":"fault"' in kept.read_text(), "the first fault")
        running.send_signal(number)
        said = running.stderr.read()
        assert running.wait(timeout=PATIENCE_S) == 130
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["h.jsonl"]
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert synod("torment", "--check", str(kept)).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(RUN_S + 20)
def test_a_short_run_holds() -> None:
    """A fault of every kind that this machine has, within a quarter of a minute of a cell's life."""
    done = torment("--seconds", "15", "--seed", "11", "--json")
    found = held(done)
    assert set(found["faults"]) | set(found["not_here"]) == set(FAULTS)
    # Some find nobody to be done to: whoever is down already, or does not lead.
    assert sum(found["faults"].values()) > len(draw_plan(11, 15, list(found["faults"]))) / 2
    assert found["elections"] > 1


@pytest.mark.slow
@pytest.mark.timeout(RUN_S + 20)
@pytest.mark.requires("namespaces")
def test_a_short_run_where_packets_are_lost_holds() -> None:
    """Network faults alone, in namespaces: nothing but silence tells anybody that somebody is gone."""
    faults = ("partition", "one-way", "isolate", "chain", "loss", "answers", "kill")
    done = torment("--network", "namespaces", "--seconds", "10", "--seed", "4", "--faults", ",".join(faults), "--json")
    assert held(done)["network"] == "namespaces"


def torment(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A run of some length, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "synod", "torment", *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def held(done: subprocess.CompletedProcess[str]) -> dict:
    """What a run found that had to hold."""
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["holds"], found["findings"]
    assert found["answered"] > 100
    return found
