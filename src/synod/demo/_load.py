"""The load client: so many requests at a time through the framework's own transport, each until it is answered.

A request whose outcome is unknown, or that was refused for the moment, is sent again with its id. Every
attempt and every answer goes to the history.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

from synod.client import Cell
from synod.service import Transport, http_module

from ._app import SERVICE
from ._history import History
from ._stream import Wanted

AT_A_TIME: Final = 32
RETRY_S: Final = 0.05  # between two attempts of one request; kills heal within seconds
GIVE_UP_S: Final = 60.0  # of one request; far beyond any fail-over, so that a broken cell ends the run
CONNECT_S: Final = 1.0  # loopback answers or refuses at once
ANSWER_S: Final = 15.0  # longer than an instance waits for a lock
REPLAY_EVERY: Final = 500
"""Every so many answered writes one is sent again on purpose, as by a client that never saw its answer."""

RETRIED_STATUS: Final = frozenset({423, 500, 502, 503, 504})


class Load:
    """One run of a stream.

    Args:
        cell: a started client, to find the instances.
        history: takes every attempt and answer.
        at_a_time: requests in flight.
        policy: of the balancer.
        progress: called after every finished request with their number.
        seed: of the balancer's chance.
    """

    def __init__(
        self,
        cell: Cell,
        history: History,
        *,
        at_a_time: int = AT_A_TIME,
        policy: str = "round_robin",
        progress: Callable[[int], None] = lambda _done: None,
        seed: int = 0,
    ) -> None:
        self._http: Any = http_module()
        self._history = history
        self._at_a_time = at_a_time
        self._progress = progress
        # The pool looks at every idle connection with each request: as many as can be of use are kept, and no more.
        limits = self._http.Limits(max_connections=None, max_keepalive_connections=at_a_time, keepalive_expiry=30.0)
        inner = self._http.AsyncHTTPTransport(limits=limits)
        self.transport = Transport(cell, policy=policy, http=self._http, inner=inner, seed=seed)
        self.done = 0
        self.unknown = 0
        self.repeats = 0
        self.gave_up = 0
        self._answered_writes = 0

    async def run(self, stream: Sequence[Wanted]) -> None:
        """Send everything; returns when the last request is answered or given up."""
        requests = iter(stream)
        timeout = self._http.Timeout(ANSWER_S, connect=CONNECT_S)
        async with (
            self._http.AsyncClient(mounts={"synod://": self.transport}, timeout=timeout, trust_env=False) as client,
            asyncio.TaskGroup() as workers,
        ):
            for _ in range(self._at_a_time):
                workers.create_task(self._work(client, requests))

    async def _work(self, client: Any, requests: Any) -> None:  # noqa: ANN401 - an httpx2 client, an iterator
        for wanted in requests:  # one iterator for all workers: each takes what comes next
            answered = await self._until_answered(client, wanted)
            if answered and wanted.type == "write":
                self._answered_writes += 1
                if self._answered_writes % REPLAY_EVERY == 0:
                    self.repeats += 1
                    await self._until_answered(client, wanted)
            self.done += 1
            self._progress(self.done)

    async def _until_answered(self, client: Any, wanted: Wanted) -> bool:  # noqa: ANN401 - an httpx2 client
        loop = asyncio.get_running_loop()
        until = loop.time() + GIVE_UP_S
        while not await self._attempt(client, wanted):
            if loop.time() > until:
                self.gave_up += 1
                return False
            await asyncio.sleep(RETRY_S)
        return True

    async def _attempt(self, client: Any, wanted: Wanted) -> bool:  # noqa: ANN401 - an httpx2 client
        url = f"synod://{SERVICE}/items/{quote(wanted.key, safe='')}"
        write = self._history.write
        try:
            if wanted.type == "write":
                write("sent", id=wanted.id, type="write", key=wanted.key, op=wanted.op, quantity=wanted.quantity)
                body = json.dumps({"id": wanted.id, "op": wanted.op, "quantity": wanted.quantity})
                answer = await client.put(url, content=body)
            else:
                write("sent", id=wanted.id, type="read", key=wanted.key)
                answer = await client.get(url)
        except self._http.TransportError as failure:
            is_unknown = not isinstance(failure, self._http.ConnectError | self._http.ConnectTimeout)
            self.unknown += is_unknown
            write("failed", id=wanted.id, why=type(failure).__name__, unknown=is_unknown)
            return False
        if answer.status_code == 200:
            write("answer", **{"id": wanted.id, **answer.json()})
            return True
        write("failed", id=wanted.id, why=f"HTTP {answer.status_code}", unknown=False)
        if answer.status_code in RETRIED_STATUS:
            return False
        raise RuntimeError(f"{url} answered {answer.status_code} to {wanted.id}: {answer.text[:200]}")
