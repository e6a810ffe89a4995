"""The simulator: whole cells, their disks, networks and clients under one virtual clock, from one seed.

It hosts the very same replica, storage and tree as the server. `run_seed` is the whole of it; the checkers are
pure functions that work on your histories as well. Read `_world.run_seed` first.
"""

from __future__ import annotations

from ._checkers import Holding, Seen, exclusive, watches_ordered
from ._command import command
from ._linear import NEVER, STEPS_MAX, Attempt, explain, linearizable, witnessed
from ._oracles import Oracles
from ._outcome import Outcome, Violation
from ._plan import FAULTS, Plan
from ._processes import Found, Process, Scenario, Simulation, check, run
from ._world import World, never_fired, run_seed, summary

__all__ = [
    "FAULTS",
    "NEVER",
    "STEPS_MAX",
    "Attempt",
    "Found",
    "Holding",
    "Oracles",
    "Outcome",
    "Plan",
    "Process",
    "Scenario",
    "Seen",
    "Simulation",
    "Violation",
    "World",
    "check",
    "command",
    "exclusive",
    "explain",
    "linearizable",
    "never_fired",
    "run",
    "run_seed",
    "summary",
    "watches_ordered",
    "witnessed",
]
