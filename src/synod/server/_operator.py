"""What an operator may ask of a replica: `POST /operator/ACTION` with a JSON object, answered by a JSON object.

Beside the routes that only watch, because it changes something: so a request must say that it is JSON and name this
replica by an address or as localhost, which no web page can make a browser do without asking first.

An action that is refused answers 409 with `{"error": sentence}`, one that cannot be done now 503, a mistake 400.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from synod.base import MILLISECOND, NotApplied, OutcomeUnknown, SynodError, UserError

from ._backup import backup

if TYPE_CHECKING:
    from ._host import Host

Document = dict[str, Any]
Action = Callable[[Document], Awaitable[Document]]

LOOK_S: Final = 0.005
BODY_BYTES_MAX: Final = 64 * 1024


class Refused(SynodError):
    """The cell, as it is, does not allow it. Definite: nothing was changed."""


def operator_routes(host: Host) -> list[Route]:
    """The actions of one replica."""
    operator = Operator(host)
    return [_route("transfer-leader", operator.transfer_leader), _backup_route(host)]


class Operator:
    """The actions; each waits until it is done, and says what has become of it."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def transfer_leader(self, _: Document) -> Document:
        """Let another voter lead; `{"from": id, "leader": id}`.

        Raises:
            Refused: this replica does not lead, or nobody else can.
            OutcomeUnknown: nobody took over in time; this replica may lead on.
        """
        replica = self._host.replica
        paxos = replica.paxos
        if paxos.role != "leader":
            raise Refused(f"replica {replica.id} does not lead; ask replica {paxos.leader}")
        if len(paxos.voters) == 1:
            raise Refused("there is no other voter that could lead")
        self._host.hand_over()
        await self.wait(lambda: paxos.role != "leader" and paxos.leader is not None, "another replica that leads")
        return {"from": replica.id, "leader": paxos.leader}

    async def wait(self, condition: Callable[[], bool], what: str, timeouts: int = 4) -> None:
        """Wait for something that the core shows but does not announce.

        Raises:
            OutcomeUnknown: it did not come within so many election timeouts.
        """
        loop = asyncio.get_running_loop()
        wait_s = timeouts * self._host.config.election_timeout_ms * MILLISECOND / 1_000_000
        until = loop.time() + wait_s
        while not condition():
            if loop.time() >= until:
                raise OutcomeUnknown(f"{what} was waited for {wait_s:g} s in vain; look at `synod status`")
            await asyncio.sleep(LOOK_S)


def _route(name: str, action: Action) -> Route:
    async def answer(request: Request) -> Response:
        return JSONResponse(await action(await _document(request)))

    return _answered(name, answer)


def _backup_route(host: Host) -> Route:
    """The one action whose answer is a file."""

    async def answer(request: Request) -> Response:
        await _document(request)
        return await backup(host, request)

    return _answered("backup", answer)


def _answered(name: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            return await answer(request)
        except UserError as mistake:
            return JSONResponse({"error": str(mistake)}, status_code=400)
        except (Refused, NotApplied) as refused:
            return JSONResponse({"error": str(refused)}, status_code=409)
        except SynodError as failure:
            return JSONResponse({"error": str(failure)}, status_code=503)

    return Route(f"/operator/{name}", endpoint, methods=["POST"])


async def _document(request: Request) -> Document:
    """The request's object.

    Raises:
        UserError: it is not one, or a browser may have been tricked into sending it.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UserError("an operator's request has the content type application/json")
    name = request.url.hostname or ""
    if name != "localhost" and not _is_address(name):
        raise UserError(f"an operator's request names the replica by its address, not as {name!r}")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            raise UserError(f"an operator's request has at most {BODY_BYTES_MAX:,} bytes")
    try:
        document = json.loads(body or b"{}")
    except ValueError as broken:
        raise UserError(f"an operator's request is a JSON object: {broken}") from None
    if not isinstance(document, dict):
        raise UserError("an operator's request is a JSON object")
    return document


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
