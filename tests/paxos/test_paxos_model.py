"""Consensus in a hostile world: agreement, durability, linearizable read grants, and progress after healing."""

from __future__ import annotations

import pytest
from paxos_world import Faults, run_seed

WORLDS = {
    "calm": Faults(),
    "plain fail-over": Faults(crashes=True),
    "lossy": Faults(loss=0.1, duplicate=0.1, reorder=True),
    "cut": Faults(partitions=True, resets=True),
    "all": Faults(loss=0.05, duplicate=0.1, reorder=True, crashes=True, partitions=True, resets=True, pauses=True),
    "tcp": Faults(crashes=True, partitions=True, resets=True, pauses=True),
}


@pytest.mark.parametrize("kind", sorted(WORLDS))
@pytest.mark.parametrize("seed", range(12))
def test_three_replicas_agree_and_recover(kind: str, seed: int) -> None:
    """One leader per ballot, one value per slot, contiguous apply, nothing visible before durable, progress."""
    world = run_seed(seed, 3, WORLDS[kind])
    assert world.granted
    assert world.durable_checks


@pytest.mark.parametrize("seed", range(12))
def test_five_replicas_agree_and_recover(seed: int) -> None:
    """Five voters: reads need a confirm round, and two may be lost."""
    assert run_seed(1_000 + seed, 5, WORLDS["all"]).granted


@pytest.mark.parametrize("size", [1, 2])
def test_the_smallest_cells(size: int) -> None:
    """One replica waits for its own sync; two need both."""
    assert run_seed(7, size, WORLDS["plain fail-over"]).granted
