"""The nodes of a DistributedSystem: functions of this process, URLs, or the instances of a service; one policy over all.

Knows nothing of locks. Thread-safe, because a DistributedSystem is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from synod.balance import Endpoint, Lease, LoadReport, Outcome, View
from synod.base import BadArguments, UserError

from ._router import PolicyChoice, make_balancer, now_micros

Handler = Callable[[Any], Any]
NodeChoice = str | Iterable[Handler | str]

URL_SCHEMES = ("http://", "https://")


class Nodes:
    """What a request can be sent to.

    Args:
        nodes: handlers and URLs, or the name of a registered service, or one URL.
        policy: a name of `synod.balance.POLICY_NAMES`, or a function that makes a rule.

    Attributes:
        service: the name to discover, or None when the nodes were listed.

    Raises:
        UserError: there are no nodes, or one of them is none; or there is no such policy.
    """

    def __init__(self, nodes: NodeChoice, policy: PolicyChoice, *, seed: int | None = None) -> None:
        self._mutex = threading.Lock()
        self._balancer = make_balancer(policy, seed=seed)
        self._handlers: dict[str, Handler] = {}
        self.service: str | None = None
        if isinstance(nodes, str) and not nodes.startswith(URL_SCHEMES):
            self.service = nodes
            return
        listed = [nodes] if isinstance(nodes, str) else list(nodes)
        if not listed:
            raise UserError("a system needs at least one node: a function, a URL, or the name of a service")
        digits = len(str(len(listed)))  # names sort as the nodes were given
        self.take_view(View.of(self._listed(f"{i:0{digits}}", node) for i, node in enumerate(listed)))

    def _listed(self, name: str, node: Handler | str) -> Endpoint:
        if callable(node):
            self._handlers[name] = node
            return Endpoint(name, getattr(node, "__name__", repr(node)))
        if isinstance(node, str) and node.startswith(URL_SCHEMES):
            return Endpoint(name, node)
        raise UserError(f"{node!r} is no node: give a function that takes a request, or a URL with http:// or https://")

    def take_view(self, view: View) -> None:
        """These are the nodes from now on."""
        with self._mutex:
            self._balancer.update(view, now_micros())

    def pick(self, key: bytes, tried: set[str]) -> Lease:
        """Choose a node that is not in `tried`, and add it there.

        Raises:
            NoEndpoint: there is none (left).
        """
        with self._mutex:
            lease = self._balancer.pick(now_micros(), key, tried)
        tried.add(lease.endpoint.name)
        return lease

    def done(self, lease: Lease, outcome: Outcome, began: int, report: LoadReport | None = None) -> None:
        """A request is over."""
        now = now_micros()
        with self._mutex:
            lease.done(outcome, now, now - began, report)

    def handler(self, lease: Lease) -> Handler | None:
        """The function that was picked, or None when it is an address."""
        return self._handlers.get(lease.endpoint.name)

    def node(self, lease: Lease) -> Handler | str:
        """The node that was picked, as it was given: the function or the address."""
        return self._handlers.get(lease.endpoint.name) or lease.endpoint.address


def check_request(request: Any) -> tuple[bool, str | bytes]:  # noqa: ANN401 - any object with these attributes
    """Whether a request writes, and its key.

    Raises:
        ValueError: the type is neither "write" nor "read".
        BadArguments: the key is neither str nor bytes.
    """
    kind = getattr(request, "type", None)
    if kind not in ("write", "read"):
        raise ValueError(f'a request\'s type is "write" or "read", not {kind!r}; nothing was done')
    key = getattr(request, "key", None)
    if not isinstance(key, str | bytes):
        raise BadArguments(f"a request's key is a str or bytes, not {type(key).__name__}; nothing was done")
    return kind == "write", key
