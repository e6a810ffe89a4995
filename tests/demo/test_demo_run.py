"""The main job as a user runs it: processes, kills and the verdict; and that the verdict can be bad."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from _cells import wait_for

pytestmark = pytest.mark.slow

SYNOD = [sys.executable, "-m", "synod", "demo"]


def stream(path: Path, requests: int, writes: float, keys: int) -> Path:
    rng = random.Random(7)
    with path.open("w") as out:
        for number in range(requests):
            wanted: dict[str, Any] = {"id": f"r-{number}", "type": "read", "key": f"sku-{rng.randrange(keys)}"}
            if rng.random() < writes:
                wanted |= {"type": "write", "op": "restock", "quantity": rng.randrange(1, 9)}
            out.write(json.dumps(wanted) + "\n")
    return path


def demo(path: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    environment = os.environ | {"TMPDIR": str(path.parent)}
    done = subprocess.run(
        [*SYNOD, "--requests", str(path), "--json", *options],
        capture_output=True, text=True, timeout=150, check=False, env=environment,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def broken(document: dict[str, Any]) -> set[str]:
    return {check["promise"] for check in document["checks"] if not check["holds"]}


def test_two_kills_and_nothing_is_lost(tmp_path: Path) -> None:
    """The leader and an instance die and come back; every promise holds over every request."""
    code, document, said = demo(stream(tmp_path / "in.jsonl", 1_500, 1 / 3, 50))
    assert (code, document["holds"], broken(document)) == (0, True, set()), document
    assert document["requests"]["distinct"] == 1_500
    assert document["requests"]["never_answered"] == 0
    # In this order, unless a busy machine lets the leader be looked for until the instance is due.
    assert sorted("leader" in kill["what"] for kill in document["kills"]) == [False, True]
    assert set(document["instances"]) == {"a", "b", "c"}
    assert all(check["examined"] > 0 for check in document["checks"])
    assert len(document["checks"]) == 5
    assert "serves again" in said
    assert not list(tmp_path.glob("synod-demo-*")), "nothing is left behind"


def test_without_the_duplicate_check_the_audit_fails(tmp_path: Path) -> None:
    """A write that is sent again is applied again, and that is noticed."""
    code, document, said = demo(stream(tmp_path / "in.jsonl", 700, 1.0, 50), "--without", "duplicates")
    assert code == 1
    assert "every acknowledged write applied exactly once" in broken(document)
    assert "are kept in" in said
    assert list(tmp_path.glob("synod-demo-*/history.jsonl")), "for whoever wants to look"


def test_without_the_guard_the_audit_fails(tmp_path: Path) -> None:
    """A holder that was paused writes with a stale token, and that is noticed."""
    code, document, _ = demo(stream(tmp_path / "in.jsonl", 300, 1.0, 3), "--without", "guard")
    assert code == 1
    assert "fencing tokens never falling" in broken(document)


def test_kept_it_serves_curl_until_it_is_interrupted(tmp_path: Path) -> None:
    """After the audit it says two commands for another terminal; they work as they stand."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*SYNOD, "--requests", str(stream(tmp_path / "in.jsonl", 60, 0.5, 5)), "--keep"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = list(iter(process.stderr.readline, "still serving; Ctrl-C stops everything\n"))
        get, put = (shlex.split(line) for line in said if line.startswith("curl "))
        before, after = ask("GET", get[-1]), ask(*put[2:3], put[-1], put[4])
        assert put[:4] == ["curl", "-X", "PUT", "-d"]
        assert before["stock"] == after["stock"] + 2 * after["accepted"]
        assert after["version"] == before["version"] + 1
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def ask(method: str, url: str, body: str | None = None) -> dict[str, Any]:
    request = urllib.request.Request(url, None if body is None else body.encode(), method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_interrupted_it_stops_everything(tmp_path: Path) -> None:
    """Ctrl-C ends with 130, without a traceback, and leaves neither processes nor files."""
    path = stream(tmp_path / "in.jsonl", 20_000, 0.5, 500)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*SYNOD, "--requests", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        assert "cell" in process.stderr.readline()
        children = children_of(process.pid)
        assert len(children) >= 4, "a cell and three instances"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    # Who outlived its parent for a moment is seen off by the first process of the machine.
    wait_for(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()], "the end of all of them")
    assert not list(tmp_path.glob("synod-demo-*"))


def test_a_broken_line_is_the_users_mistake(tmp_path: Path) -> None:
    """Exit code 2 and one sentence, before anything is started."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "a", "type": "read", "key": "k"}\n{"id": "b", "typ\n')
    done = subprocess.run([*SYNOD, "--requests", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"synod: line 2 of {path} is no request: it is not JSON")
    assert done.stderr.count("\n") == 1


def test_without_an_http_client_it_says_what_to_install() -> None:
    """`pip install synod` alone brings none: one sentence before anything is started, and exit code 2."""
    script = "import sys; sys.modules |= {'httpx2': None, 'httpx': None}; from synod.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, "demo"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("synod: ")
    assert "install synod[http]" in done.stderr
    assert done.stderr.count("\n") == 1


def children_of(pid: int) -> list[int]:
    """The descendants of a process."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *children_of(int(child))]
    return found
