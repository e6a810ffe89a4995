"""The same seed gives the same trace hash in every process, whatever Python's hash seed is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from _peers import COMPILED_PYTHON
from synod.sim import run_seed


def trace(seed: int, hash_seed: str, python: str = sys.executable) -> str:
    done = subprocess.run(
        [python, "-m", "synod", "sim", "--seed", str(seed)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
    )
    last = done.stdout.splitlines()[-1]
    assert last.startswith("trace ")
    return last


def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    """A failing seed can be replayed anywhere."""
    assert trace(3, "1") == trace(3, "2")


@pytest.mark.slow
def test_many_seeds_give_the_same_traces_in_every_process() -> None:
    """One seed does not meet everything that could have an order of its own."""
    for seed in (31, 1018, 50_003, 50_010):
        assert trace(seed, "1") == trace(seed, "2")


def test_another_seed_gives_another_trace() -> None:
    """The hash covers what happened, and does not stand still."""
    assert trace(3, "1") != trace(4, "1")


@pytest.mark.requires("compiled")
def test_the_compiled_core_does_exactly_the_same() -> None:
    """Compiled and pure replicas are one system: the same seed gives the same trace with either core."""
    for seed in range(5, 8):
        assert trace(seed, "1", python=str(COMPILED_PYTHON)) == trace(seed, "1")


@pytest.mark.requires("compiled")
def test_compiled_and_pure_replicas_make_one_cell() -> None:
    """In worlds with replicas of both kinds nothing is violated, and each trace is that of a cell of pure ones."""
    here = Path(__file__).resolve()
    seeds = [str(seed) for seed in range(60, 66)]
    done = subprocess.run(
        [str(COMPILED_PYTHON), str(here.with_name("mixed_world.py")), str(here.parents[2] / "src"), *seeds],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{seed} {run_seed(int(seed)).trace}" for seed in seeds]
