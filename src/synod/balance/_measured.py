"""Rules that also measure: latency seen by this client, and the load that endpoints report.

Read `Weighted.choose` first. Only successes are timed: a broken endpoint fails fast, and would look fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from synod.base import SECOND, Micros, Rng

from ._balancer import Member
from ._rules import Rule, WeightedRoundRobin, sample_two
from ._view import LoadReport, Outcome

DECAY = 10 * SECOND  # Finagle's decay time of latency (PeakEwma)
WEIGHT_UPDATE_PERIOD = SECOND  # gRPC A58 weight_update_period
BLACKOUT_PERIOD = 10 * SECOND  # gRPC A58 blackout_period: first reports of an endpoint say little
EXPIRATION_PERIOD = 180 * SECOND  # gRPC A58 weight_expiration_period
ERROR_PENALTY = 1.0  # gRPC A58 error_utilization_penalty
FACTOR_MIN, FACTOR_MAX = 0.1, 10.0  # of the median: near-idle endpoints report a load near 0, and would explode
FACTOR_SCALE = 1_000  # rotation counts in whole numbers; a thousandth is finer than any measurement here


class PeakEwma(Rule):
    """The lower of two sampled loads: decayed latency, raised at once by a slow answer, times requests in flight.

    An endpoint of which nothing is known gets one request and then waits for its answer.

    Args:
        decay: after this time an old latency counts 1/e.

    Ref: Finagle PeakEwma.scala (10 s; cost * (pending + 1); a penalty while unknown and busy).
    Differs: divided by the weight. Streams and long polls break its premise, as Finagle's manual says.
    """

    name = "peak_ewma"

    def __init__(self, *, decay: Micros = DECAY) -> None:
        self._decay = decay
        self._costs: dict[str, _Peak] = {}

    def update(self, members: Sequence[Member], rng: Rng) -> None:  # noqa: ARG002
        """Forget who left."""
        known = self._costs
        self._costs = {m.endpoint.name: known.get(m.endpoint.name) or _Peak() for m in members}

    def choose(self, candidates: Sequence[Member], now: Micros, key: bytes | None, rng: Rng) -> Member:  # noqa: ARG002
        """The cheaper of two."""
        first, second = sample_two(candidates, rng)
        return second if self._load(second, now) < self._load(first, now) else first

    def observe(
        self,
        member: Member,
        outcome: Outcome,
        now: Micros,
        latency: Micros | None,
        report: LoadReport | None,  # noqa: ARG002
    ) -> None:
        """Time a success."""
        if outcome is Outcome.SUCCESS and latency is not None:
            self._costs[member.endpoint.name].observe(latency, now, self._decay)

    def _load(self, member: Member, now: Micros) -> float:
        peak = self._costs[member.endpoint.name]
        peak.observe(0, now, self._decay)  # what is not used is forgotten, so that a slow one is tried again
        if peak.cost == 0.0 and member.in_flight:
            return PENALTY + member.in_flight
        return peak.cost * (member.in_flight + 1) / max(1, member.share(now))


PENALTY = float(2**63 >> 16)  # Finagle's: more than any latency, so that the unknown and busy comes last


class _Peak:
    """A latency in microseconds that jumps up and decays down."""

    __slots__ = ("cost", "stamp")

    def __init__(self) -> None:
        self.cost = 0.0
        self.stamp: Micros = 0

    def observe(self, latency: Micros, now: Micros, decay: Micros) -> None:
        elapsed = max(0, now - self.stamp)
        self.stamp = max(self.stamp, now)
        if latency > self.cost:
            self.cost = float(latency)
        elif self.cost:
            kept = math.exp(-elapsed / decay)
            self.cost = kept * self.cost + (1.0 - kept) * latency


class Weighted(WeightedRoundRobin):
    """Smooth rotation by registered capacity times measured load: w * f / (in_flight + 1).

    The factor f says how fast an endpoint is for its registered weight, against the median of all: by the load
    that at least two endpoints report, else by the latency of at least two seen here, else 1. It is held
    between 0.1 and 10, and the endpoint of which nothing is known has 1. What is in flight counts at once.

    Ref: gRPC A58 (requests per second over utilization plus the error penalty; periods above); Envoy's
    weight / (active + 1) with bias 1. Differs: A58 replaces the registered weights, here they are multiplied,
    so that a cell that starts cold begins with what the operator knows.
    """

    name = "weighted"

    def __init__(self) -> None:
        super().__init__()
        self._measured: dict[str, _Measured] = {}
        self._factors: dict[str, int] = {}
        self._update_at: Micros | None = None

    def update(self, members: Sequence[Member], rng: Rng) -> None:
        """Forget who left; who joined is unknown."""
        super().update(members, rng)
        known = self._measured
        self._measured = {m.endpoint.name: known.get(m.endpoint.name) or _Measured() for m in members}
        self._update_at = None

    def choose(self, candidates: Sequence[Member], now: Micros, key: bytes | None, rng: Rng) -> Member:  # noqa: ARG002
        """The candidate that is furthest behind its measured share."""
        if self._update_at is None or now >= self._update_at:
            self._measure(candidates, now)
        factors = self._factors
        shares = [
            max(1, member.share(now) * factors.get(member.endpoint.name, FACTOR_SCALE) // (member.in_flight + 1))
            for member in candidates
        ]
        return self._furthest_behind(candidates, shares)

    def observe(
        self, member: Member, outcome: Outcome, now: Micros, latency: Micros | None, report: LoadReport | None
    ) -> None:
        """Take in latency and report."""
        measured = self._measured[member.endpoint.name]
        if outcome is Outcome.SUCCESS and latency is not None:
            measured.time(latency, now)
        if report is not None:
            measured.report(report, now)

    def factors(self) -> dict[str, float]:
        """The factor per endpoint as last measured, for people."""
        return {name: factor / FACTOR_SCALE for name, factor in self._factors.items()}

    def _measure(self, candidates: Sequence[Member], now: Micros) -> None:
        self._update_at = now + WEIGHT_UPDATE_PERIOD
        speeds = self._reported_speeds(candidates, now)
        if len(speeds) < 2:  # one number has nothing to be compared with
            speeds = self._timed_speeds(candidates)
        if len(speeds) < 2:
            self._factors = {}
            return
        middle = median(speeds.values())
        self._factors = {
            name: round(FACTOR_SCALE * min(FACTOR_MAX, max(FACTOR_MIN, speed / middle)))
            for name, speed in speeds.items()
        }

    def _reported_speeds(self, candidates: Sequence[Member], now: Micros) -> dict[str, float]:
        speeds = {}
        for member in candidates:
            speed = self._measured[member.endpoint.name].reported_speed(now)
            if speed is not None:
                speeds[member.endpoint.name] = speed / max(1, member.endpoint.weight)
        return speeds

    def _timed_speeds(self, candidates: Sequence[Member]) -> dict[str, float]:
        return {
            member.endpoint.name: 1.0 / measured.latency
            for member in candidates
            if (measured := self._measured[member.endpoint.name]).latency > 0.0
        }


class _Measured:
    """What is known of one endpoint: its decayed mean latency, and its last load report."""

    __slots__ = ("_reported", "_reported_at", "_reported_since", "_timed_at", "latency")

    def __init__(self) -> None:
        self.latency = 0.0  # microseconds; 0: unknown
        self._timed_at: Micros = 0
        self._reported = 0.0
        self._reported_at: Micros = 0
        self._reported_since: Micros | None = None

    def time(self, latency: Micros, now: Micros) -> None:
        if not self.latency:
            self.latency = float(max(1, latency))
        else:
            kept = math.exp(-max(0, now - self._timed_at) / DECAY)
            self.latency = max(1.0, kept * self.latency + (1.0 - kept) * latency)
        self._timed_at = now

    def report(self, report: LoadReport, now: Micros) -> None:
        rate, utilization = report.requests_per_second, report.utilization
        if not (rate > 0.0 and utilization > 0.0):  # A58: only then usable; NaN fails both comparisons
            return
        self._reported = rate / (utilization + report.errors_per_second / rate * ERROR_PENALTY)
        if self._reported_since is None or now - self._reported_at >= EXPIRATION_PERIOD:
            self._reported_since = now
        self._reported_at = now

    def reported_speed(self, now: Micros) -> float | None:
        if self._reported_since is None or now - self._reported_since < BLACKOUT_PERIOD:
            return None
        return self._reported if now - self._reported_at < EXPIRATION_PERIOD else None
