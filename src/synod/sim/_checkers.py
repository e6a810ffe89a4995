"""Judges of locks and watches, pure: they work on the simulator's histories, on recorded ones, and on yours.

Registers have judges of their own, in `_linear`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from synod.base import Micros
from synod.wire import EVENT_CHILDREN_CHANGED, EVENT_DATA_CHANGED


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


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as a watch tells it: when, what and where."""

    zxid: int
    type: int
    path: str


@dataclass(slots=True)
class Span:
    """A time during which a connection had a watch that stays.

    Args:
        client: whose.
        path: that it watches.
        recursive: with all below, and without the children's comings and goings told of the parent.
        since: the zxid of the answer that set it.
        until: all up to this zxid has reached the client.
        told: the events, in the order of their arrival.
    """

    client: int
    path: str
    recursive: bool
    since: int
    until: int
    told: list[Event]

    def covers(self, change: Event) -> bool:
        """Whether the watch is for this."""
        if self.recursive:
            below = self.path if self.path == "/" else f"{self.path}/"
            return change.type != EVENT_CHILDREN_CHANGED and (change.path == self.path or change.path.startswith(below))
        return change.path == self.path


def watches_complete(
    spans: Sequence[Span], known: Collection[Event], *, spare: Mapping[str, int], secret: Collection[str] = ()
) -> str | None:
    """Whether lasting watches told everything, once, in order, and nothing else; else what is wrong.

    What happened is what clients did and saw, and what any watch told: all of them must tell the same.

    Args:
        spans: of all clients.
        known: changes that certainly happened.
        spare: how many more changes of value each of these paths can have seen, by writes without an answer.
        secret: paths that not everybody may hear of.
    """
    happened = set(known)
    for span in spans:
        before: set[Event] = set()
        zxid = span.since
        for change in span.told:
            if not span.covers(change):
                return f"{_watcher(span)} was told of {change}"
            # The end of a session takes all its ephemerals at one zxid: their parent is told of each.
            if change in before and change.type != EVENT_CHILDREN_CHANGED:
                return f"{_watcher(span)} was told of {change} twice"
            if change.zxid < zxid or change.zxid == span.since:
                return f"{_watcher(span)} was told of {change} after zxid {zxid}"
            before.add(change)
            zxid = change.zxid
        happened |= before
    for path, writes in spare.items():
        unwritten = sorted(
            c.zxid for c in happened.difference(known) if c.path == path and c.type == EVENT_DATA_CHANGED
        )
        if len(unwritten) > writes:
            return f"watches told of changes of {path} at {unwritten}, and {writes} writes there have no answer"
    order = sorted((c for c in happened if c.path not in secret), key=lambda c: (c.zxid, c.path, c.type))
    zxids = [change.zxid for change in order]
    for span in spans:
        told = set(span.told)
        for change in order[bisect_right(zxids, span.since) : bisect_right(zxids, span.until)]:
            if change not in told and span.covers(change):
                return f"{_watcher(span)} was never told of {change}, and has heard of all up to zxid {span.until}"
    return None


def _watcher(span: Span) -> str:
    return (
        f"client {span.client}, which watches {span.path}{' and below' if span.recursive else ''} since {span.since},"
    )
