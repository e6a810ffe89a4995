"""Who is set aside, when, and how it comes back: the table in balance/_health.py, line by line."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synod.balance import (
    POLICY_NAMES,
    Balancer,
    BalancerOptions,
    Endpoint,
    HealthOptions,
    HealthState,
    Lease,
    NoEndpoint,
    Outcome,
    View,
    make_policy,
)
from synod.base import SECOND

UNREACHABLE = [Outcome.REFUSED, Outcome.TIMEOUT, Outcome.BROKEN]


def balancer(*names: str, policy: str = "round_robin", seed: int = 5, **options) -> Balancer:
    made = make_policy(policy, rng=random.Random(seed), options=BalancerOptions(**options))
    made.update(View.of(Endpoint(name, f"http://{name}") for name in names))
    return made


def pick(policy: Balancer, name: str, now: int = 0) -> Lease:
    """A lease on the endpoint of that name."""
    others = {line.endpoint.name for line in policy.statistics()} - {name}
    return policy.pick(now, tried=others)


def state(policy: Balancer, name: str) -> HealthState:
    return {line.endpoint.name: line.state for line in policy.statistics()}[name]


def until(policy: Balancer, name: str) -> int:
    return {line.endpoint.name: line.ejected_until for line in policy.statistics()}[name]


def served(policy: Balancer, now: int, count: int = 60) -> Counter[str]:
    """Who gets `count` requests at one moment, each cancelled, so that they leave no evidence."""
    counts: Counter[str] = Counter()
    for _ in range(count):
        lease = policy.pick(now)
        counts[lease.endpoint.name] += 1
        lease.done(Outcome.CANCELLED, now)
    return counts


@pytest.mark.parametrize("policy", POLICY_NAMES)
@pytest.mark.parametrize("outcome", UNREACHABLE)
def test_who_refuses_or_times_out_is_set_aside_at_once(policy, outcome):
    """The promise of the framework: one refusal, and the next requests go elsewhere, whatever the policy."""
    made = balancer("a", "b", "c", policy=policy)
    pick(made, "b").done(outcome, 0)
    assert state(made, "b") is HealthState.EJECTED
    assert set(served(made, now=1)) == {"a", "c"}


def test_errors_eject_only_in_a_row_of_five():
    """One 5xx is often the request's own fault; five in a row are the endpoint's [Envoy consecutive_5xx]."""
    made = balancer("a", "b", "c")
    for outcome in [Outcome.ERROR] * 4 + [Outcome.SUCCESS] + [Outcome.ERROR] * 4:
        pick(made, "b").done(outcome, 0)
    assert state(made, "b") is HealthState.HEALTHY
    pick(made, "b").done(Outcome.ERROR, 0)
    assert state(made, "b") is HealthState.EJECTED


def test_errors_set_aside_at_most_a_tenth_but_one():
    """A common store that is down makes every endpoint err: that must not push all load onto the last."""
    made = balancer("a", "b", "c")
    for name in "ab":
        for _ in range(5):
            pick(made, name).done(Outcome.ERROR, 0)
    assert [state(made, name) for name in "abc"].count(HealthState.EJECTED) == 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(Outcome)), max_size=80), st.integers())
def test_the_last_healthy_endpoint_is_never_ejected(events, seed):
    """Whatever happens to whom: as long as somebody was healthy, somebody stays so."""
    made = balancer("a", "b", "c", "d", seed=seed)
    everybody = [(name, Outcome.REFUSED) for name in "abcd"]
    for now, (name, outcome) in enumerate([*events, *everybody]):
        pick(made, name, now).done(outcome, now)
        assert HealthState.HEALTHY in [line.state for line in made.statistics()]


def test_one_trial_at_a_time_and_success_restores():
    """Half-open: when the time is over one request tries the endpoint, the others wait for what it finds."""
    made = balancer("a", "b")
    pick(made, "b").done(Outcome.REFUSED, 0)
    back = until(made, "b")
    assert set(served(made, back - 1)) == {"a"}
    leases = [made.pick(back) for _ in range(20)]
    trials = [lease for lease in leases if lease.endpoint.name == "b"]
    assert [lease.reason for lease in trials] == ["trial"]
    trials[0].done(Outcome.SUCCESS, back + 1)
    assert state(made, "b") is HealthState.HEALTHY
    assert set(served(made, back + 2)) == {"a", "b"}


def test_a_cancelled_trial_lets_the_next_request_try():
    """A caller that gave up says nothing: the endpoint must not wait for ever for its verdict."""
    made = balancer("a", "b")
    pick(made, "b").done(Outcome.REFUSED, 0)
    back = until(made, "b")
    trial = next(lease for lease in iter(lambda: made.pick(back), None) if lease.reason == "trial")
    trial.done(Outcome.CANCELLED, back)
    assert "b" in {made.pick(back).endpoint.name for _ in range(2)}


def test_backoff_doubles_to_its_maximum_with_jitter_and_success_forgets_it():
    """1, 2, 4, ... 32 s, each between half and all of it, so that many clients do not return together."""
    ends = []
    for seed in range(40):
        made = balancer("a", "b", seed=seed)
        now, lengths = 0, []
        for _ in range(9):
            pick(made, "b", now).done(Outcome.REFUSED, now)
            lengths.append(until(made, "b") - now)
            now = until(made, "b")
        for length, full in zip(lengths, [1, 2, 4, 8, 16, 32, 32, 32, 32], strict=True):
            assert full * SECOND // 2 <= length <= full * SECOND
        ends.append(lengths[0])
        pick(made, "b", now).done(Outcome.SUCCESS, now)
        pick(made, "b", now).done(Outcome.REFUSED, now)
        assert until(made, "b") - now <= SECOND
    assert len(set(ends)) > 30


def test_the_requests_that_die_with_an_instance_are_one_piece_of_evidence():
    """32 in flight at a kill, and late ones that fail during the trial, lengthen nothing and restore nothing."""
    made = balancer("a", "b")
    stale = [pick(made, "b") for _ in range(32)]
    for lease in stale[:20]:
        lease.done(Outcome.BROKEN, 0)
    back = until(made, "b")
    assert back <= SECOND
    stale[20].done(Outcome.SUCCESS, 1)
    assert state(made, "b") is HealthState.EJECTED
    trial = pick(made, "b", back)
    stale[21].done(Outcome.BROKEN, back)
    assert state(made, "b") is HealthState.ON_TRIAL
    trial.done(Outcome.SUCCESS, back + 1)
    for lease in stale[22:]:
        lease.done(Outcome.BROKEN, back + 2)
    assert state(made, "b") is HealthState.HEALTHY
    assert all(line.in_flight == 0 for line in made.statistics())


def test_panic_is_named_and_finds_who_is_back():
    """When every untried endpoint is set aside, one of them is better than an error; the decision says so."""
    made = balancer("a", "b", "c")
    for name in "ab":
        pick(made, name).done(Outcome.REFUSED, 0)
    before = until(made, "b")
    assert made.pick(1).reason == "healthy"
    lease = made.pick(1, tried={"a", "c"})
    assert (lease.endpoint.name, lease.reason) == ("b", "panic")
    lease.done(Outcome.REFUSED, 1)
    assert until(made, "b") == before  # a panic does not lengthen the backoff
    made.pick(2, tried={"a", "c"}).done(Outcome.SUCCESS, 2)
    assert state(made, "b") is HealthState.HEALTHY


def test_no_endpoint_says_whether_there_are_none_or_all_were_tried():
    """An error answers what happened: nothing is registered, or everything was tried."""
    made = balancer()
    with pytest.raises(NoEndpoint, match="no instance of the service is registered"):
        made.pick(0)
    made = balancer("a", "b")
    with pytest.raises(NoEndpoint, match="all 2 instances"):
        made.pick(0, tried={"a", "b"})


def test_who_drains_gets_nothing_new_while_there_is_another():
    """Weight 0 means drain: what is in flight ends, nothing new comes, except when nobody else is left."""
    made = balancer("a", "b")
    lease = pick(made, "a")
    made.update(View.of([Endpoint("a", "http://a", 0), Endpoint("b", "http://b")]))
    assert set(served(made, 0)) == {"b"}
    lease.done(Outcome.SUCCESS, 0)
    only = made.pick(0, tried={"b"})
    assert (only.endpoint.name, only.reason) == ("a", "panic")


def test_a_view_keeps_the_state_of_who_stays_and_not_of_who_moved():
    """A new view (one joined) must not restore who is set aside; a new address is a new instance."""
    made = balancer("a", "b")
    pick(made, "b").done(Outcome.REFUSED, 0)
    stay = [Endpoint("a", "http://a"), Endpoint("c", "http://c")]
    made.update(View.of([*stay, Endpoint("b", "http://b", weight=7)]))
    assert state(made, "b") is HealthState.EJECTED
    made.update(View.of([*stay, Endpoint("b", "http://elsewhere")]))
    assert state(made, "b") is HealthState.HEALTHY


def test_a_lease_may_end_after_its_endpoint_left():
    """The view changes under requests in flight: their end must harm nobody."""
    made = balancer("a", "b", policy="weighted")
    leases = [made.pick(0) for _ in range(6)]
    made.update(View.of([Endpoint("a", "http://a")]))
    for lease in leases:
        lease.done(Outcome.TIMEOUT, 1, latency=5)
    assert [line.in_flight for line in made.statistics()] == [0]


def test_heard_gives_evidence_before_the_body_ends():
    """A trial that streams for minutes restores its endpoint with the first bytes; in flight ends at the end."""
    made = balancer("a", "b")
    pick(made, "b").done(Outcome.REFUSED, 0)
    trial = pick(made, "b", until(made, "b"))
    trial.heard(Outcome.SUCCESS, 1)
    assert state(made, "b") is HealthState.HEALTHY
    assert [line.in_flight for line in made.statistics()] == [0, 1]
    trial.done(Outcome.SUCCESS, 2)
    assert [line.in_flight for line in made.statistics()] == [0, 0]


def test_a_body_that_breaks_after_a_good_start_counts():
    """After `heard` a failure still says something."""
    made = balancer("a", "b")
    lease = pick(made, "b")
    lease.heard(Outcome.SUCCESS, 0)
    lease.done(Outcome.BROKEN, 1)
    assert state(made, "b") is HealthState.EJECTED


def test_slow_start_raises_the_share_of_who_joins():
    """From a tenth to all of its weight over the window; nobody is spared when all are new [Envoy]."""
    made = balancer("a", "b", policy="weighted_round_robin", slow_start=10 * SECOND)
    assert served(made, 0, 100) == {"a": 50, "b": 50}
    made.update(View.of(Endpoint(name, f"http://{name}") for name in "abc"), now=0)
    assert served(made, 0, 2_100)["c"] == pytest.approx(100, abs=3)
    assert served(made, 5 * SECOND, 2_500)["c"] == pytest.approx(500, abs=3)
    assert served(made, 10 * SECOND, 300)["c"] == pytest.approx(100, abs=3)


def test_options_are_heeded():
    """The numbers of the table can be changed."""
    made = balancer("a", "b", health=HealthOptions(ejection=7 * SECOND, consecutive_errors=1))
    pick(made, "b").done(Outcome.ERROR, 0)
    assert 3 * SECOND <= until(made, "b") <= 7 * SECOND
