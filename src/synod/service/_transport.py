"""An HTTP client transport that finds instances by the service's name, for httpx2 and for httpx.

    transport = synod.Transport(cell)
    async with httpx2.AsyncClient(mounts={"synod://": transport}) as client:
        answer = await client.get("synod://orders/42")

The two libraries have the same interface but types of their own, so the transport is told which one it serves.
Read `Transport.handle_async_request`, then `_attempt`.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from functools import cache
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from synod.balance import Balancer, Lease, NoEndpoint, Outcome
from synod.base import UserError
from synod.client import Cell

from ._asgi import SAFE_METHODS
from ._load import LOAD_HEADER, parse_report
from ._router import PolicyChoice, Router, now_micros

if TYPE_CHECKING:
    from httpx2 import AsyncBaseTransport as _Base
else:
    _Base = object  # both libraries take any object with these methods

EXTENSION: Final = "synod"
"""On a request: `extensions={"synod": {"key": b"...", "read": True}}`. On a response: who answered."""

ATTEMPTS_MAX: Final = 3
"""Of a read that may have reached an instance [SRE book, chapter 22: three attempts]; who refuses costs none."""


class Transport(_Base):
    """Sends each request to an instance that its policy picks.

    A request is tried elsewhere only when it cannot have been applied: the connection was refused, or it reads
    (a safe method, or `extensions={"synod": {"read": True}}`). In flight ends when the response's stream is
    closed. The response's `extensions["synod"]` names the `endpoint`, its `address`, the `reason` of the pick, and
    the number of `attempts`.

    Errors are those of the HTTP library: ConnectError when nothing was sent.

    Args:
        cell: a started client, for discovery.
        service: where all requests go; None takes the host of the URL as the service's name.
        policy: a name of `synod.balance.POLICY_NAMES`, or a function that makes a rule.
        http: the module to serve, `httpx2` or `httpx`; None takes the one that is installed, httpx2 first.
        inner: the transport that does the sending, one of `http`'s; it is closed with this one.
        seed: of the policy's chance.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        service: str | None = None,
        policy: PolicyChoice = "round_robin",
        http: ModuleType | None = None,
        inner: Any = None,  # noqa: ANN401 - of either library
        seed: int | None = None,
    ) -> None:
        self._http: Any = http or http_module()
        self._service = service
        self._router = Router(cell, policy, seed=seed)
        self._inner = self._http.AsyncHTTPTransport() if inner is None else inner
        self._origins: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection, and follow no service any more."""
        await self._router.close()
        await self._inner.aclose()

    async def balancer(self, service: str) -> Balancer:
        """The policy of a service, to look at its statistics."""
        return self._router.known(service) or await self._router.balancer(service)

    async def handle_async_request(self, request: Any) -> Any:  # noqa: ANN401 - of either library
        """Pick, send, and if that cannot have been applied, pick again."""
        service = self._service or request.url.host
        balancer = self._router.known(service) or await self._router.balancer(service)
        wishes = request.extensions.get(EXTENSION) or {}
        is_read = wishes.get("read", request.method in SAFE_METHODS)
        is_repeatable = isinstance(request.stream, self._http.ByteStream)
        tried: set[str] = set()
        reached = 0
        failure: Exception | None = None
        while True:
            try:
                lease = balancer.pick(now_micros(), wishes.get("key"), tried)
            except NoEndpoint as none:
                if failure is not None:
                    raise failure from none
                raise self._http.ConnectError(f"{service}: {none}", request=request) from none
            tried.add(lease.endpoint.name)
            try:
                return await self._attempt(request, lease, attempts=len(tried))
            except (self._http.ConnectError, self._http.ConnectTimeout) as refused:
                failure = refused
            except self._http.TransportError as broken:
                reached += 1
                if not (is_read and is_repeatable) or reached >= ATTEMPTS_MAX:
                    raise
                failure = broken

    async def _attempt(self, request: Any, lease: Lease, *, attempts: int) -> Any:  # noqa: ANN401 - of either library
        began = now_micros()
        outcome = Outcome.CANCELLED
        try:
            response = await self._inner.handle_async_request(self._addressed(request, lease.endpoint.address))
        except BaseException as failure:
            outcome = self._outcome(failure)
            lease.done(outcome, now_micros())
            raise
        now = now_micros()
        outcome = Outcome.ERROR if response.status_code >= 500 else Outcome.SUCCESS
        lease.heard(outcome, now, now - began, parse_report(response.headers.get(LOAD_HEADER)))
        if response.is_closed:  # some inner transports hand out bodies that they have read
            lease.done(outcome, now)
        else:
            response.stream = _stream_class(self._http)(response.stream, lease, self._outcome)
        response.extensions[EXTENSION] = {
            "endpoint": lease.endpoint.name,
            "address": lease.endpoint.address,
            "reason": lease.reason,
            "attempts": attempts,
        }
        return response

    def _addressed(self, request: Any, address: str) -> Any:  # noqa: ANN401 - of either library
        """The request with the instance's address in its URL; the Host header stays what the caller asked for."""
        origin = self._origins.get(address)
        if origin is None:
            origin = self._origins[address] = self._http.URL(address)
        url = request.url.copy_with(scheme=origin.scheme, host=origin.host, port=origin.port)
        return self._http.Request(
            request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
        )

    def _outcome(self, failure: BaseException) -> Outcome:
        """What a failure says about the instance."""
        http = self._http
        if isinstance(failure, http.ConnectTimeout | http.ReadTimeout | http.WriteTimeout):
            return Outcome.TIMEOUT
        if isinstance(failure, http.ConnectError):
            return Outcome.REFUSED
        if isinstance(failure, http.NetworkError | http.RemoteProtocolError):
            return Outcome.BROKEN
        return Outcome.CANCELLED  # the caller's cancellation, a full pool, a malformed request


@cache
def _stream_class(http: ModuleType) -> Any:  # noqa: ANN401 - a class made for either library
    base: Any = http.AsyncByteStream

    class LeasedStream(base):  # type: ignore[misc]  # the base is a value
        """A response's body; its end is the end of the lease."""

        def __init__(self, inner: Any, lease: Lease, outcome_of: Any) -> None:  # noqa: ANN401 - of either library
            self._inner = inner
            self._lease = lease
            self._outcome_of = outcome_of

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for part in self._inner:
                    yield part
            except Exception as failure:
                self._lease.done(self._outcome_of(failure), now_micros())
                raise

        async def aclose(self) -> None:
            try:
                await self._inner.aclose()
            finally:
                self._lease.done(Outcome.SUCCESS, now_micros())

    return LeasedStream


def http_module() -> ModuleType:
    """The HTTP client library that is installed.

    Raises:
        UserError: neither is.
    """
    for name in ("httpx2", "httpx"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise UserError("talking to instances over HTTP needs an HTTP client: install synod[http]")
