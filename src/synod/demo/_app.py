"""The inventory ledger: a small real HTTP service, built with the framework.

    PUT /items/{sku}   {"id": "r-1", "op": "restock" | "reserve", "quantity": 3}
    GET /items/{sku}

What makes it a distributed service is in `make_app`: two wrappers, and a token that goes to the store.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Scope

from synod.client import Cell
from synod.recipes import StaleToken
from synod.service import KeyedRequests, LoadReports

from ._ledger import IdTaken, Ledger
from ._stream import parse_change

SERVICE: Final = "inventory"
ITEMS: Final = "/items/"

Pause = Callable[[str, int], Awaitable[None]]
"""Called under the lock, before the store is asked; for tests that play a holder which was paused there."""


def sku_of(scope: Scope) -> str | None:
    """The key of a request: its item."""
    path = str(scope["path"])
    return path.removeprefix(ITEMS) or None if path.startswith(ITEMS) else None


def make_app(cell: Cell, ledger: Ledger, instance: str, *, pause: Pause | None = None) -> LoadReports:
    """The service: every PUT runs under the fenced lock on its item, every answer reports the load."""

    async def read(request: Request) -> JSONResponse:
        sku = request.path_params["sku"]
        stock, version = ledger.read(sku)
        return JSONResponse({"sku": sku, "stock": stock, "version": version, "instance": instance})

    async def write(request: Request) -> JSONResponse:
        sku = request.path_params["sku"]
        try:
            change = json.loads(await request.body())
            id_ = str(change.get("id") or uuid.uuid4())
            op, quantity = parse_change(change)
        except (ValueError, AttributeError) as broken:
            return JSONResponse({"error": f"the write is broken: {broken}; nothing was changed"}, status_code=400)
        token = request.state.fencing_token
        if pause is not None:
            await pause(sku, token)
        try:
            applied = ledger.apply(id_, sku, op, quantity, token)
        except (StaleToken, IdTaken) as refused:
            status = 409 if isinstance(refused, IdTaken) else 503  # the lock was lost: send it again
            return JSONResponse({"error": str(refused), "instance": instance}, status_code=status)
        return JSONResponse(
            {
                "id": id_,
                "sku": sku,
                "accepted": applied.accepted,
                "stock": applied.stock,
                "version": applied.version,
                "token": applied.token,
                "replayed": applied.replayed,
                "instance": instance,
            }
        )

    routes = [
        Route("/items/{sku:path}", read, methods=["GET"]),
        Route("/items/{sku:path}", write, methods=["PUT"]),
    ]
    return LoadReports(KeyedRequests(Starlette(routes=routes), cell, key=sku_of, namespace=SERVICE))
