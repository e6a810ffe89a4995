"""The simulator: whole cells, their disks, networks and clients under one virtual clock, from one seed.

It hosts the very same replica, storage and tree as the server. `run_seed` is the whole of it; the checkers are
pure functions that work on your histories as well. Read `_world.run_seed` first.
"""

from __future__ import annotations

from ._checkers import NEVER, Holding, Operation, Seen, exclusive, linearizable, watches_ordered
from ._command import command
from ._plan import Plan
from ._world import Outcome, Violation, World, run_seed, summary

__all__ = [
    "NEVER",
    "Holding",
    "Operation",
    "Outcome",
    "Plan",
    "Seen",
    "Violation",
    "World",
    "command",
    "exclusive",
    "linearizable",
    "run_seed",
    "summary",
    "watches_ordered",
]
