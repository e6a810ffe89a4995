"""Judges of locks and watches, pure: they work on the simulator's histories, on recorded ones, and on yours.

Registers have judges of their own, in `_linear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from synod.base import Micros


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
        longest = held[0]  # of those so far, the one that ends last: it need not be the one before
        for before, after in pairwise(held):
            if after.since < longest.until and after.client != longest.client:
                return (
                    f"{lock} was held by client {longest.client} until {longest.until} and by client {after.client} "
                    f"from {after.since}"
                )
            longest = max(longest, after, key=lambda h: h.until)
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
