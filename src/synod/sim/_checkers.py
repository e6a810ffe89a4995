"""Judges of histories, pure: they work on the simulator's histories, on recorded ones, and on yours.

`linearizable` is Wing & Gong's search with Lowe's memo on (set of linearized operations, state), one key at a
time, as keys are independent objects (Herlihy & Wing 1990 s3.2, locality). An operation whose outcome is
unknown may have taken effect at any time after its call, or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from synod.base import Micros

NEVER: Final = 1 << 62
"""The return time of an operation whose outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one register.

    Args:
        client: who called.
        kind: "write" sets `value`; "read" returned `value` (None: there was nothing).
        called: when it was sent.
        returned: when its answer came; NEVER when none did.
    """

    client: int
    kind: Literal["read", "write"]
    value: bytes | None
    called: Micros
    returned: Micros


def linearizable(history: Sequence[Operation], initial: bytes | None = None, *, steps_max: int = 2_000_000) -> bool:
    """Whether the operations on one register can be ordered so that each read returns the last write before it.

    Args:
        history: of one key. Reads without an answer may be left out: they say nothing.
        initial: what the register held before.
        steps_max: gives up on histories that are too concurrent.

    Raises:
        TimeoutError: `steps_max` was reached without a verdict.
    """
    operations = sorted(
        (op for op in history if op.kind == "write" or op.returned < NEVER), key=lambda op: (op.called, op.returned)
    )
    must = 0
    for at, op in enumerate(operations):
        if op.returned < NEVER:
            must |= 1 << at
    seen: set[tuple[int, bytes | None]] = set()
    stack: list[tuple[int, bytes | None]] = [(0, initial)]
    steps = 0
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        steps += 1
        if steps > steps_max:
            raise TimeoutError("the history is too concurrent for a verdict")
        # Only what was called before the first return among those left can come next.
        horizon = NEVER
        first = _lowest_zero(done)
        for at in range(first, len(operations)):
            op = operations[at]
            if op.called > horizon:
                break
            if not done >> at & 1:
                horizon = min(horizon, op.returned)
        for at in range(first, len(operations)):
            op = operations[at]
            if op.called > horizon:
                break
            if done >> at & 1:
                continue
            if op.kind == "write":
                stack.append((done | 1 << at, op.value))
            elif op.value == state:
                stack.append((done | 1 << at, state))
    return not must


def _lowest_zero(bits: int) -> int:
    return (~bits & (bits + 1)).bit_length() - 1


@dataclass(frozen=True, slots=True)
class Holding:
    """A time during which a client was entitled to believe that it held a lock."""

    lock: str
    client: int
    token: int
    since: Micros
    until: Micros


def exclusive(holdings: Sequence[Holding]) -> str | None:
    """Whether no two clients held one lock at once, with tokens that rise; else what is wrong."""
    by_lock: dict[str, list[Holding]] = {}
    for holding in holdings:
        by_lock.setdefault(holding.lock, []).append(holding)
    for lock, held in sorted(by_lock.items()):
        held.sort(key=lambda h: (h.since, h.until))
        for before, after in pairwise(held):
            if after.since < before.until and after.client != before.client:
                return (
                    f"{lock} was held by client {before.client} until {before.until} and by client {after.client} "
                    f"from {after.since}"
                )
            if after.token < before.token or (after.token == before.token and after.client != before.client):
                return f"{lock} was given the token {after.token} after the token {before.token}"
    return None


@dataclass(frozen=True, slots=True)
class Seen:
    """What one connection saw, in order: an event of a zxid, or a reply that shows a znode's mzxid."""

    kind: Literal["armed", "event", "reply"]
    path: str
    zxid: int


def watches_ordered(seen: Sequence[Seen]) -> str | None:
    """Whether the event of an armed watch came before any reply that shows the change; else what is wrong."""
    armed: dict[str, int] = {}
    for item in seen:
        if item.kind == "armed":
            armed.setdefault(item.path, item.zxid)
        elif item.kind == "event":
            if item.path not in armed:
                return f"an event for {item.path} came twice, or for a watch that was not set"
            del armed[item.path]
        elif item.path in armed and item.zxid > armed[item.path]:
            return f"a reply showed {item.path} at zxid {item.zxid} before the event of the watch set at {armed[item.path]}"
    return None
