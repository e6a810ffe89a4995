"""Rules that need nothing but weights and in-flight counts. Each chooses one of the candidates, in a few lines.

Read `RoundRobin` first. A rule sees only endpoints that may have the request; it belongs to one balancer.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import ClassVar

import xxhash

from synod.base import BadArguments, Micros, Rng

from ._balancer import Member
from ._view import LoadReport, Outcome


class Rule:
    """Chooses among candidates. Subclass it and give the object to `make_policy` to bring your own."""

    name: ClassVar[str] = "rule"

    def update(self, members: Sequence[Member], rng: Rng) -> None:
        """The members are these from now on."""

    def choose(self, candidates: Sequence[Member], now: Micros, key: bytes | None, rng: Rng) -> Member:
        """One of `candidates`, of which there are at least two, in the view's order."""
        raise NotImplementedError

    def observe(
        self, member: Member, outcome: Outcome, now: Micros, latency: Micros | None, report: LoadReport | None
    ) -> None:
        """A request to `member` is over."""


class Random(Rule):
    """Uniform chance, whatever the weights."""

    name = "random"

    def choose(self, candidates: Sequence[Member], now: Micros, key: bytes | None, rng: Rng) -> Member:  # noqa: ARG002
        """Each candidate with the same probability."""
        return candidates[rng.randrange(0, len(candidates))]


class RoundRobin(Rule):
    """Rotation in the order of names, even while endpoints come, go, and are set aside.

    The rotation remembers the *name* that was last, not a position: a position would give the neighbour of a
    missing endpoint a double share. It starts at a random place, so that many clients that start together do
    not all begin with the same endpoint.
    """

    name = "round_robin"

    def __init__(self) -> None:
        self._last: str | None = None

    def update(self, members: Sequence[Member], rng: Rng) -> None:
        """Draw the place to start from, once."""
        if self._last is None and members:
            self._last = members[rng.randrange(0, len(members))].endpoint.name

    def choose(self, candidates: Sequence[Member], now: Micros, key: bytes | None, rng: Rng) -> Member:  # noqa: ARG002
        """The next name after the last one, around."""
        following = bisect_right(candidates, self._last or "", key=_name)
        chosen = candidates[following % len(candidates)]
        self._last = chosen.endpoint.name
        return chosen


class WeightedRoundRobin(Rule):
    """Smooth weighted rotation by capacity: weights 5, 1, 1 give a a b a c a a, never five in a row.

    Ref: nginx, ngx_http_upstream_get_peer. Differs: no effective weight that falls with failures (health does
    that here), and each endpoint starts at a random phase, so that clients that start together do not all
    begin with the heaviest.
    """

    name = "weighted_round_robin"

    def __init__(self) -> None:
        self._current: dict[str, int] = {}

    def update(self, members: Sequence[Member], rng: Rng) -> None:
        """Forget who left; draw a phase for who joined."""
        known = self._current
        self._current = {
            m.endpoint.name: known[m.endpoint.name]
            if m.endpoint.name in known
            else rng.randrange(0, max(1, m.endpoint.weight * 100))
            for m in members
        }

    def choose(self, candidates: Sequence[Member], now: Micros, key: bytes | None, rng: Rng) -> Member:  # noqa: ARG002
        """The candidate that is furthest behind its share."""
        return self._furthest_behind(candidates, [member.share(now) for member in candidates])

    def _furthest_behind(self, candidates: Sequence[Member], shares: Sequence[int]) -> Member:
        current = self._current
        best = candidates[0]
        best_current: int | None = None
        for member, share in zip(candidates, shares, strict=True):
            name = member.endpoint.name
            value = current[name] = current[name] + share
            if best_current is None or value > best_current:
                best, best_current = member, value
        current[best.endpoint.name] -= sum(shares)
        return best


