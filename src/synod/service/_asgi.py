"""ASGI middleware: a request that writes runs under the fenced lock on its key; every answer carries the load.

Pure ASGI, so that bodies stream through untouched. Read `KeyedRequests.__call__`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from synod.base import SynodError
from synod.client import Cell
from synod.recipes import Lock

from ._keys import lock_path
from ._load import LOAD_HEADER, LoadMeter, format_report

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN_HEADER: Final = "synod-fencing-token"  # noqa: S105 - a name, and no secret
LOCK_TIMEOUT_S: Final = 10.0  # as DistributedSystem's
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 s9.2.1

LOCKED: Final = 423
"""Somebody else holds the key: not this instance's fault, so no 5xx, which would count against its health."""
UNAVAILABLE: Final = 503


def writes_by_method(scope: Scope) -> bool:
    """Whether the request's method may change something."""
    return scope["method"] not in SAFE_METHODS


class KeyedRequests:
    """Runs each request that writes under the cluster-wide fenced lock on its key; reads pass through.

    The application finds `{"key": ..., "fencing_token": ...}` as `scope["synod"]`, and the token alone as
    `request.state.fencing_token` in Starlette and FastAPI. It must hand the token to whatever it writes to, and
    that must refuse a token lower than the highest it has seen: the lock alone cannot stop a holder that was
    paused. If the lock is lost while the application runs, it runs on, fenced.

    Answers 423 with Retry-After when the lock was not got in time, 503 when the cell could not be reached; in
    both cases the application was not called. Answers to writes carry `synod-fencing-token`.

    Args:
        app: the application.
        cell: a client, started before the first request (in the lifespan, for example).
        key: what a request is about, from its scope; None lets a write pass without a lock.
        writes: which requests write; by default those of another method than GET, HEAD, OPTIONS, TRACE.
        namespace: of the keys; the name of the service is a good one. It must not be that of a DistributedSystem
            that sends requests here and holds the same key's lock already: they would wait for each other.
        lock_timeout: seconds to wait for a lock.
    """

    def __init__(
        self,
        app: App,
        cell: Cell,
        *,
        key: Callable[[Scope], str | bytes | None],
        writes: Callable[[Scope], bool] = writes_by_method,
        namespace: str,
        lock_timeout: float = LOCK_TIMEOUT_S,
    ) -> None:
        self._app = app
        self._cell = cell
        self._key = key
        self._writes = writes
        self._namespace = namespace
        self._lock_timeout = lock_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lock, or pass through."""
        key = self._key(scope) if scope["type"] == "http" and self._writes(scope) else None
        if key is None:
            await self._app(scope, receive, send)
            return
        lock = Lock(self._cell, lock_path(key, self._namespace))
        try:
            got = await lock.acquire(timeout=self._lock_timeout)
        except SynodError as failure:
            await _refuse(send, UNAVAILABLE, f"the lock on the key could not be asked for: {failure}")
            return
        if not got:
            await _refuse(send, LOCKED, f"the lock on the key was not got within {self._lock_timeout:g} s")
            return
        try:
            await self._run(lock.fencing_token, key, scope, receive, send)
        finally:
            await lock.release()

    async def _run(self, token: int, key: str | bytes, scope: Scope, receive: Receive, send: Send) -> None:
        header = (TOKEN_HEADER.encode(), str(token).encode())

        async def send_with_token(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        scope = dict(scope)
        scope["synod"] = {"key": key, "fencing_token": token}
        scope["state"] = {**scope.get("state", {}), "fencing_token": token}
        await self._app(scope, receive, send_with_token)


class LoadReports:
    """Counts requests in flight and adds the load report to every answer.

    Args:
        app: the application; put this outermost, so that waiting for a lock counts as in flight.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.meter = LoadMeter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count, and report."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        meter = self.meter
        status = 500  # of an application that raises before it answers

        async def send_with_report(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                report = meter.report(time.monotonic_ns() // 1_000, time.process_time_ns() // 1_000)
                if report is not None:
                    header = (LOAD_HEADER.encode(), format_report(report).encode())
                    message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        meter.started()
        try:
            await self._app(scope, receive, send_with_report)
        finally:
            meter.ended(is_error=status >= 500)


async def _refuse(send: Send, status: int, why: str) -> None:
    body = f"{why}; the request was not applied\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
