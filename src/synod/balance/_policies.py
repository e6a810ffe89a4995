"""From the name that a user writes to a policy."""

from __future__ import annotations

from typing import Final

from synod.base import Rng, UserError

from ._balancer import Balancer, BalancerOptions
from ._measured import PeakEwma, Weighted
from ._rules import LeastInFlight, Random, Rendezvous, RoundRobin, Rule, TwoChoices, WeightedRoundRobin

_RULES: Final[dict[str, type[Rule]]] = {
    rule.name: rule
    for rule in (
        LeastInFlight,
        PeakEwma,
        Random,
        Rendezvous,
        RoundRobin,
        TwoChoices,
        Weighted,
        WeightedRoundRobin,
    )
}

POLICY_NAMES: Final = tuple(_RULES)
"""The names that `make_policy` knows, sorted."""


def make_rule(name: str) -> Rule:
    """A fresh rule by its name.

    Raises:
        UserError: there is no rule of that name; nothing was made.
    """
    rule = _RULES.get(name)
    if rule is None:
        raise UserError(f"there is no policy {name!r}; the policies are {', '.join(POLICY_NAMES)}")
    return rule()


def make_policy(policy: str | Rule, *, rng: Rng, options: BalancerOptions | None = None) -> Balancer:
    """A policy by the name of its rule, or around a rule of your own.

    Raises:
        UserError: there is no rule of that name; nothing was made.
    """
    return Balancer(make_rule(policy) if isinstance(policy, str) else policy, rng=rng, options=options)
