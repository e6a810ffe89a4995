"""Elections: one leader at a time, the next one when it dies, and a deposed one that stops before."""

from __future__ import annotations

import asyncio

import pytest

from client.client_systems import expire, wait_for_children, wait_until
from synod.base import LockLost


async def test_leaders_follow_each_other_and_never_meet(hosts, client, root):
    """Four candidates lead twice each; every later leader has a higher token."""
    leading, tokens = [], []

    async def stand(number):
        cell = await client(hosts)
        for _ in range(2):
            async with cell.elect(root, identifier=str(number)) as leadership:
                leading.append(number)
                tokens.append(leadership.token)
                await asyncio.sleep(0.001)
                assert leading == [number]
                leading.clear()

    await asyncio.gather(*map(stand, range(4)))
    assert len(tokens) == 8
    assert tokens == sorted(set(tokens))


async def test_when_the_leader_dies_the_next_one_leads(hosts, client, root):
    """Its session ends: it is told, the next candidate leads, with a higher token, and everybody can ask who it is."""
    old, new, observer = [await client(hosts) for _ in range(3)]
    first, second = old.elect(root, identifier="old"), new.elect(root, identifier="new")
    assert await observer.elect(root).leader() is None
    await first.acquire()
    token = first.token
    assert await observer.elect(root).leader() == "old"
    waiting = asyncio.create_task(second.acquire())
    await wait_for_children(observer, root, 2)
    assert not waiting.done()
    await expire(old, hosts)
    assert await waiting
    assert first.lost.is_set()
    assert not first.held
    assert second.token > token
    assert await observer.elect(root).leader() == "new"


async def test_a_leader_that_leaves_hands_over(hosts, client, root):
    """A client that closes gives its session up, and with it the leadership, at once."""
    old, new = await client(hosts), await client(hosts)
    await old.elect(root).acquire()
    waiting = asyncio.create_task(new.elect(root).acquire())
    await wait_for_children(new, root, 2)
    await old.close()
    assert await asyncio.wait_for(waiting, 5)


async def test_a_leader_that_is_cut_off_stops_before_the_next_one_begins(local_hosts, relay, client, root):
    """By the clock alone: the deposed one's body has ended when the cell gives the leadership away."""
    # Not shorter: on a busy machine it would have no lease any more before it is cut off.
    cut_off = await client(relay.hosts, session_timeout_ms=3_000)
    new = await client(local_hosts)
    story = []

    async def lead(cell, name):
        async with cell.elect(root):
            story.append(f"{name} leads")
            try:
                await asyncio.Event().wait()
            finally:
                story.append(f"{name} stops")

    first = asyncio.create_task(lead(cut_off, "old"))
    await wait_until(lambda: story, "a leader")
    second = asyncio.create_task(lead(new, "new"))
    await wait_for_children(new, root, 2)
    relay.cut()
    await wait_until(lambda: "new leads" in story, "the next leader")
    assert story == ["old leads", "old stops", "new leads"]
    with pytest.raises(LockLost):
        await first
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_a_candidate_that_withdraws_is_no_leader(local_hosts, client, root):
    """Cancelling the wait leaves the election; the candidates behind it do not notice."""
    cells = [await client(local_hosts) for _ in range(3)]
    await cells[0].elect(root).acquire()
    withdrawn = asyncio.create_task(cells[1].elect(root).acquire())
    await wait_for_children(cells[0], root, 2)
    last = asyncio.create_task(cells[2].elect(root).acquire())
    await wait_for_children(cells[0], root, 3)
    withdrawn.cancel()
    await wait_for_children(cells[0], root, 2)
    await cells[0].close()
    assert await last
