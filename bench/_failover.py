"""The gap that clients of the other replicas see when the leader dies, or falls silent.

Writers send on schedule, 200 a second in all, whether or not the last one was answered; each goes on with the
same request until it is acknowledged. The gap is the longest time without any acknowledgement, from just before
the fault on. The clients are synod's own, which speak to ZooKeeper as well; etcd is asked through its gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Final

from synod import SynodError, connect

from .peers import Etcd, Peer

RATE: Final = 200
SETTLED_S: Final = 0.5
"""Writes flow for so long before the fault."""
PATH: Final = "/bench-failover"
RETRY_S: Final = 0.005
GIVE_UP_S: Final = 60.0
WATCHED_S: Final = 3.0  # a silent leader is missed only after a while
FLOWS_AGAIN: Final = 100  # acknowledgements in a row, half a second of them: it is over

Write = Callable[[], Awaitable[None]]


async def gap_s(system: Peer, fault: Callable[[int], None]) -> float:
    """The gap in seconds that `fault`, given the leader's number, tears.

    Raises:
        RuntimeError: there is no leader, or nothing is acknowledged for a minute.
    """
    leader = system.leader()
    if leader is None:
        raise RuntimeError(f"{system.name} has no leader")
    acknowledged: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        others = [number for number in range(system.replicas) if number != leader]
        writes = [await stack.enter_async_context(writer(system, number)) for number in others]
        loads = [asyncio.ensure_future(_load(write, RATE / len(writes), acknowledged)) for write in writes]
        try:
            await asyncio.sleep(SETTLED_S)
            began = time.monotonic()
            await asyncio.to_thread(fault, leader)
            return await _watch(acknowledged, began)
        finally:
            for load in loads:
                load.cancel()
            await asyncio.gather(*loads, return_exceptions=True)


async def _watch(acknowledged: list[float], began: float) -> float:
    """Wait until writes have flowed for a while after the widest gap; its width."""
    while time.monotonic() - began < GIVE_UP_S:
        await asyncio.sleep(0.05)
        recent = [at for at in acknowledged if at >= began]
        gaps = [later - earlier for earlier, later in pairwise([began, *recent])]
        if not gaps or time.monotonic() - began < WATCHED_S:
            continue
        widest = max(gaps)
        if len(gaps) - gaps.index(widest) > FLOWS_AGAIN:
            return widest
    raise RuntimeError(f"nothing is acknowledged {GIVE_UP_S:g} s after the fault")


async def _load(write: Write, rate: float, acknowledged: list[float]) -> None:
    """Start a write at every beat; one that fails is tried again until it is acknowledged."""

    async def one() -> None:
        while True:
            try:
                await write()
            except (SynodError, OSError, RuntimeError):
                await asyncio.sleep(RETRY_S)
            else:
                acknowledged.append(time.monotonic())
                return

    async with asyncio.TaskGroup() as group:
        beat = asyncio.get_running_loop().time()
        while True:
            group.create_task(one())
            beat += 1 / rate
            await asyncio.sleep(beat - asyncio.get_running_loop().time())


@contextlib.asynccontextmanager
async def writer(system: Peer, number: int) -> AsyncIterator[Write]:
    """How one writes through one server."""
    if isinstance(system, Etcd):
        async with _etcd_writer(system.ports[number]) as write:
            yield write
        return
    async with connect(f"127.0.0.1:{system.ports[number]}", session_timeout_ms=30_000) as cell:
        with contextlib.suppress(SynodError):
            await cell.create(PATH)

        async def set_() -> None:
            await cell.set(PATH, b"x")

        yield set_


@contextlib.asynccontextmanager
async def _etcd_writer(port: int) -> AsyncIterator[Write]:
    import httpx2

    body = json.dumps({"key": "YmVuY2g=", "value": "eA=="})
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=10.0, trust_env=False, limits=limits) as client:

        async def put() -> None:
            try:
                answer = await client.post(f"http://127.0.0.1:{port}/v3/kv/put", content=body)
            except httpx2.TransportError as failure:
                raise OSError(str(failure)) from failure
            if answer.status_code != 200:
                raise RuntimeError(answer.text)

        yield put
