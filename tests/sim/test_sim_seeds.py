"""Whole cells under faults: safety at every step, then progress once everything is healed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from synod.sim import run_seed, summary

REGRESSIONS = tomllib.loads((Path(__file__).parent / "regressions.toml").read_text())["seed"]


def run(seeds: range) -> None:
    outcomes = [run_seed(seed) for seed in seeds]
    assert [(outcome.seed, outcome.violation) for outcome in outcomes if outcome.violation] == []
    assert summary(outcomes).get("session", 0) > 0, "clients got in"
    assert sum(outcome.operations for outcome in outcomes) > 0, "clients got something done"


@pytest.mark.parametrize("first", range(0, 12, 4))
def test_a_few_seeds(first: int) -> None:
    """No oracle finds anything: the quick part."""
    run(range(first, first + 4))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(10_000, 10_200, 10))
def test_some_hundred_seeds(first: int) -> None:
    """No oracle finds anything in any of these worlds."""
    run(range(first, first + 10))


@pytest.mark.parametrize("case", REGRESSIONS, ids=lambda case: str(case["seed"]))
def test_seeds_that_found_something(case: dict[str, object]) -> None:
    """A seed that found a bug is kept, with its story."""
    assert case["story"]
    seed = case["seed"]
    assert isinstance(seed, int)
    assert run_seed(seed).violation is None


@pytest.mark.slow
def test_every_fault_class_fires() -> None:
    """A fault that never fires tests nothing: over some seeds every class has a count."""
    fired = summary([run_seed(seed) for seed in range(20_000, 20_040)])
    wanted = {
        "client cut",
        "client pause",
        "crash",
        "disk error",
        "disk full",
        "hand-over",
        "level raised",
        "lock held",
        "message cut",
        "one-way cut",
        "partition",
        "pause",
        "reset",
        "roll-back",
        "session lost",
        "slow sync",
        "snapshot",
        "upgrade",
        "wall jump",
        "watch event",
    }
    assert wanted - set(fired) == set()
