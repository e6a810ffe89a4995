"""The counter: every change counts once, whoever else changes it at the same time."""

from __future__ import annotations

import asyncio

import pytest

from client.client_systems import wait_until
from synod.base import BadArguments, OutcomeUnknown
from synod.recipes import Counter


async def test_no_increment_is_lost(hosts, client, root):
    """Four clients, ten times each: the sum is right, and everybody saw another number."""

    async def work():
        counter = Counter(await client(hosts), f"{root}/deep/counter")
        return [await counter.add() for _ in range(10)]

    seen = await asyncio.gather(*(work() for _ in range(4)))
    assert sorted(number for numbers in seen for number in numbers) == list(range(1, 41))
    counter = Counter(await client(hosts), f"{root}/deep/counter")
    assert await counter.value() == 40
    assert await counter.add(-50) == -10
    assert await counter.value() == -10


async def test_a_counter_that_is_not_there_is_zero(local_hosts, client, root):
    """Reading makes no znode; an empty one is zero too; what is no number is refused and left alone."""
    cell = await client(local_hosts)
    counter = Counter(cell, root)
    assert await counter.value() == 0
    assert await cell.exists(root) is None
    await cell.create(root)
    assert await counter.add(3) == 3
    await cell.set(root, b"three")
    with pytest.raises(BadArguments, match="no whole number"):
        await counter.add()
    assert (await cell.get(root))[0] == b"three"


@pytest.mark.parametrize("there", [False, True])
async def test_a_change_whose_reply_was_lost_is_never_counted_twice(local_hosts, relay, client, root, there):
    """It happened, and others may have gone on from it: the error says that the outcome is open."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    if there:
        await Counter(direct, root).add(1)
    before = await Counter(direct, root).value()
    read = cell.get

    async def get(path):
        try:
            return await read(path)
        finally:
            relay.hold_answers()

    cell.get = get
    task = asyncio.create_task(Counter(cell, root).add(10))

    async def happened():
        return await Counter(direct, root).value() == before + 10

    await wait_until(happened, "the change")
    relay.cut()
    relay.mend()
    with pytest.raises(OutcomeUnknown, match="may or may not have been added"):
        await task
    assert await Counter(direct, root).value() == before + 10


async def test_a_change_that_never_left_is_made_again(local_hosts, relay, client, root):
    """The connection goes before the request: nobody has changed the number, so it is tried again by itself."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    await Counter(direct, root).add(1)
    submit = cell.set

    async def lost(*arguments, **options):
        cell.set = submit
        cell._driver._protocol.transport.pause_reading()
        cell._driver._protocol.transport.write = lambda _data: None  # it goes nowhere
        task = asyncio.ensure_future(submit(*arguments, **options))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        relay.cut()
        cell._driver._protocol.transport.abort()
        relay.mend()
        return await task

    cell.set = lost
    assert await asyncio.wait_for(Counter(cell, root).add(10), 10) == 11
    assert await Counter(direct, root).value() == 11
