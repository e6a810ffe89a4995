"""The rules without measurement: each against a slow, obvious twin or against the distribution it promises."""

from __future__ import annotations

import math
import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synod.balance import (
    POLICY_NAMES,
    Balancer,
    Endpoint,
    Lease,
    Outcome,
    Rendezvous,
    Rule,
    View,
    make_policy,
    make_rule,
)
from synod.base import BadArguments, UserError


class FirstOfAll:
    """Chance that always draws the smallest number."""

    def randrange(self, start: int, stop: int) -> int:
        return start

    def getrandbits(self, k: int) -> int:
        return 0


def view(**weights: int) -> View:
    return View.of(Endpoint(name, f"http://{name}", weight) for name, weight in weights.items())


def names(balancer: Balancer, count: int, **kwargs) -> list[str]:
    """Names of `count` picks, each over before the next begins."""
    picked = []
    for now in range(count):
        lease = balancer.pick(now, **kwargs)
        lease.done(Outcome.SUCCESS, now)
        picked.append(lease.endpoint.name)
    return picked


def balancer(rule: str | Rule, *, rng=None, **weights: int) -> Balancer:
    made = make_policy(rule, rng=rng or random.Random(7))
    made.update(view(**weights))
    return made


def test_names_are_the_ones_that_users_write():
    """INTERFACES: a policy is named by a string; a wrong one is the user's mistake and says which there are."""
    assert list(POLICY_NAMES) == sorted(POLICY_NAMES)
    assert {"random", "round_robin", "weighted"} <= set(POLICY_NAMES)
    assert all(make_rule(name).name == name for name in POLICY_NAMES)
    with pytest.raises(UserError, match=r"no policy 'robin'.*round_robin"):
        make_policy("robin", rng=random.Random(0))


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy_uses_every_endpoint_and_balances_its_count(policy):
    """Whatever the policy: a pick is one of the view, all get something, and what is in flight ends at zero."""
    policy_ = balancer(policy, a=100, b=100, c=100)
    leases = [policy_.pick(now, key=str(now).encode()) for now in range(300)]
    assert {lease.endpoint.name for lease in leases} == {"a", "b", "c"}
    assert sum(line.in_flight for line in policy_.statistics()) == 300
    for lease in leases:
        lease.done(Outcome.SUCCESS, 1_000, latency=500)
        lease.done(Outcome.SUCCESS, 1_000, latency=500)
    assert [line.in_flight for line in policy_.statistics()] == [0, 0, 0]


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_same_seed_same_picks(policy):
    """Chance is an argument: two balancers with the same seed make the same choices."""

    def run() -> list[str]:
        policy_ = balancer(policy, rng=random.Random(3), a=10, b=30, c=60)
        open_: list[Lease] = []
        picked = []
        for now in range(200):
            lease = policy_.pick(now * 1_000, key=str(now % 17).encode())
            picked.append(lease.endpoint.name)
            open_.append(lease)
            if len(open_) > 5:
                open_.pop(0).done(Outcome.SUCCESS, now * 1_000, latency=700 + now % 13)
        return picked

    assert run() == run()


def test_random_is_uniform():
    """Each endpoint with the same probability: chi-square over 30,000 picks stays below its 99.9 % bound."""
    counts = Counter(names(balancer("random", a=1, b=50, c=100, d=1, e=7, f=2), 30_000))
    expected = 30_000 / 6
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 20.52  # 5 degrees of freedom


@given(
    st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=1, max_size=12), st.integers(0, 5), st.integers()
)
def test_round_robin_rotates_evenly_while_endpoints_come_and_go(phases, rounds, seed):
    """In every stretch without a change, and so in all its parts, no endpoint is ahead of another by more than one.

    The slow twin is the definition: count, and compare.
    """
    policy = make_policy("round_robin", rng=random.Random(seed))
    for present in phases:
        policy.update(View.of(Endpoint(name, name) for name in present))
        counts = dict.fromkeys(present, 0)
        for name in names(policy, rounds * len(present) + 1):
            counts[name] += 1
            assert max(counts.values()) - min(counts.values()) <= 1


def test_round_robin_gives_no_double_share_to_the_neighbour_of_a_missing_endpoint():
    """With b tried by every request, a, c and d share its turns, not c alone."""
    counts = Counter(names(balancer("round_robin", a=1, b=1, c=1, d=1), 300, tried={"b"}))
    assert counts == {"a": 100, "c": 100, "d": 100}


def test_round_robin_starts_at_a_random_place():
    """Many clients that start together do not all begin with the same endpoint."""
    firsts = Counter(names(balancer("round_robin", rng=random.Random(s), a=1, b=1, c=1), 1)[0] for s in range(300))
    assert set(firsts) == {"a", "b", "c"}
    assert min(firsts.values()) > 60


