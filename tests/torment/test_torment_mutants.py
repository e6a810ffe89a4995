"""Torment can fail: a cell whose code is really broken is caught by what its clients saw, and by nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 150
"""Far longer than a run takes on a machine that has nothing else to do."""
REGISTERS = "each register is linearizable"


def broken_run(directory: Path, seed: int) -> subprocess.CompletedProcess[str]:
    arguments = ("--seconds", "12", "--seed", str(seed), "--json", "--faults", "delay,one-way,isolate")
    return subprocess.run(
        [sys.executable, "-m", "synod", "torment", *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(directory / "src"), "TMPDIR": str(directory)},
    )


@pytest.mark.slow
@pytest.mark.timeout(3 * RUN_S + 30)
def test_a_broken_cell_is_caught(tmp_path: Path) -> None:
    """Replicas that answer reads without asking anybody: `tests/mutants/replica-read-before-round.patch`, for real.

    A replica that is cut off or late shows what was written over long ago. Both judges of registers find it, and no
    other promise is blamed.
    """
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    mutant = ROOT / "tests" / "mutants" / "replica-read-before-round.patch"
    subprocess.run(["git", "apply", str(mutant)], cwd=tmp_path, check=True)
    done = broken_run(tmp_path, 3)
    for seed in (4, 5):  # what meets what is chance: now and then nobody reads while somebody is late
        if done.returncode == 0:
            done = broken_run(tmp_path, seed)
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert not found["holds"]
    assert {finding["promise"].partition(",")[0] for finding in found["findings"]} == {REGISTERS}
    assert len({finding["promise"] for finding in found["findings"]}) == 2
    assert any(
        " read " in finding["what"] and "had been answered before" in finding["what"] for finding in found["findings"]
    )
    # The evidence is kept, and says the same again.
    again = subprocess.run(
        [sys.executable, "-m", "synod", "torment", "--check", found["history"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert found["findings"][0]["what"] in again.stdout
