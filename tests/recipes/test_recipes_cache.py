"""A followed view: the latest state soon after every change, through everything that happens to the connection."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from client.client_systems import expire, wait_until
from synod.base import UserError
from synod.recipes import Cache


async def test_a_view_follows_what_is_made_changed_and_deleted(hosts, client, root):
    """Data by name; a path that is not there yet is an empty view."""
    writer, reader = await client(hosts), await client(hosts)
    seen = []
    async with Cache(reader, root, on_change=lambda view: seen.append(dict(view))) as cache:
        assert cache.view == {}
        await writer.create(f"{root}/a", b"1", makepath=True)
        await cache.wait_until(lambda view: view == {"a": b"1"})
        stat = await writer.set(f"{root}/a", b"2")
        await writer.create(f"{root}/b", b"3")
        await cache.wait_until(lambda view: view == {"a": b"2", "b": b"3"})
        assert cache.stat("a") == stat
        await writer.delete(root, recursive=True)
        await cache.wait_until(lambda view: view == {})
        await writer.create(f"{root}/c", b"4", makepath=True)
        await cache.wait_until(lambda view: view == {"c": b"4"})
    assert seen[0] == {}
    assert seen[-1] == {"c": b"4"}
    assert all(one != other for one, other in itertools.pairwise(seen))


async def test_a_view_goes_as_deep_as_it_is_asked(local_hosts, client, root):
    """One level, two, or all of them; keys are relative paths."""
    cell = await client(local_hosts)
    await cell.create(f"{root}/a/b/c", b"", makepath=True)
    for depth, names in ((1, ["a"]), (2, ["a", "a/b"]), (None, ["a", "a/b", "a/b/c"])):
        async with Cache(cell, root, depth=depth) as cache:
            await cache.wait_until(lambda view, names=names: list(view) == names)
            assert cache.is_fresh


async def test_a_view_catches_up_after_a_lost_connection(local_hosts, relay, client, root):
    """While the cell is out of reach the view stays and is not fresh; then it has what was missed."""
    writer, reader = await client(local_hosts), await client(relay.hosts)
    await writer.create(f"{root}/a", b"1", makepath=True)
    async with Cache(reader, root) as cache:
        relay.cut()
        await wait_until(lambda: reader.state == "suspended", "the loss")
        await writer.set(f"{root}/a", b"2")
        await writer.create(f"{root}/b")
        assert cache.view == {"a": b"1"}
        assert not cache.is_fresh
        relay.mend()
        await cache.wait_until(lambda view: view == {"a": b"2", "b": b""})
        await wait_until(lambda: cache.is_fresh, "a fresh view")


async def test_a_view_outlives_its_session(hosts, client, root):
    """A new session sets its watches anew."""
    writer, reader = await client(hosts), await client(hosts)
    await writer.create(f"{root}/a", b"1", makepath=True)
    async with Cache(reader, root) as cache:
        await expire(reader, hosts)
        await writer.set(f"{root}/a", b"2")
        await cache.wait_until(lambda view: view == {"a": b"2"})
        await writer.set(f"{root}/a", b"3")
        await cache.wait_until(lambda view: view == {"a": b"3"})


async def test_a_view_that_stopped_leaves_no_watcher(local_hosts, client, root):
    """Nothing of it stays in the client."""
    cell = await client(local_hosts)
    await cell.create(f"{root}/a/b", makepath=True)
    async with Cache(cell, root, depth=None) as cache:
        await cache.wait_until(lambda view: "a/b" in view)
        assert len(cell._session.watches)
    assert not len(cell._session.watches)
    await cell.set(f"{root}/a", b"later")
    assert cache.view["a"] == b""


async def test_a_view_that_is_not_waited_for_any_more_follows_nothing(relay, client, root):
    """Cancelled before the first view is there, it leaves neither its task nor a watcher."""
    cell = await client(relay.hosts)
    cache = Cache(cell, root)
    relay.hold_answers()
    starting = asyncio.create_task(cache.start())
    await wait_until(lambda: cache._task is not None, "the beginning")
    following = cache._task
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert following.cancelled()
    relay.let_answers_go()
    await cell.sync("/")
    assert not len(cell._session.watches)


async def test_a_view_ends_quietly_with_its_client(local_hosts, client, root):
    """A change that is to be read when the client is closed: the view stays; nobody is left with an error."""
    cell = await client(local_hosts)
    await cell.create(f"{root}/a", b"1", makepath=True)
    cache = Cache(cell, root)
    await cache.start()
    await cell.close()
    cache.mark("a", data=True)
    await cache._task
    assert cache.view == {"a": b"1"}
    with pytest.raises(UserError, match="closed"):
        await Cache(cell, root).start()
