"""The queue: in order, to one at a time, at least once; and once where nothing fails."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from client.client_systems import expire, wait_for_children, wait_until
from synod.base import BadArguments, LocalProtocolError, LockLost, OperationTimeout, SessionExpired
from synod.recipes import Queue


async def test_items_come_by_priority_and_then_in_order(hosts, client, root):
    """First in, first out; urgent ones first; several put together stay together."""
    cell = await client(hosts)
    queue = Queue(cell, root)
    assert await queue.size() == 0
    await queue.put(b"a")
    await queue.put_all([b"b", b"c"])
    await queue.put(b"urgent", priority=1)
    assert await queue.size() == 4
    order = []
    for _ in range(4):
        async with await queue.take() as item:
            order.append(item.data)
    assert order == [b"urgent", b"a", b"b", b"c"]
    assert await queue.size() == 0
    assert await cell.children(f"{root}/taken") == []


async def test_each_item_is_worked_on_once_by_one(hosts, client, root):
    """Three consumers, thirty items, while they come in: none twice, none missed."""
    done = []
    producer = Queue(await client(hosts), root)

    async def work():
        async for item in Queue(await client(hosts), root):
            async with item:
                done.append(item.data)
                await asyncio.sleep(0)

    workers = [asyncio.create_task(work()) for _ in range(3)]
    for n in range(30):
        await producer.put(b"%d" % n)
    await wait_until(lambda: len(done) >= 30, "thirty items")

    async def empty():
        return await producer.size() == 0

    await wait_until(empty, "an empty queue")
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert Counter(done) == {b"%d" % n: 1 for n in range(30)}


async def test_who_finds_nothing_waits(hosts, client, root):
    """For the first item, and for one that is given back; not beyond its time."""
    producer, consumer = Queue(await client(hosts), root), Queue(await client(hosts), root)
    assert await consumer.take(timeout=0.05) is None
    waiting = asyncio.create_task(consumer.take())
    await asyncio.sleep(0)
    await producer.put(b"a")
    held = await waiting
    assert held.data == b"a"
    assert await producer.take(timeout=0.05) is None
    waiting = asyncio.create_task(producer.take())
    await asyncio.sleep(0)
    await held.release()
    again = await waiting
    assert again.data == b"a"
    assert again.fencing_token > held.fencing_token


async def test_a_body_that_fails_gives_its_item_back(local_hosts, client, root):
    """The work was not done, so somebody else may try."""
    queue = Queue(await client(local_hosts), root)
    await queue.put(b"a")
    item = await queue.take()
    with pytest.raises(ZeroDivisionError):
        async with item:
            raise ZeroDivisionError
    assert not item.is_valid
    async with await queue.take(timeout=5) as again:
        assert again.name == item.name
        await again.consume()
        with pytest.raises(LocalProtocolError, match="already"):
            await again.release()
        with pytest.raises(LocalProtocolError, match="already"):
            again.check()


async def test_the_item_of_a_dead_consumer_is_delivered_again(hosts, client, root):
    """Its session ends: the old one is told and cannot remove it; the next one has a higher token."""
    dying, cell = await client(hosts), await client(hosts)
    await Queue(cell, root).put(b"a")
    old = await Queue(dying, root).take()
    assert old.is_valid
    waiting = asyncio.create_task(Queue(cell, root).take())
    await asyncio.sleep(0)
    await expire(dying, hosts)
    new = await waiting
    assert new.fencing_token > old.fencing_token
    assert not old.is_valid
    assert old.lost.is_set()
    with pytest.raises(LockLost):
        old.check()
    with pytest.raises(SessionExpired, match="delivered again"):
        await old.consume()
    assert await cell.exists(f"{root}/taken/{new.name}") is not None
    new.check()
    await new.consume()
    assert await Queue(cell, root).size() == 0


async def test_a_consumer_that_outlived_its_session_does_not_take_anothers_claim_away(local_hosts, client, root):
    """Giving back late touches only a claim of its own."""
    dying, cell = await client(local_hosts), await client(local_hosts)
    await Queue(cell, root).put(b"a")
    old = await Queue(dying, root).take()
    await expire(dying, local_hosts)
    new = await Queue(cell, root).take()
    await old.release()
    assert await cell.children(f"{root}/taken") == [new.name]
    await new.consume()


async def test_a_cancelled_take_leaves_no_claim(local_hosts, relay, client, root):
    """The claim has happened, the reply has not come, and nobody waits for it."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    await Queue(direct, root).put(b"a")
    queue = Queue(cell, root)
    listed, submit = asyncio.Event(), cell.create_stat

    async def claim(*arguments, **options):
        relay.hold_answers()
        listed.set()
        return await submit(*arguments, **options)

    cell.create_stat = claim
    task = asyncio.create_task(queue.take())
    await listed.wait()
    await wait_for_children(direct, f"{root}/taken", 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    relay.let_answers_go()
    await wait_for_children(direct, f"{root}/taken", 0)


async def test_a_claim_whose_reply_was_lost_is_not_held_back(local_hosts, relay, client, root):
    """The connection goes between the claim and its reply: the item is claimed anew, not stuck."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    await Queue(direct, root).put(b"a")
    submit = cell.create_stat

    async def claim(*arguments, **options):
        cell.create_stat = submit
        relay.hold_answers()
        return await submit(*arguments, **options)

    cell.create_stat = claim
    task = asyncio.create_task(Queue(cell, root).take())
    await wait_for_children(direct, f"{root}/taken", 1)
    relay.cut()
    relay.mend()
    item = await asyncio.wait_for(task, 10)
    assert item.is_valid
    await item.consume()
    assert await direct.children(f"{root}/taken") == []


async def test_a_consumption_whose_reply_was_lost_has_happened_once(local_hosts, relay, client, root):
    """The connection goes after the item is gone: `consume` finds out, and says that all is well."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    queue = Queue(direct, root)
    await queue.put(b"a")
    item = await Queue(cell, root).take()
    relay.hold_answers()
    task = asyncio.create_task(item.consume())
    await wait_for_children(direct, f"{root}/entries", 0)
    relay.cut()
    relay.mend()
    await task


async def test_consuming_without_a_connection_is_reported_and_made_good_later(local_hosts, relay, client, root):
    """The caller hears in bounded time that the outcome is open; the item goes when the cell can be reached."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    await Queue(direct, root).put(b"a")
    item = await Queue(cell, root).take()
    cell.timeout = 0.1
    relay.cut()
    with pytest.raises(OperationTimeout, match="may or may not"):
        await item.consume()
    assert await Queue(direct, root).size() == 1
    relay.mend()
    await wait_for_children(direct, f"{root}/entries", 0)


async def test_a_priority_has_three_digits(local_hosts, client, root):
    """A fourth would break the order of the names."""
    with pytest.raises(BadArguments, match="nothing was put"):
        await Queue(await client(local_hosts), root).put(b"a", priority=1_000)
