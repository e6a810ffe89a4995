"""Which endpoint should have the next request: views, policies, health; pure, with time and chance as arguments.

Knows nothing of sockets, HTTP or the cell: the same objects run under a transport, a proxy and the simulator.
Read `Balancer.pick` in `_balancer` first, then one rule in `_rules`, then the health table in `_health`.

Not here yet, and why nothing has to move for it: Prequal brings its own probes, so it is another `Policy`;
Maglev and subsetting are further rules (`update` tells a rule the whole view); zones travel in `Endpoint` and
are not looked at so far; retries and hedging belong to whoever holds the leases.
"""

from __future__ import annotations

from ._balancer import Balancer, BalancerOptions, Lease, Member, MemberStatistics, NoEndpoint, Policy, Reason
from ._health import Health, HealthOptions, HealthState
from ._measured import PeakEwma, Weighted
from ._policies import POLICY_NAMES, make_policy, make_rule
from ._rules import LeastInFlight, Random, Rendezvous, RoundRobin, Rule, TwoChoices, WeightedRoundRobin
from ._view import WEIGHT_DEFAULT, WEIGHT_MAX, Endpoint, LoadReport, Outcome, View

__all__ = [
    "POLICY_NAMES",
    "WEIGHT_DEFAULT",
    "WEIGHT_MAX",
    "Balancer",
    "BalancerOptions",
    "Endpoint",
    "Health",
    "HealthOptions",
    "HealthState",
    "Lease",
    "LeastInFlight",
    "LoadReport",
    "Member",
    "MemberStatistics",
    "NoEndpoint",
    "Outcome",
    "PeakEwma",
    "Policy",
    "Random",
    "Reason",
    "Rendezvous",
    "RoundRobin",
    "Rule",
    "TwoChoices",
    "View",
    "Weighted",
    "WeightedRoundRobin",
    "make_policy",
    "make_rule",
]
