"""Rules that measure: their arithmetic, and what they are for, shown on a small simulated service."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter

import pytest

from synod.balance import Balancer, Endpoint, LoadReport, Outcome, PeakEwma, View, Weighted, make_policy
from synod.base import MILLISECOND, SECOND


def balancer(rule, **weights: int) -> Balancer:
    made = make_policy(rule, rng=random.Random(9))
    made.update(View.of(Endpoint(name, name, weight) for name, weight in weights.items()))
    return made


def feed(policy: Balancer, name: str, now: int, *, latency=None, report=None, outcome=Outcome.SUCCESS) -> None:
    others = {line.endpoint.name for line in policy.statistics()} - {name}
    policy.pick(now, tried=others).done(outcome, now, latency, report)


def test_peak_ewma_jumps_up_and_decays_down():
    """Finagle's cost: a slower answer counts at once, a faster one by e^(-dt / 10 s), and so does silence."""
    rule = PeakEwma()
    policy = balancer(rule, a=1, b=1)
    feed(policy, "a", 0, latency=1_000)
    feed(policy, "a", 0, latency=9_000)
    assert rule._costs["a"].cost == 9_000
    feed(policy, "a", 10 * SECOND, latency=1_000)
    assert rule._costs["a"].cost == pytest.approx(9_000 / math.e + 1_000 * (1 - 1 / math.e))


def test_peak_ewma_sends_one_request_to_the_unknown_and_waits():
    """An endpoint of which nothing is known gets one request; while that is out, the known ones serve."""
    policy = balancer(PeakEwma(), a=1, b=1)
    feed(policy, "a", 0, latency=1_000)
    leases = [policy.pick(1) for _ in range(30)]
    assert Counter(lease.endpoint.name for lease in leases)["b"] == 1


def test_failing_fast_makes_no_endpoint_cheaper():
    """The sinkhole: answers that are errors are not timed, so that a broken endpoint's cost does not fall by them."""
    rule = PeakEwma()
    policy = balancer(rule, a=1, b=1)
    feed(policy, "a", 0, latency=9_000)
    feed(policy, "a", SECOND, latency=1, outcome=Outcome.ERROR)
    assert rule._costs["a"].cost == 9_000


def test_failing_fast_does_not_attract():
    """The sinkhole again: who errs in a microsecond gets no more than its share by capacity."""
    made = balancer("weighted", a=1, b=1, c=1)
    counts: Counter[str] = Counter()
    for now in range(0, 3_000 * MILLISECOND, MILLISECOND):
        lease = made.pick(now)
        counts[lease.endpoint.name] += 1
        if lease.endpoint.name == "b" and counts["b"] % 4:  # never five in a row
            lease.done(Outcome.ERROR, now + 1, latency=1)
        else:
            lease.done(Outcome.SUCCESS, now + 1_000, latency=1_000)
    assert counts["b"] <= 1.1 * 1_000


def test_weighted_starts_from_capacity_alone():
    """Nothing measured yet: exactly the smooth rotation by registered weight."""
    policy = balancer("weighted", a=300, b=100)
    counts = Counter()
    for _ in range(400):
        lease = policy.pick(0)
        lease.done(Outcome.CANCELLED, 0)
        counts[lease.endpoint.name] += 1
    assert counts == {"a": 300, "b": 100}


def test_weighted_counts_what_is_in_flight_at_once():
    """Before any latency is known: who hangs with nine requests gets one in eleven, who is idle ten."""
    policy = balancer("weighted", a=100, b=100)
    held = [policy.pick(0, tried={"b"}) for _ in range(9)]
    counts = Counter()
    for _ in range(110):
        lease = policy.pick(0)
        lease.done(Outcome.CANCELLED, 0)
        counts[lease.endpoint.name] += 1
    assert counts == {"a": 10, "b": 100}
    assert len(held) == 9


def test_weighted_believes_latency_only_in_comparison_and_within_bounds():
    """The factor is against the median, between a tenth and ten; who is unknown has 1."""
    rule = Weighted()
    policy = balancer(rule, a=100, b=100, c=100, d=100)
    feed(policy, "a", 0, latency=10)
    policy.pick(0).done(Outcome.CANCELLED, 0)
    assert rule.factors() == {}  # one number has nothing to be compared with
    feed(policy, "b", 0, latency=1_000)
    feed(policy, "c", 0, latency=1_000_000)
    policy.pick(2 * SECOND).done(Outcome.CANCELLED, 0)
    assert rule.factors() == {"a": 10.0, "b": 1.0, "c": 0.1}


def test_weighted_prefers_reports_and_multiplies_them_with_capacity():
    """A58: requests per second over utilization. b serves as much as a at half the weight: it gets as much."""
    rule = Weighted()
    policy = balancer(rule, a=200, b=100)
    report = LoadReport(utilization=0.5, requests_per_second=100.0)
    for now in (0, 11 * SECOND):  # past the blackout period
        for name in "ab":
            feed(policy, name, now, latency=1_000, report=report)
    counts = Counter()
    for _ in range(300):
        lease = policy.pick(12 * SECOND)
        lease.done(Outcome.CANCELLED, 12 * SECOND)
        counts[lease.endpoint.name] += 1
    assert counts["a"] == pytest.approx(150, abs=2)


