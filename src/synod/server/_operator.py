"""What an operator may ask of a replica: `POST /operator/ACTION` with a JSON object, answered by a JSON object.

Beside the routes that only watch, because it changes something: so a request must say that it is JSON and name this
replica by an address or as localhost, which no web page can make a browser do without asking first.

An action that is refused answers 409 with `{"error": sentence}`, one that cannot be done now 503, a mistake 400.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from synod.base import (
    MILLISECOND,
    REPLICA_ID_MAX,
    Change,
    ConfigError,
    Configuration,
    NotApplied,
    OutcomeUnknown,
    SynodError,
    UserError,
)

from ._backup import backup
from ._config import checked_address, joining_config

if TYPE_CHECKING:
    from ._host import Host

Document = dict[str, Any]
Action = Callable[[Document], Awaitable[Document]]

LOOK_S: Final = 0.005

CHANGE_TIMEOUTS: Final = 16
"""Election timeouts that a change of the members may take: what was proposed before it comes first."""

BODY_BYTES_MAX: Final = 64 * 1024


class Refused(SynodError):
    """The cell, as it is, does not allow it. Definite: nothing was changed."""


def operator_routes(host: Host) -> list[Route]:
    """The actions of one replica."""
    operator = Operator(host)
    return [
        _route("transfer-leader", operator.transfer_leader),
        _route("member-list", operator.member_list),
        _route("member-add", operator.member_add),
        _route("member-promote", operator.member_promote),
        _route("member-remove", operator.member_remove),
        _route("member-replace", operator.member_replace),
        _backup_route(host),
    ]


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

    # -- members -------------------------------------------------------------------------------------------
    # Whoever does not lead answers `{"from": id, "leader": id}` to a wish for other members: ask that one.

    async def member_list(self, _: Document) -> Document:
        """Who the members are, as this replica knows; their lag and silence as the leader does."""
        return self._members()

    async def member_add(self, asked: Document) -> Document:
        """A new learner or observer: `id`, `address`, `role`, and where it will serve: `client`, `http`.

        The answer holds its config, besides the members.
        """
        id_, address = _id(asked), checked_address(str(asked.get("address", "")), "address")
        client, http = (checked_address(str(asked.get(key, "")), key) for key in ("client", "http"))
        role = asked.get("role", "learner")
        if role not in ("learner", "observer"):
            raise UserError(f"a replica is added as a learner or as an observer, not as {role!r}")
        after = await self._change(lambda now: now.added(id_, address, role))
        return self._joins(after, id_, client, http) if isinstance(after, Configuration) else after

    async def member_promote(self, asked: Document) -> Document:
        """A learner that has caught up votes from now on: `id`."""
        id_ = _id(asked)
        after = await self._change(lambda now: now.promoted(id_, self._host.replica.disk_of(id_) or 0))
        return self._members() if isinstance(after, Configuration) else after

    async def member_remove(self, asked: Document) -> Document:
        """A member leaves: `id`. A leader hands over instead, and says to whom: ask that one."""
        id_ = _id(asked)
        if self._leads(id_):
            self._may_go(lambda now: now.removed(id_))
            return await self.transfer_leader({})
        after = await self._change(lambda now: now.removed(id_))
        return self._members() if isinstance(after, Configuration) else after

    async def member_replace(self, asked: Document) -> Document:
        """A member begins anew on an empty disk, as a later incarnation: `id`, and perhaps another `address`.

        In its config `client` and `http` are left to be filled in where they are not given.
        """
        id_ = _id(asked)
        client, http = (checked_address(str(asked[key]), key) if key in asked else None for key in ("client", "http"))
        given = checked_address(str(asked["address"]), "address") if asked.get("address") else None

        def replaced(now: Configuration) -> Configuration:
            member = now.member(id_)
            return now.replaced(id_, given or ("" if member is None else member.address))

        if self._leads(id_):
            self._may_go(replaced)
            return await self.transfer_leader({})
        after = await self._change(replaced)
        return self._joins(after, id_, client, http) if isinstance(after, Configuration) else after

    def _leads(self, id_: int) -> bool:
        return self._host.replica.id == id_ and self._host.replica.paxos.role == "leader"

    def _may_go(self, wish: Callable[[Configuration], Configuration]) -> None:
        """Say no before the hand-over, not after it."""
        replica = self._host.replica
        try:
            after = wish(replica.configuration)
        except ConfigError as wrong:
            raise Refused(str(wrong)) from wrong
        reason = replica.no_quorum(after)
        if reason is not None:
            raise Refused(reason)

    async def _change(self, wish: Callable[[Configuration], Configuration]) -> Configuration | Document:
        """Have the members changed; gives those that are, or says who leads: nothing was changed, ask that one.

        Raises:
            Refused: it cannot be; nothing was changed.
            OutcomeUnknown: it may or may not come.
        """
        host, replica = self._host, self._host.replica
        await self.wait(lambda: replica.paxos.serving or replica.paxos.role == "follower", "a leader that serves")
        if not replica.paxos.serving:
            return {"from": replica.id, "leader": replica.paxos.leader}
        before = replica.configuration
        try:
            after = wish(before)
            change = Change(after, before.digest(), secrets.token_bytes(16))
            host.change_members(change)
        except ConfigError as wrong:
            raise Refused(str(wrong)) from wrong
        await self.wait(lambda: replica.fate_of(change) != "open", "a quorum for the change", timeouts=CHANGE_TIMEOUTS)
        fate = replica.fate_of(change)
        if fate == "made":
            return after
        if fate == "void" and replica.configuration == before:
            await self.wait(lambda: replica.paxos.leader is not None, "the leader that took over")
            return {"from": replica.id, "leader": replica.paxos.leader}
        if fate == "void":
            raise Refused("the members were changed otherwise meanwhile; look at `synod member list`, and ask again")
        raise OutcomeUnknown("this replica fell behind meanwhile: `synod member list` shows whether it was done")

    def _members(self) -> Document:
        replica = self._host.replica
        status = {peer["id"]: peer for peer in replica.peers()}
        return {
            "generation": replica.configuration.generation,
            "leader": replica.paxos.leader,
            "election_timeout_ms": self._host.config.election_timeout_ms,
            "members": [
                {
                    "id": m.id,
                    "role": m.role,
                    "incarnation": m.incarnation,
                    "address": m.address,
                    "connected": m.id == replica.id or bool(status[m.id]["connected"]),
                    "lag": 0 if m.id == replica.paxos.leader else status.get(m.id, {}).get("lag"),
                    "silent_ms": status.get(m.id, {}).get("silent_ms"),
                }
                for m in replica.configuration.members
            ],
        }

    def _joins(self, after: Configuration, id_: int, client: str | None, http: str | None) -> Document:
        member = after.member(id_)
        assert member is not None
        config = joining_config(member, self._host.replica.first, after, self._host.config, client=client, http=http)
        return {**self._members(), "id": id_, "incarnation": member.incarnation, "config": config}

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


def _id(asked: Document) -> int:
    id_ = asked.get("id")
    if not isinstance(id_, int) or isinstance(id_, bool) or not 1 <= id_ <= REPLICA_ID_MAX:
        raise UserError(f"an id is a whole number from 1 to {REPLICA_ID_MAX}, not {id_!r}")
    return id_


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