def test_smooth_weighted_rotation_is_the_one_of_nginx():
    """Weights 5, 1, 1 give a a b a c a a: the heavy one is never served five times in a row."""
    assert "".join(names(balancer("weighted_round_robin", rng=FirstOfAll(), a=5, b=1, c=1), 14)) == "aabacaa" * 2


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers())
def test_smooth_weighted_rotation_is_exact_over_a_cycle(weights, seed):
    """Over a cycle of W picks, from whatever phase, an endpoint of weight w gets exactly w of them.

    The slow twin is the transcription of nginx's loop on fractions.
    """
    named = {f"e{i}": weight for i, weight in enumerate(weights)}
    cycle = sum(weights)
    policy = balancer("weighted_round_robin", rng=random.Random(seed), **named)
    current = {name: Fraction(policy.rule._current[name], 100) for name in named}
    picked = names(policy, 3 * cycle)
    for name in picked:
        for other, weight in named.items():
            current[other] += weight
        best = max(named, key=lambda one: (current[one], [-ord(c) for c in one]))
        current[best] -= cycle
        assert name == best
    assert Counter(picked[cycle : 2 * cycle]) == Counter(named) or Counter(picked) == Counter(
        {name: 3 * weight for name, weight in named.items()}
    )


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=2, max_size=7), st.integers())
def test_least_in_flight_takes_the_least_per_weight(members, seed):
    """The twin compares (in flight + 1) / weight as fractions over all endpoints."""
    policy = balancer("least_in_flight", rng=random.Random(seed), **{f"e{i}": w for i, (w, _) in enumerate(members)})
    for i, (_, in_flight) in enumerate(members):
        policy._members[f"e{i}"].in_flight = in_flight
    loads = {f"e{i}": Fraction(in_flight + 1, weight) for i, (weight, in_flight) in enumerate(members)}
    assert loads[policy.pick(0).endpoint.name] == min(loads.values())


def test_least_in_flight_rotates_among_equals():
    """One request at a time finds everybody idle: the ties go round instead of all to the first."""
    assert Counter(names(balancer("least_in_flight", a=1, b=1, c=1), 300)) == {"a": 100, "b": 100, "c": 100}


def test_two_choices_never_takes_the_busier_of_two():
    """Without replacement: with two endpoints the busier one is never chosen (with replacement: every fourth time)."""
    policy = balancer("two_choices", a=1, b=1)
    busy = policy.pick(0).endpoint.name
    picked = [policy.pick(0) for _ in range(1)]
    assert picked[0].endpoint.name != busy
    policy._members[busy].in_flight = 5
    assert busy not in names(policy, 500)


def test_two_choices_flatten_the_tail_that_random_has():
    """Balls in bins: with 1,000 requests on 1,000 endpoints the fullest holds ln n / ln ln n against ln ln n / ln 2."""

    def fullest(rule: str) -> int:
        policy = make_policy(rule, rng=random.Random(11))
        policy.update(View.of(Endpoint(f"e{i:03}", "") for i in range(300)))
        for _ in range(300):
            policy.pick(0)
        return max(line.in_flight for line in policy.statistics())

    assert fullest("two_choices") <= 3 < fullest("random")


def test_rendezvous_shares_by_weight_and_moves_only_the_keys_of_who_leaves():
    """Shares follow weights; a lost endpoint's keys spread over the others, and no other key moves."""
    keys = [f"sku-{i}".encode() for i in range(6_000)]

    def homes(policy: Balancer) -> dict[bytes, str]:
        found = {}
        for key in keys:
            lease = policy.pick(0, key=key)
            lease.done(Outcome.SUCCESS, 0)
            found[key] = lease.endpoint.name
        return found

    policy = balancer("rendezvous", a=100, b=100, c=200, d=200)
    before = homes(policy)
    shares = Counter(before.values())
    assert {name: pytest.approx(share, rel=0.12) for name, share in shares.items()} == {
        "a": 1_000,
        "b": 1_000,
        "c": 2_000,
        "d": 2_000,
    }
    policy.update(view(a=100, b=100, d=200))
    after = homes(policy)
    assert all(after[key] == home for key, home in before.items() if home != "c")
    assert set(Counter(after[key] for key, home in before.items() if home == "c")) == {"a", "b", "d"}


@given(st.lists(st.integers(0, 3), max_size=120), st.sampled_from([100, 125, 150, 200]))
def test_rendezvous_keeps_the_bound_of_loads(hot_keys, bound):
    """No endpoint holds more than ceil(c * L / n) of what is in flight, however hot a key is."""
    policy = balancer(Rendezvous(bound_percent=bound), a=1, b=1, c=1)
    for in_flight, key in enumerate(hot_keys, 1):
        policy.pick(0, key=b"hot-%d" % key)
        assert max(line.in_flight for line in policy.statistics()) <= math.ceil(bound * in_flight / 300)


def test_rendezvous_refuses_a_bound_that_leaves_no_room():
    """Below the average some request would find no endpoint."""
    with pytest.raises(BadArguments, match="at least 100"):
        Rendezvous(bound_percent=99)


@pytest.mark.parametrize("weight", [-1, 1_000_001])
def test_endpoints_and_views_are_valid_from_birth(weight):
    """A weight out of bounds, an empty name, or a name twice never becomes a view."""
    with pytest.raises(BadArguments, match="weight of endpoint a"):
        Endpoint("a", "http://a", weight)
    with pytest.raises(BadArguments, match="needs a name"):
        Endpoint("", "http://a")
    with pytest.raises(BadArguments, match="each name once"):
        View.of([Endpoint("a", "1"), Endpoint("a", "2")])