def test_weighted_ignores_reports_that_are_young_old_or_useless():
    """Blackout of 10 s, expiration after 180 s, and no division by a utilization of nothing."""
    rule = Weighted()
    policy = balancer(rule, a=100, b=100)

    def measured(now: int) -> dict[str, float]:
        policy.pick(now).done(Outcome.CANCELLED, now)
        return rule.factors()

    for name, rate in (("a", 10.0), ("b", 30.0)):
        feed(policy, name, 0, report=LoadReport(utilization=0.5, requests_per_second=rate))
    assert measured(5 * SECOND) == {}
    assert measured(11 * SECOND) == {"a": 0.5, "b": 1.5}
    assert measured(181 * SECOND) == {}
    for useless in (LoadReport(0.0, 10.0), LoadReport(0.5, 0.0), LoadReport(float("nan"), 10.0), LoadReport(-1, 10)):
        for now in (200 * SECOND, 212 * SECOND):
            feed(policy, "a", now, report=useless)
            feed(policy, "b", now, report=useless)
        assert measured(215 * SECOND) == {}


def test_errors_make_a_reported_load_heavier():
    """A58's penalty: who fails half of its requests is not as fast as its utilization says."""
    rule = Weighted()
    policy = balancer(rule, a=100, b=100)
    for now in (0, 11 * SECOND):
        feed(policy, "a", now, report=LoadReport(0.5, 100.0))
        feed(policy, "b", now, report=LoadReport(0.5, 100.0, errors_per_second=50.0))
    policy.pick(12 * SECOND)
    assert rule.factors()["a"] == pytest.approx(2 * rule.factors()["b"], rel=0.002)


class Service:
    """Endpoints that answer after a time of their own, each with `workers` at once; requests queue behind."""

    def __init__(self, policy: Balancer, workers: int) -> None:
        self.policy = policy
        self.workers = workers
        self.busy: dict[str, list[int]] = {line.endpoint.name: [] for line in policy.statistics()}

    def run(self, arrivals: list[int], service_time) -> list[int]:
        """Latency of each arrival (open loop), with answers told to the policy in the order of time."""
        answers: list[tuple[int, int, object]] = []
        latencies = []
        for number, now in enumerate(arrivals):
            while answers and answers[0][0] <= now:
                at, started, lease = heapq.heappop(answers)
                lease.done(Outcome.SUCCESS, at, at - arrivals[started])
            lease = self.policy.pick(now)
            free = self.busy[lease.endpoint.name]
            start = now if len(free) < self.workers else max(now, heapq.heappop(free))
            end = start + service_time(lease.endpoint.name, now)
            heapq.heappush(free, end)
            heapq.heappush(answers, (end, number, lease))
            latencies.append(end - now)
        return latencies


def one_turns_slow(policy_name: str) -> float:
    """Linkerd's experiment: 11 endpoints of 167 ms; from 15 s to 45 s of 60 one of them takes 2 s. Share within 1 s."""
    policy = balancer(policy_name, **{f"e{i:02}": 100 for i in range(11)})
    rng = random.Random(4)

    def service_time(name: str, now: int) -> int:
        if name == "e05" and 15 * SECOND <= now < 45 * SECOND:
            return 2 * SECOND
        return int(rng.gauss(167, 5) * MILLISECOND)

    arrivals = list(range(0, 60 * SECOND, 5 * MILLISECOND))
    latencies = Service(policy, workers=1_000).run(arrivals, service_time)
    return sum(latency <= SECOND for latency in latencies) / len(latencies)


def test_linkerds_experiment_ranks_the_rules_as_published():
    """Published: round robin about 95 %, least loaded about 99 %, peak EWMA about 99.9 % within a second."""
    round_robin, least, peak = map(one_turns_slow, ("round_robin", "least_in_flight", "peak_ewma"))
    assert 0.94 < round_robin < 0.97 < least < 0.997 < peak


def test_weighted_follows_the_true_capacity_not_only_the_registered_one():
    """Three registered alike, one of them five times as slow: its share and the tail fall against plain weights."""

    def run(policy_name: str) -> tuple[float, Counter[str]]:
        policy = balancer(policy_name, a=100, b=100, c=100)
        rng = random.Random(8)
        arrivals, now = [], 0.0
        for _ in range(20_000):
            now += rng.expovariate(1 / 4_000)  # 250 a second; the three could take 100 + 100 + 20 per worker
            arrivals.append(int(now))
        slow = {"a": 10, "b": 10, "c": 50}
        latencies = Service(policy, workers=3).run(arrivals, lambda name, _: slow[name] * MILLISECOND)
        picks = Counter({line.endpoint.name: line.picks for line in policy.statistics()})
        return sorted(latencies)[len(latencies) * 99 // 100] / MILLISECOND, picks

    plain_tail, plain = run("weighted_round_robin")
    tail, measured = run("weighted")
    assert measured["c"] < 0.6 * plain["c"]
    assert tail < 0.2 * plain_tail
