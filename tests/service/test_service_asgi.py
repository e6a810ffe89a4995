"""The middleware: a write runs under the fenced lock on its key, cluster-wide; a read passes through."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx2
import pytest
from service_world import client_of
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from client.client_systems import wait_until
from synod.client import connect
from synod.recipes import Lock
from synod.service import LOAD_HEADER, TOKEN_HEADER, KeyedRequests, LoadReports, lock_path


class Shelf:
    """An application that shows whether two writes of one key ever overlap."""

    def __init__(self) -> None:
        self.inside: dict[str, int] = {}
        self.overlaps = 0
        self.tokens: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def endpoint(self, request: Request) -> JSONResponse:
        sku = request.path_params["sku"]
        self.inside[sku] = self.inside.get(sku, 0) + 1
        self.overlaps += self.inside[sku] > 1
        await self.gate.wait()
        self.inside[sku] -= 1
        token = getattr(request.state, "fencing_token", None)
        if token is not None:
            self.tokens.append(token)
            assert request.scope["synod"] == {"key": sku, "fencing_token": token}
        return JSONResponse({"token": token})

    def app(self):
        return Starlette(routes=[Route("/items/{sku}", self.endpoint, methods=["GET", "PUT"])])


def sku_of(scope) -> str | None:
    return scope["path"].removeprefix("/items/") if scope["path"].startswith("/items/") else None


def keyed(shelf: Shelf, cell, namespace: str, **options) -> KeyedRequests:
    return KeyedRequests(shelf.app(), cell, key=sku_of, namespace=namespace, **options)


def client(app) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://shelf")


async def test_writes_of_a_key_exclude_each_other_across_instances_and_tokens_rise(hosts, unique):
    """Two instances, each with a client of its own: 24 writes of one key never overlap, and their tokens only rise."""
    shelf = Shelf()
    async with (
        client_of(hosts) as one,
        client_of(hosts) as two,
        client(keyed(shelf, one, unique, lock_timeout=60)) as a,
        client(keyed(shelf, two, unique, lock_timeout=60)) as b,
    ):
        answers = await asyncio.gather(*((a, b)[i % 2].put("/items/x") for i in range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert shelf.overlaps == 0
    assert len(shelf.tokens) == 24
    assert shelf.tokens == sorted(set(shelf.tokens))
    assert sorted(int(answer.headers[TOKEN_HEADER]) for answer in answers) == shelf.tokens


async def test_reads_and_other_keys_are_not_held_up(cell, unique):
    """While a write of x runs, reads of x and writes of y go through; reads have no token."""
    shelf = Shelf()
    async with client(keyed(shelf, cell, unique)) as http:
        shelf.gate.clear()
        writing = asyncio.ensure_future(http.put("/items/x"))
        await wait_until(lambda: shelf.inside.get("x"), "the write")
        reading = asyncio.ensure_future(http.get("/items/x"))
        other = asyncio.ensure_future(http.put("/items/y"))
        await wait_until(lambda: shelf.inside.get("y") and shelf.inside["x"] == 2, "the read and the other write")
        shelf.gate.set()
        assert (await reading).json() == {"token": None}
        assert TOKEN_HEADER not in (await reading).headers
        assert (await writing).json()["token"] < (await other).json()["token"] or (await other).status_code == 200


async def test_a_lock_not_got_in_time_is_423_and_the_application_is_not_called(cell, unique):
    """No 5xx: it is not the instance's fault, and must not count against its health."""
    shelf = Shelf()
    holder = Lock(cell, lock_path("x", unique))
    assert await holder.acquire(timeout=5)
    async with client(keyed(shelf, cell, unique, lock_timeout=0.05)) as http:
        answer = await http.put("/items/x")
        assert (answer.status_code, answer.headers["retry-after"]) == (423, "1")
        assert "not applied" in answer.text
        assert shelf.inside == {}
        await holder.release()
    async with client(keyed(shelf, cell, unique)) as http:  # a free lock may take longer than that to get, too
        assert (await http.put("/items/x")).status_code == 200


async def test_a_cell_that_cannot_be_reached_is_503_and_the_application_is_not_called(unique):
    """The client was never started, as after a cell that is gone: an error in bounded time, nothing half-done."""
    shelf = Shelf()
    async with client(keyed(shelf, connect("127.0.0.1:1"), unique)) as http:
        answer = await http.put("/items/x")
    assert answer.status_code == 503
    assert "not applied" in answer.text
    assert shelf.inside == {}


async def test_the_lock_is_given_back_when_the_application_raises(cell, unique):
    """An error of the handler must not keep the key locked until the session ends."""

    async def broken(scope, receive, send):
        raise RuntimeError("the handler's own")

    app = KeyedRequests(broken, cell, key=sku_of, namespace=unique)
    async with client(app) as http:
        with pytest.raises(RuntimeError, match="the handler's own"):
            await http.put("/items/x")
    assert await cell.children(lock_path("x", unique)) == []


async def test_what_writes_can_be_declared(cell, unique):
    """A rule instead of the method; and no key means no lock."""
    shelf = Shelf()
    app = KeyedRequests(
        shelf.app(), cell, key=sku_of, namespace=unique, writes=lambda scope: b"x" in scope["query_string"]
    )
    async with client(app) as http:
        assert (await http.get("/items/a?x=1")).json()["token"] > 0
        assert (await http.put("/items/a")).json() == {"token": None}
        assert (await http.put("/elsewhere?x=1")).status_code == 404


async def test_every_answer_carries_the_load(monkeypatch):
    """The report is there after a full window; streams and errors count; what is in flight ends at zero."""
    now = 0
    # The clocks of this module alone: other threads of the process go by the real ones.
    clocks = SimpleNamespace(monotonic_ns=lambda: now * 1_000, process_time_ns=lambda: now * 250)
    monkeypatch.setattr("synod.service._asgi.time", clocks)
    shelf = Shelf()
    app = LoadReports(shelf.app())
    async with client(app) as http:
        assert LOAD_HEADER not in (await http.get("/items/a")).headers
        now = 2_000_000
        header = (await http.get("/items/a")).headers[LOAD_HEADER]
        assert header == "TEXT cpu_utilization=0.2500, rps_fractional=0.50, eps=0.00"
        assert app.meter.in_flight == 0
        shelf.gate.clear()
        waiting = asyncio.ensure_future(http.get("/items/a"))
        await wait_until(lambda: app.meter.in_flight == 1, "the request in flight")
        shelf.gate.set()
        await waiting
    assert app.meter.in_flight == 0
