"""Disks do not fill up by themselves: snapshots follow the log, and what lies behind them is deleted."""

from __future__ import annotations

import dataclasses

from synod.base import SECOND
from synod.sim import Plan, World
from synod.sim._machine import DIRECTORY, SEGMENT_BYTES  # a test of the simulator may open its machines

PLAN = dataclasses.replace(Plan.calm(replicas=3, clients=4), snapshots=True)


def test_log_and_snapshots_are_bounded_however_long_a_cell_runs() -> None:
    """Many times the bytes that trigger a snapshot are written; two snapshots and the log of their time are left."""
    world = World(4, PLAN)
    world.begin()
    taken, most = 0, 0
    for _ in range(60):
        world.run(world.now + 2 * SECOND)
        for machine in world.machines.values():
            names = machine.fs.list_dir(DIRECTORY)
            assert len([name for name in names if name.endswith(".snap")]) <= 2
            most = max(most, sum(machine.fs.size(f"{DIRECTORY}/{name}") for name in names if name.endswith(".seg")))
            assert machine.replica is not None
            taken = max(taken, machine.replica.snapshot_slot)
    assert world.counts["snapshot"] > 60
    assert taken > 500
    # Each group takes a block of 4 KiB, so that segments fill long before a snapshot is due by the bytes of values.
    assert most <= 11 * SEGMENT_BYTES
