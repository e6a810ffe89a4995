"""What the tests of the service room share: a cell to test against, and small instances."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import synod.embedded
from synod.base import SynodError
from synod.client import Cell, connect

PATIENCE_S = 20.0


async def wait_until(condition: Callable[[], object | Awaitable[object]], what: str) -> None:
    """Wait for a condition, not for a time; fails with its name."""
    until = time.monotonic() + PATIENCE_S
    while True:
        holds = condition()
        if isinstance(holds, Awaitable):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < until, f"never came: {what}"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def client_of(hosts: str, **options) -> AsyncIterator[Cell]:
    async with connect(hosts, **options) as cell:
        yield cell


async def expire(cell: Cell) -> None:
    """End the session of a client behind its back, as the cell does with one that was silent for too long."""
    hosts, old = ",".join(f"{host}:{port}" for host, port in cell.hosts), cell.session_id
    until = time.monotonic() + PATIENCE_S
    while cell.session_id == old:  # the victim comes back at once, and may win the session from the thief again
        assert time.monotonic() < until, "the session never ended"
        with contextlib.suppress(SynodError):
            async with connect(hosts, session=cell.session, timeout=1.0):
                pass
        await asyncio.sleep(0)
    await wait_until(lambda: cell.state == "connected", "a new session")


def local_cell() -> synod.embedded.LocalCell:
    return synod.embedded.local()
