"""Sending a request of a DistributedSystem to an instance over HTTP."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any, Final
from urllib.parse import quote_from_bytes

from synod.balance import LoadReport, Outcome
from synod.base import NotApplied, OutcomeUnknown, SynodError

from ._asgi import TOKEN_HEADER
from ._keys import key_bytes
from ._load import LOAD_HEADER, parse_report
from ._transport import http_module

REQUEST_TIMEOUT_S: Final = 10.0  # as long as one waits for a lock
CONNECTIONS_MAX: Final = 100  # httpx's own default


class NodeError(SynodError):
    """An instance answered with an HTTP error. Whether it applied anything, only its application knows.

    Attributes:
        status: the HTTP status.
        value: the answer's body, decoded if it is JSON.
    """

    def __init__(self, message: str, status: int, value: object) -> None:
        super().__init__(message)
        self.status = status
        self.value = value


class NodeUnreachable(NotApplied):
    """A node could not be reached, and has not seen the request.

    A handler may raise it as well: the request is then tried elsewhere.
    """


class NodeLost(OutcomeUnknown):
    """A node was lost while it had the request: a write may or may not have been applied."""

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


class Sender:
    """An HTTP client; made when the first URL is called, so that systems of handlers need none.

    A request goes out with its `method` (PUT for a write, GET for a read), to its `path` ("/" and the quoted key)
    at the node's URL, with its `headers` and its `body` (bytes, or anything that JSON can say), as far as it has
    these attributes, and with the fencing token as `synod-fencing-token`.
    """

    def __init__(self, http: ModuleType | None, timeout: float) -> None:
        self._module = http
        self._timeout = timeout
        self._client: Any = None

    async def send(
        self,
        address: str,
        request: Any,  # noqa: ANN401 - any object with the attributes above
        *,
        is_write: bool,
        token: int | None,
    ) -> tuple[Any, LoadReport | None]:
        """The decoded answer, and the load that came with it.

        Raises:
            NodeUnreachable: no connection; it was not applied.
            NodeLost: no answer; it may have been applied.
            NodeError: the answer is an HTTP error.
        """
        http: Any = self._module or http_module()
        if self._client is None:
            self._client = http.AsyncClient(timeout=self._timeout)
        path = getattr(request, "path", None) or "/" + quote_from_bytes(key_bytes(request.key), safe="")
        headers = dict(getattr(request, "headers", None) or {})
        if token is not None:
            headers[TOKEN_HEADER] = str(token)
        body = getattr(request, "body", None)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("content-type", "application/json")
        method = getattr(request, "method", None) or ("PUT" if is_write else "GET")
        try:
            answer = await self._client.request(method, address.rstrip("/") + path, headers=headers, content=body)
        except (http.ConnectError, http.ConnectTimeout) as failure:
            raise NodeUnreachable(
                f"{address} could not be reached: {failure}; the request was not applied"
            ) from failure
        except http.TransportError as failure:
            outcome = Outcome.TIMEOUT if isinstance(failure, http.TimeoutException) else Outcome.BROKEN
            raise NodeLost(
                f"{address} gave no answer ({failure or type(failure).__name__}): the request may have been applied",
                outcome,
            ) from failure
        value = answer.json() if "json" in answer.headers.get("content-type", "") else answer.content
        if answer.status_code >= 400:
            raise NodeError(f"{address} answered {answer.status_code} to {method} {path}", answer.status_code, value)
        return value, parse_report(answer.headers.get(LOAD_HEADER))

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.aclose()
