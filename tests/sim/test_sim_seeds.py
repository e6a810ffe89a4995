"""Whole cells under faults: safety at every step, then progress once everything is healed."""

from __future__ import annotations

import random
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from synod.sim import FAULTS, Plan, _command, never_fired, run_seed, summary
from synod.sim._outcome import Outcome

REGRESSIONS = tomllib.loads((Path(__file__).parent / "regressions.toml").read_text())["seed"]


def run(seeds: range) -> None:
    outcomes = [run_seed(seed) for seed in seeds]
    assert [(outcome.seed, outcome.violation) for outcome in outcomes if outcome.violation] == []
    assert summary(outcomes).get("session", 0) > 0, "clients got in"
    assert sum(outcome.operations for outcome in outcomes) > 0, "clients got something done"


@pytest.mark.parametrize("first", range(0, 8, 4))
def test_a_few_seeds(first: int) -> None:
    """No oracle finds anything: the quick part."""
    run(range(first, first + 4))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 10_060, 10))
def test_many_seeds(first: int) -> None:
    """No oracle finds anything in any of these worlds."""
    run(range(first, first + 10))


@pytest.mark.parametrize("case", REGRESSIONS, ids=lambda case: str(case["seed"]))
def test_seeds_that_found_something(case: dict[str, object]) -> None:
    """A seed that found a bug is kept, with its story."""
    assert case["story"]
    seed, plan = case["seed"], case["plan"]
    assert isinstance(seed, int)
    assert isinstance(plan, dict)
    assert run_seed(seed, replace(Plan.calm(), **plan)).violation is None


@pytest.mark.slow
def test_every_fault_class_fires() -> None:
    """A fault that never fires tests nothing: over some seeds every class has a count."""
    wanted = {
        "acl changed",
        "acl of nobody refused",
        "acl refused",
        "lasting watch event",
        "lasting watch removed",
        "level raised",
        "lock held",
        "message cut",
        "multi",
        "multi read",
        "multi refused",
        "session lost",
        "snapshot installed",
        "start refused",
        "watch event",
    }
    outcomes: list[Outcome] = []
    for seed in range(20_310, 20_410):  # a stretch that meets the rare ones early
        outcomes.append(run_seed(seed))
        if not never_fired(outcomes) and wanted <= set(summary(outcomes)):
            return
    raise AssertionError(f"never: {never_fired(outcomes)}, {wanted - set(summary(outcomes))}")


def test_every_fault_class_is_known_to_the_report() -> None:
    """A switch of the plan that no count stands for could be off for ever without a word."""
    sizes = {"replicas", "clients", "keys", "power_cuts", "in_flight", "sequential", "delay", "session_timeout_ms"}
    sizes |= {"fault_every", "heartbeat", "election_beats", "small"}
    assert {f.name for f in fields(Plan)} - sizes == set(FAULTS)
    assert never_fired([run_seed(1, Plan.calm())]) == sorted(FAULTS)


def test_plans_reach_every_range() -> None:
    """At least the ranges of the best simulators: packets lost up to 30 %, messages replayed up to 50 %, and a tenth
    of a disk's reads, writes and syncs in error, or of its writes somewhere else.
    """
    plans = [Plan.draw(random.Random(seed)) for seed in range(500)]
    assert max(plan.loss for plan in plans) >= 0.3
    assert max(plan.replay for plan in plans) >= 0.5
    for name in ("disk_errors", "misdirected", "read_errors", "write_errors"):
        assert {getattr(plan, name) for plan in plans} == {0.0, 0.005, 0.02, 0.1}, name
    assert {plan.replicas for plan in plans} == {1, 2, 3, 4, 5, 7}
    assert max(plan.power_cuts for plan in plans) == 1.0
    for name in FAULTS:
        on = sum(1 for plan in plans if getattr(plan, name))
        assert 0.1 * len(plans) < on < 0.9 * len(plans), name


def test_progress_is_told_where_there_is_no_terminal(monkeypatch, capsys) -> None:
    """A log of a long run shows that it lives: a line now and then, and a violation as soon as it is found."""
    found = {3: "one holder too many"}
    clock = iter(range(0, 1_000, 4))
    monkeypatch.setattr(_command, "run_seed", lambda seed: Outcome(seed, found.get(seed), str(seed), {}, 1, 1.0, 1, 1))
    monkeypatch.setattr(_command.time, "monotonic", lambda: float(next(clock)))
    assert _command.command(seeds=10, jobs=1, start=1, seed=None, json=True) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == ["seed 3: one holder too many", "3/10 seeds, 1 violations"]
    assert 2 <= len(told) <= 5
    assert "\r" not in "".join(told)
