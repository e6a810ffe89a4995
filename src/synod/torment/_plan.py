"""What goes wrong and when, from a seed alone: the same seed gives the same plan, whatever the cell does."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

FAULTS: Final[Mapping[str, str]] = {
    "kill": "SIGKILL, and a start some time later",
    "pause": "SIGSTOP, and SIGCONT some time later",
    "partition": "some replicas hear nothing of the others, and the others nothing of them",
    "one-way": "one replica still hears another, which no longer hears it",
    "isolate": "the leader is cut off from all replicas, while its clients still reach it",
    "chain": "replicas in a row, each of which hears its neighbours alone; or all hear one alone",
    "loss": "part of what replicas say to each other is lost, and sent again by TCP",
    "delay": "what replicas say to each other arrives late",
    "restart": "SIGTERM and a start, of one replica after another",
    "power": "SIGKILL of all replicas at once",
    "answers": "clients reach a replica, and its answers do not reach them",
    "transfer": "the leader is asked to let another one lead",
    "members": "a replica is added and another one removed, or one loses its disk and is replaced",
    "clock": "the wall clock of a replica jumps by seconds to years, forth or back",
    "sync-error": "the disk refuses to sync: the replica must stop at once, and not try again",
    "write-error": "the disk refuses a write: the replica must stop at once",
    "slow-disk": "each sync takes long",
    "disk-hang": "no sync comes to an end for a while",
    "disk-full": "no room on the disk of a replica",
}
"""Every class of faults, and what it is."""

Target = Literal["leader", "follower", "any"]

TARGETS: Final[Sequence[Target]] = ("leader", "leader", "follower", "any")

GAP_S: Final = (0.3, 2.2)
"""From the begin of a fault to the begin of the next: about fifty a minute, so that some overlap."""

LASTS_S: Final[Mapping[str, tuple[float, float]]] = {
    "kill": (0.0, 3.0),
    "pause": (0.2, 4.0),
    "partition": (0.5, 6.0),
    "one-way": (0.5, 5.0),
    "isolate": (0.5, 5.0),
    "chain": (1.0, 6.0),
    "loss": (1.0, 5.0),
    "delay": (1.0, 5.0),
    "restart": (0.0, 0.5),
    "power": (0.0, 1.0),
    "answers": (0.5, 4.0),
    "transfer": (0.0, 0.0),
    "members": (0.0, 1.0),
    "clock": (0.0, 0.0),
    "sync-error": (0.0, 1.5),
    "write-error": (0.0, 1.5),
    "slow-disk": (1.0, 4.0),
    "disk-hang": (0.5, 5.0),
    "disk-full": (1.0, 5.0),
}

QUIET_S: Final = 1.5
"""The load runs for so long before the first fault."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault.

    Args:
        at: seconds from the start of the load.
        fault: a key of FAULTS.
        lasts: seconds.
        target: which replica, where it is one; who leads is known only then.
        pick: chooses among those that qualify: a share from 0 to 1.
        strength: how much of it, from 0 to 1: how long a delay, how many on the smaller side.
        drop: whether connections are reset by it, or held and let go on afterwards.
    """

    at: float
    fault: str
    lasts: float
    target: Target
    pick: float
    strength: float
    drop: bool


def draw_plan(seed: int, seconds: float, faults: Sequence[str]) -> list[Planned]:
    """The faults of a run.

    Each class comes once before any comes twice: also a short run has met them all.
    """
    rng = random.Random(seed)
    plan: list[Planned] = []
    bag: list[str] = []
    at = min(QUIET_S, seconds / 10)
    while faults:
        if not bag:
            bag = list(faults)
            rng.shuffle(bag)
        fault = bag.pop()
        lasts = rng.uniform(*LASTS_S[fault])
        target: Target = rng.choice(TARGETS)
        planned = Planned(
            at=round(at, 3),
            fault=fault,
            lasts=round(min(lasts, max(0.2, seconds - at)), 3),
            target=target,
            pick=rng.random(),
            strength=rng.random(),
            drop=rng.random() < 0.5,
        )
        if at >= seconds:
            break
        plan.append(planned)
        at += rng.uniform(*GAP_S)
    return plan