class LeastInFlight(Rule):
    """The fewest requests in flight per weight; ties in rotation.

    Ref: nginx least_conn, by cross-multiplication. For a handful of endpoints a full look is as cheap as two
    samples; with many clients prefer `TwoChoices`, which does not send them all to the same one.
    """

    name = "least_in_flight"

    def __init__(self) -> None:
        self._ties = RoundRobin()

    def update(self, members: Sequence[Member], rng: Rng) -> None:
        """The rotation of the ties."""
        self._ties.update(members, rng)

    def choose(self, candidates: Sequence[Member], now: Micros, key: bytes | None, rng: Rng) -> Member:
        """The least loaded, the next in rotation among equals."""
        least = [candidates[0]]
        for member in candidates[1:]:
            order = _compare_load(member, least[0], now)
            if order < 0:
                least = [member]
            elif order == 0:
                least.append(member)
        return least[0] if len(least) == 1 else self._ties.choose(least, now, key, rng)


class TwoChoices(Rule):
    """Two distinct endpoints by chance, and of these the one with fewer requests in flight per weight.

    Ref: Mitzenmacher 2001; sampled without replacement, since with replacement and two endpoints the busier one
    would be taken a quarter of the time (Envoy's own note).
    """

    name = "two_choices"

    def choose(self, candidates: Sequence[Member], now: Micros, key: bytes | None, rng: Rng) -> Member:  # noqa: ARG002
        """The less loaded of two; the first sample on a tie, which is chance already."""
        first, second = sample_two(candidates, rng)
        return second if _compare_load(second, first, now) < 0 else first


class Rendezvous(Rule):
    """Equal keys to the same endpoint while it is there and not overloaded; a request without a key by two choices.

    The highest of weighted hashes wins, so that a lost endpoint's keys spread over all the others and nobody
    else's move. An endpoint is passed over while it holds more than `bound_percent` of its fair share of what
    this balancer has in flight.

    Ref: Thaler & Ravishankar 1998; weights by Schindelhauer & Schomaker 2005 (-w / ln h); bounded loads:
    Mirrokni, Thorup & Zadimoghaddam 2018, with HAProxy's sensible 125 to 200 (hash-balance-factor).
    """

    name = "rendezvous"

    def __init__(self, *, bound_percent: int = 150) -> None:
        if bound_percent < 100:
            raise BadArguments("bound_percent must be at least 100: below, some request would find no endpoint")
        self._bound_percent = bound_percent
        self._keyless = TwoChoices()

    def choose(self, candidates: Sequence[Member], now: Micros, key: bytes | None, rng: Rng) -> Member:
        """The first in the key's own order of endpoints that is not overloaded."""
        if key is None:
            return self._keyless.choose(candidates, now, key, rng)
        in_flight = 1 + sum(member.in_flight for member in candidates)
        shares = sum(member.share(now) for member in candidates)
        for member in sorted(candidates, key=lambda member: _score(member, key), reverse=True):
            # ceil(c * (L + 1) * w / W): the sum over all is at least L + 1, so that somebody has room.
            room = -(-self._bound_percent * in_flight * member.share(now) // (100 * max(1, shares)))
            if member.in_flight < room:
                return member
        return self._keyless.choose(candidates, now, key, rng)  # only when every weight is 0


def sample_two(candidates: Sequence[Member], rng: Rng) -> tuple[Member, Member]:
    """Two distinct candidates, every ordered pair with the same probability."""
    first = rng.randrange(0, len(candidates))
    second = rng.randrange(0, len(candidates) - 1)
    return candidates[first], candidates[second + (second >= first)]


def _name(member: Member) -> str:
    return member.endpoint.name


def _compare_load(one: Member, other: Member, now: Micros) -> int:
    """Below 0 when `one` has less in flight per weight; the request to come is counted in."""
    return (one.in_flight + 1) * other.share(now) - (other.in_flight + 1) * one.share(now)


def _score(member: Member, key: bytes) -> float:
    digest = xxhash.xxh3_64_intdigest(member.endpoint.name.encode() + b"\0" + key)
    chance = ((digest >> 11) + 0.5) / 2**53  # strictly between 0 and 1, exact in a double
    return -member.endpoint.weight / math.log(chance)
