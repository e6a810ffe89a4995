"""The policy of each service that a client talks to, fed by discovery; shared by the transport and DistributedSystem."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from synod.balance import Balancer, Rule, View, make_policy
from synod.base import Micros
from synod.client import Cell

from ._discovery import Discovery

PolicyChoice = str | Callable[[], Rule]
"""A policy's name, or a function that makes a fresh rule (a rule belongs to one service)."""


def now_micros() -> Micros:
    """The clock of balancing: monotonic."""
    return time.monotonic_ns() // 1_000


def make_balancer(policy: PolicyChoice, *, seed: int | None = None) -> Balancer:
    """A balancer with chance of its own.

    Raises:
        UserError: there is no policy of that name.
    """
    return make_policy(policy if isinstance(policy, str) else policy(), rng=random.Random(seed))


class Router:
    """One balancer per service name, made when the service is first asked for."""

    def __init__(self, cell: Cell, policy: PolicyChoice, *, seed: int | None = None) -> None:
        make_balancer(policy)  # a wrong name is to be told now, not at the first request
        self._cell = cell
        self._policy = policy
        self._seed = seed
        self._balancers: dict[str, Balancer] = {}
        self._discoveries: dict[str, Discovery] = {}
        self._starting = asyncio.Lock()

    def known(self, service: str) -> Balancer | None:
        """The balancer of a service that was asked for before."""
        return self._balancers.get(service)

    async def balancer(self, service: str) -> Balancer:
        """The balancer of a service, with its first view.

        Raises:
            UserError: that is no name for a service.
        """
        async with self._starting:
            found = self._balancers.get(service)
            if found is not None:
                return found
            balancer = make_balancer(self._policy, seed=self._seed)

            def on_view(view: View) -> None:
                balancer.update(view, now_micros())

            discovery = Discovery(self._cell, service, on_view)
            await discovery.start()
            self._discoveries[service] = discovery
            self._balancers[service] = balancer
            return balancer

    async def close(self) -> None:
        """Follow no service any more."""
        discoveries, self._discoveries = self._discoveries, {}
        self._balancers = {}
        for discovery in discoveries.values():
            await discovery.close()
