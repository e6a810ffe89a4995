"""What an operator asks of a cell: which replica is to be asked, and how its answer becomes an exit code."""

from __future__ import annotations

import asyncio
import http.client
import json
from dataclasses import dataclass
from typing import Any

from synod.base import NotApplied, OutcomeUnknown, UserError
from synod.client import Unavailable, parse_hosts

from ._status import ask


class RefusedByCell(NotApplied):
    """The cell, as it is, does not allow it. Definite: nothing was changed."""

    code = -9_000  # no code of the protocol: anything but -1, which says that nobody was reached


@dataclass(frozen=True, slots=True)
class Found:
    """A replica that answered.

    Args:
        id: of the replica.
        http: `host:port` of its HTTP.
        state: as the word `mntr` says it.
    """

    id: int
    http: str
    state: str

    @property
    def leads(self) -> bool:
        """Whether it leads its cell."""
        return self.state in ("leader", "standalone")


def find_replicas(hosts: str, timeout: float) -> list[Found]:
    """The replicas of a cell that serve.

    Raises:
        Unavailable: none of them does.
    """
    addresses = parse_hosts(hosts)

    async def gather() -> list[str | None]:
        return list(await asyncio.gather(*(ask(host, port, b"mntr", timeout) for host, port in addresses)))

    found = []
    for answer in asyncio.run(gather()):
        values = dict(line.split("\t", 1) for line in (answer or "").splitlines() if "\t" in line)
        if "zk_synod_http" in values:
            found.append(Found(int(values["zk_synod_id"]), values["zk_synod_http"], values["zk_server_state"]))
    if not found:
        raise Unavailable(f"no replica of {hosts} serves; nothing was changed")
    return found


def find_leader(hosts: str, timeout: float) -> Found:
    """The replica that leads.

    Raises:
        Unavailable: none does, or it is not among `hosts`.
    """
    for replica in find_replicas(hosts, timeout):
        if replica.leads:
            return replica
    raise Unavailable(f"the leader is not among {hosts}, or there is none; name all replicas with --cell")


def operate(address: str, action: str, document: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Ask a replica for an action, and wait until it is done.

    Args:
        address: `host:port` of its HTTP.
        action: the name of one of the operator's actions.
        document: what it is told.
        timeout: in seconds.

    Raises:
        UserError: it is a mistake; nothing was changed.
        RefusedByCell: the cell does not allow it; nothing was changed.
        OutcomeUnknown: it may or may not have happened.
    """
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"/operator/{action}", json.dumps(document), headers)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as failure:
        raise OutcomeUnknown(f"the replica at {address} did not answer: {failure}") from failure
    finally:
        connection.close()
    if response.status == 200:
        return answer
    text = str(answer.get("error", f"HTTP status {response.status}"))
    if response.status == 400:
        raise UserError(text)
    if response.status == 409:
        raise RefusedByCell(text)
    raise OutcomeUnknown(text)
