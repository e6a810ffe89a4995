"""Health and in-flight counts around a rule: who may be picked is decided here, who is picked by the rule.

Read `Balancer.pick` first. Not thread-safe: whoever shares one between threads holds a lock around each call.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from synod.base import Micros, NotApplied, Rng, invariant

from ._health import Health, HealthOptions, HealthState
from ._view import Endpoint, LoadReport, Outcome, View

if TYPE_CHECKING:
    from ._rules import Rule

Reason = Literal["healthy", "trial", "panic"]
"""Why an endpoint could be picked: it is healthy; its time aside is over and this request tries it; or every
untried endpoint is set aside or drains, and one of them is better than none."""

SLOW_START_PERCENT_MIN = 10  # Envoy SlowStartConfig.min_weight_percent


class NoEndpoint(NotApplied):
    """There is no endpoint (left) to send the request to; nothing was sent by this pick."""


@dataclass(frozen=True, slots=True)
class BalancerOptions:
    """What holds for every rule.

    Args:
        health: when endpoints are set aside.
        slow_start: how long the share of a joined or restored endpoint rises from a tenth to all of it, for
            rules that look at weights; 0 switches it off, as everywhere [Envoy, HAProxy].
    """

    health: HealthOptions = field(default_factory=HealthOptions)
    slow_start: Micros = 0


class Member:
    """An endpoint as the balancer knows it: read by rules, changed only here.

    Invariant: `in_flight` is the number of leases not yet done.
    """

    __slots__ = ("endpoint", "health", "in_flight", "picks", "slow_start", "warm_since")

    def __init__(self, endpoint: Endpoint, options: BalancerOptions) -> None:
        self.endpoint = endpoint
        self.health = Health(options.health)
        self.in_flight = 0
        self.picks = 0
        self.slow_start = options.slow_start
        self.warm_since: Micros | None = None  # None: warm

    def share(self, now: Micros) -> int:
        """The weight in percent of itself: 100 times the weight when warm, less during slow start.

        Ref: Envoy slow start with aggression 1: w * max(10 %, elapsed / window).
        """
        weight = self.endpoint.weight
        if self.warm_since is None:
            return weight * 100
        elapsed = now - self.warm_since
        if elapsed >= self.slow_start:
            self.warm_since = None
            return weight * 100
        return weight * max(SLOW_START_PERCENT_MIN, elapsed * 100 // self.slow_start)


@dataclass(frozen=True, slots=True)
class MemberStatistics:
    """One line of `Balancer.statistics`."""

    endpoint: Endpoint
    state: HealthState
    in_flight: int
    picks: int
    ejected_until: Micros


class Lease:
    """One request's claim on an endpoint, from the pick until `done`.

    Invariant: the endpoint's in-flight count holds it until the first `done`, and not longer.
    """

    __slots__ = ("_balancer", "_generation", "_is_done", "_is_heard", "_member", "endpoint", "reason")

    def __init__(self, balancer: Balancer, member: Member, reason: Reason) -> None:
        self._balancer = balancer
        self._member = member
        self._generation = member.health.generation
        self._is_done = False
        self._is_heard = False
        self.endpoint = member.endpoint
        self.reason = reason

    def heard(
        self, outcome: Outcome, now: Micros, latency: Micros | None = None, report: LoadReport | None = None
    ) -> None:
        """The answer has begun: what it says about the endpoint is known before a long body ends.

        Args:
            outcome: what happened.
            now: when.
            latency: from the request to its answer, measured the same way for every endpoint; None if unknown.
            report: the endpoint's own load, if it came with the answer.
        """
        if not (self._is_heard or self._is_done):
            self._is_heard = True
            self._balancer._observe(self._member, self._generation, outcome, now, latency, report)  # noqa: SLF001 - one class in two

    def done(
        self, outcome: Outcome, now: Micros, latency: Micros | None = None, report: LoadReport | None = None
    ) -> None:
        """The request is over; only the first call counts, since a stream may be closed by more than one path.

        After `heard`, only a failure still says something.

        Args:
            outcome: what happened.
            now: when.
            latency: as in `heard`.
            report: as in `heard`.
        """
        if self._is_done:
            return
        self._is_done = True
        self._member.in_flight -= 1
        invariant(self._member.in_flight >= 0, "an endpoint's in-flight count never falls below zero")
        if not self._is_heard or outcome not in (Outcome.SUCCESS, Outcome.CANCELLED):
            self._balancer._observe(self._member, self._generation, outcome, now, latency, report)  # noqa: SLF001 - one class in two


class Policy(Protocol):
    """What a transport, a proxy or the simulator holds."""

    def update(self, view: View, now: Micros = 0) -> None:
        """The endpoints are these from now on; who stayed keeps its state."""

    def pick(self, now: Micros, key: bytes | None = None, tried: Container[str] = ()) -> Lease:
        """Choose an endpoint whose name is not in `tried`.

        Raises:
            NoEndpoint: there is none (left).
        """
        ...


class Balancer:
    """The policy that joins one rule with health and in-flight counts.

    Args:
        rule: chooses among the open endpoints; it belongs to this balancer alone.
        rng: chance, seeded by the caller.
        options: what holds for every rule.
    """

    __slots__ = ("_asleep_until", "_members", "_open", "_options", "_rng", "rule")

    def __init__(self, rule: Rule, *, rng: Rng, options: BalancerOptions | None = None) -> None:
        self.rule = rule
        self._rng = rng
        self._options = options or BalancerOptions()
        self._members: dict[str, Member] = {}  # in the view's order
        self._open: list[Member] | None = []  # None: to be counted again
        self._asleep_until: Micros | None = None  # the first end of an ejection, if any is ejected

    def update(self, view: View, now: Micros = 0) -> None:
        """Take over a new view: who kept name and address keeps its state, a new weight applies at once."""
        known = self._members
        self._members = {}
        for endpoint in view:
            member = known.get(endpoint.name)
            if member is None or member.endpoint.address != endpoint.address:
                member = Member(endpoint, self._options)
                if known and self._options.slow_start:  # when all are new there is nobody to spare them
                    member.warm_since = now
            member.endpoint = endpoint
            self._members[endpoint.name] = member
        self._recount()
        self.rule.update(tuple(self._members.values()), self._rng)

    def pick(self, now: Micros, key: bytes | None = None, tried: Container[str] = ()) -> Lease:
        """Choose an endpoint for one request.

        Args:
            now: the moment.
            key: what the request is about, for rules that send equal keys to the same endpoint.
            tried: names of endpoints that this request was already sent to.

        Raises:
            NoEndpoint: the view is empty or everything was tried; nothing was sent by this pick.
        """
        if self._asleep_until is not None and now >= self._asleep_until:
            self._wake(now)
        candidates: Sequence[Member] = self._open_members()
        if tried:
            candidates = [member for member in candidates if member.endpoint.name not in tried]
        reason: Reason = "healthy"
        if not candidates:
            reason = "panic"
            candidates = self._untried(tried)
        member = candidates[0] if len(candidates) == 1 else self.rule.choose(candidates, now, key, self._rng)
        if member.health.state is HealthState.ON_TRIAL and reason == "healthy":
            reason = "trial"
            self._open = None
        lease = Lease(self, member, reason)
        member.health.picked()
        member.in_flight += 1
        member.picks += 1
        return lease

    def statistics(self) -> tuple[MemberStatistics, ...]:
        """Every endpoint with its state, in the view's order."""
        return tuple(
            MemberStatistics(m.endpoint, m.health.state, m.in_flight, m.picks, m.health.ejected_until)
            for m in self._members.values()
        )

    def _open_members(self) -> list[Member]:
        if self._open is None:
            self._open = [m for m in self._members.values() if m.endpoint.weight > 0 and m.health.is_open]
        return self._open

    def _untried(self, tried: Container[str]) -> list[Member]:
        if not self._members:
            raise NoEndpoint("no instance of the service is registered; nothing was sent")
        untried = [member for name, member in self._members.items() if name not in tried]
        if not untried:
            raise NoEndpoint(f"all {len(self._members)} instances of the service were tried")
        # Who drains will stop soon, so it comes after who may only be ill.
        return [member for member in untried if member.endpoint.weight > 0] or untried

    def _wake(self, now: Micros) -> None:
        for member in self._members.values():
            member.health.wake(now)
        self._recount()

    def _recount(self) -> None:
        self._open = None
        ends = [m.health.ejected_until for m in self._members.values() if m.health.state is HealthState.EJECTED]
        self._asleep_until = min(ends) if ends else None

    def _observe(
        self,
        member: Member,
        generation: int,
        outcome: Outcome,
        now: Micros,
        latency: Micros | None,
        report: LoadReport | None,
    ) -> None:
        if self._members.get(member.endpoint.name) is member:
            self.rule.observe(member, outcome, now, latency, report)
        health = member.health
        if outcome is Outcome.SUCCESS and health.state is HealthState.HEALTHY:
            if generation == health.generation:
                health.errors = 0
            return  # the usual end of a request, without the count below
        is_last, too_many = self._spared(member)
        changed = health.observe(
            outcome, generation=generation, now=now, rng=self._rng, is_last=is_last, too_many=too_many
        )
        if changed:
            if health.state is HealthState.HEALTHY and self._options.slow_start:
                member.warm_since = now
            self._recount()

    def _spared(self, member: Member) -> tuple[bool, bool]:
        """Is it the last healthy endpoint; are too many aside already for errors to eject it?"""
        others = [m for m in self._members.values() if m is not member and m.endpoint.weight > 0]
        healthy = sum(m.health.state is HealthState.HEALTHY for m in others)
        percent = self._options.health.errors_ejected_percent_max
        ejected_max = max(1, (len(others) + 1) * percent // 100)
        return healthy == 0, len(others) - healthy + 1 > ejected_max
