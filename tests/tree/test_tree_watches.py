"""Watches: what triggers what, each connection told once, and the event before the reply that shows the change.

Ref: ZooKeeper's Programmer's Guide, "Semantics of Watches"; WatchManager and DataTree of its server.
"""

from __future__ import annotations

import itertools

import pytest
from tree_world import (
    World,
    add_watch,
    check_watches,
    children,
    create,
    delete,
    exists,
    get_data,
    multi,
    op_check,
    op_create,
    op_delete,
    op_set,
    remove_watches,
    set_data,
    set_watches,
)

import synod.tree._watches as watches_module

CREATED, DELETED, CHANGED, CHILDREN = 1, 2, 3, 4


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def me(world: World) -> int:
    return world.connect(1)


@pytest.fixture
def other(world: World) -> int:
    return world.connect(2)


def events(world: World, conn: int) -> list[tuple[int, bytes]]:
    return [reply.event() for reply in world.sink.take(conn)]


def test_data_watches(world: World, me: int, other: int) -> None:
    world.read(me, exists(1, b"/a", watch=True))
    world.write(other, create(1, b"/a"))
    assert events(world, 1) == [(CREATED, b"/a")]
    world.read(me, get_data(1, b"/a", watch=True))
    world.write(other, set_data(1, b"/a", b"x"), set_data(2, b"/a", b"y"))
    assert events(world, 1) == [(CHANGED, b"/a")], "a watch fires once"
    world.read(me, exists(1, b"/a", watch=True))
    world.write(other, create(1, b"/a/c"))
    assert events(world, 1) == [], "children are not data"
    world.write(other, delete(1, b"/a/c"), delete(2, b"/a"))
    assert events(world, 1) == [(DELETED, b"/a")]


def test_child_watches(world: World, me: int, other: int) -> None:
    world.write(other, create(1, b"/p"))
    world.read(me, children(1, b"/p", watch=True))
    world.write(other, set_data(1, b"/p", b"x"))
    assert events(world, 1) == []
    world.write(other, create(2, b"/p/a"), create(3, b"/p/b"))
    assert events(world, 1) == [(CHILDREN, b"/p")]
    world.read(me, children(1, b"/p", watch=True))
    world.write(other, delete(4, b"/p/a"))
    assert events(world, 1) == [(CHILDREN, b"/p")]
    world.read(me, children(1, b"/p", watch=True))
    world.write(other, delete(5, b"/p/b"), delete(6, b"/p"))
    assert events(world, 1) == [(CHILDREN, b"/p")]


def test_a_deletion_is_told_once_though_two_watches_match(world: World, me: int, other: int) -> None:
    world.write(other, create(1, b"/p"))
    world.read(me, children(1, b"/p", watch=True))
    world.read(me, get_data(1, b"/p", watch=True))
    world.read(me, add_watch(1, b"/p", 0))
    world.read(me, add_watch(1, b"/", 1))
    world.write(other, delete(1, b"/p"))
    assert events(world, 1) == [(DELETED, b"/p")]


def test_no_watch_is_left_by_a_refused_read(world: World, me: int, other: int) -> None:
    assert world.read(me, get_data(1, b"/a", watch=True)).err == -101
    assert world.read(me, children(1, b"/a", watch=True)).err == -101
    world.write(other, create(1, b"/a"))
    assert events(world, 1) == []


def test_persistent_watches_stay_and_see_data_and_children(world: World, me: int, other: int) -> None:
    assert world.read(me, add_watch(1, b"/p", 0)).body == b"\0\0\0\0"
    world.write(other, create(1, b"/p"), set_data(2, b"/p", b"x"), create(3, b"/p/c"), set_data(4, b"/p/c", b""))
    world.write(other, delete(5, b"/p/c"), delete(6, b"/p"), create(7, b"/p"))
    assert events(world, 1) == [
        (CREATED, b"/p"),
        (CHANGED, b"/p"),
        (CHILDREN, b"/p"),
        (CHILDREN, b"/p"),
        (DELETED, b"/p"),
        (CREATED, b"/p"),
    ]


def test_recursive_watches_see_everything_below_but_no_children_events(world: World, me: int, other: int) -> None:
    world.read(me, add_watch(1, b"/p", 1))
    world.write(other, create(1, b"/p"), create(2, b"/p/c"), create(3, b"/p/c/d"), create(4, b"/pp"))
    world.write(other, set_data(5, b"/p/c/d", b"x"), delete(6, b"/p/c/d"))
    assert events(world, 1) == [
        (CREATED, b"/p"),
        (CREATED, b"/p/c"),
        (CREATED, b"/p/c/d"),
        (CHANGED, b"/p/c/d"),
        (DELETED, b"/p/c/d"),
    ]


def test_an_unknown_mode_is_refused(world: World, me: int) -> None:
    assert world.read(me, add_watch(1, b"/p", 2)).err == -8
    assert len(world.tree.watches) == 0


def test_one_shot_and_lasting_watches_on_one_path_do_not_disturb_each_other(world: World, me: int, other: int) -> None:
    """ZooKeeper's own bug (ZOOKEEPER-4466): there a one-shot watch replaced the lasting one."""
    world.write(other, create(1, b"/p"))
    world.read(me, add_watch(1, b"/p", 0))
    world.read(me, get_data(2, b"/p", watch=True))
    world.write(other, set_data(2, b"/p", b"1"), set_data(3, b"/p", b"2"))
    assert events(world, 1) == [(CHANGED, b"/p")] * 2


def test_check_and_remove(world: World, me: int, other: int) -> None:
    world.write(other, create(1, b"/p"))
    assert world.read(me, check_watches(1, b"/p", 3)).err == -121
    world.read(me, get_data(1, b"/p", watch=True))
    world.read(me, children(1, b"/p", watch=True))
    world.read(me, add_watch(1, b"/p", 0))
    for type_, there in ((1, 0), (2, 0), (3, 0), (4, 0), (5, -121), (0, -8), (6, -8)):
        assert world.read(me, check_watches(1, b"/p", type_)).err == there
    assert world.read(me, remove_watches(1, b"/p", 2)).err == 0
    assert world.read(me, check_watches(1, b"/p", 2)).err == -121
    assert world.read(me, remove_watches(1, b"/p", 3)).err == 0
    assert world.read(me, remove_watches(1, b"/p", 3)).err == -121
    assert world.read(other, check_watches(1, b"/p", 3)).err == -121
    world.write(other, set_data(2, b"/p", b"x"))
    assert events(world, 1) == []
    assert len(world.tree.watches) == 0


def test_set_watches_fires_what_was_missed_and_arms_the_rest(world: World, me: int, other: int) -> None:
    world.write(other, create(1, b"/same"), create(2, b"/changed"), create(3, b"/gone"), create(4, b"/p"))
    since = world.tree.zxid
    world.write(other, set_data(5, b"/changed", b"x"), delete(6, b"/gone"), create(7, b"/new"), create(8, b"/p/c"))
    reply = world.read(
        me,
        set_watches(
            -8,
            since,
            data=[b"/same", b"/changed", b"/gone"],
            exist=[b"/new", b"/never"],
            child=[b"/p", b"/same", b"/gone2"],
            persistent=[b"/changed"],
            recursive=[b"/p"],
        ),
    )
    assert (reply.xid, reply.err, reply.body) == (-8, 0, b"")
    assert events(world, 1) == [
        (CHANGED, b"/changed"),
        (DELETED, b"/gone"),
        (CREATED, b"/new"),
        (CHILDREN, b"/p"),
        (DELETED, b"/gone2"),
    ]
    world.write(other, set_data(9, b"/same", b"1"), create(10, b"/never"), create(11, b"/same/c"))
    world.write(other, set_data(12, b"/changed", b"2"), create(13, b"/p/c/d"))
    assert events(world, 1) == [
        (CHANGED, b"/same"),
        (CREATED, b"/never"),
        (CHILDREN, b"/same"),
        (CHANGED, b"/changed"),
        (CREATED, b"/p/c/d"),
    ]


def test_the_event_precedes_the_reply_that_shows_the_change(world: World, me: int) -> None:
    """A client that has seen the reply must have seen the event: caches rely on it."""
    world.write(me, create(1, b"/a"))
    world.read(me, get_data(2, b"/a", watch=True))
    got = world.write(me, set_data(3, b"/a", b"x"), set_data(4, b"/a", b"y"))
    assert [reply.xid for reply in got] == [-1, 3, 4]
    assert got[0].zxid == got[1].zxid
    for reply, following in itertools.pairwise(got):
        assert reply.zxid <= following.zxid


def test_a_failed_multi_tells_nobody_and_a_good_one_everybody_at_the_end(world: World, me: int, other: int) -> None:
    world.write(other, create(1, b"/p"))
    world.read(me, add_watch(1, b"/", 1))
    world.write(other, multi(1, op_create(b"/p/a"), op_set(b"/p", b"x"), op_check(b"/p", 0)))
    assert events(world, 1) == []
    world.write(other, multi(1, op_create(b"/p/a"), op_set(b"/p", b"x"), op_delete(b"/p/a")))
    assert events(world, 1) == [(CREATED, b"/p/a"), (CHANGED, b"/p"), (DELETED, b"/p/a")]


def test_events_of_what_the_session_may_not_read_are_withheld(world: World, me: int, other: int) -> None:
    """A watch on a path must not betray a znode that its owner hides (CVE-2024-23944)."""
    world.auth(other, b"digest", b"joe:hash")
    secret = [(31, b"auth", b"")]
    world.read(me, exists(1, b"/s", watch=True))
    world.read(me, add_watch(1, b"/", 1))
    world.sink.take(2)
    world.write(other, create(1, b"/s", acl=secret), set_data(2, b"/s", b"x"))
    assert events(world, 1) == []
    world.auth(me, b"digest", b"joe:hash")
    world.sink.take(1)
    world.write(other, set_data(3, b"/s", b"y"))
    assert events(world, 1) == [(CHANGED, b"/s")]


def test_forget_drops_the_connections_watches_only(world: World, me: int, other: int) -> None:
    world.write(me, create(1, b"/a"))
    for session in (me, other):
        world.read(session, get_data(1, b"/a", watch=True))
        world.read(session, add_watch(1, b"/", 1))
    world.tree.forget(1)
    assert world.tree.watches.recursive == 1
    world.write(me, set_data(1, b"/a", b"x"))
    assert events(world, 1) == []
    assert events(world, 2) == [(CHANGED, b"/a")]
    world.tree.forget(2)
    world.tree.forget(3)
    assert len(world.tree.watches) == 0
    assert world.tree.watches.table == {}
    assert world.tree.watches.recursive == 0


@pytest.mark.requires("pure")  # a compiled module holds its constants fast
def test_watches_of_a_connection_are_bounded(world: World, me: int, other: int, monkeypatch) -> None:
    monkeypatch.setattr(watches_module, "WATCHES_PER_CONNECTION_MAX", 2)
    world.write(me, create(1, b"/a"))
    assert world.read(me, get_data(1, b"/a", watch=True)).err == 0
    assert world.read(me, exists(1, b"/b", watch=True)).err == -101
    assert world.read(me, exists(1, b"/c", watch=True)).err == -125
    assert world.read(me, children(1, b"/", watch=True)).err == -125
    assert world.read(me, add_watch(1, b"/d", 0)).err == -125
    assert world.read(me, set_watches(1, world.tree.zxid, exist=[b"/x"])).err == -125
    assert world.read(me, children(1, b"/a", watch=True)).err == 0, "another kind on the same path costs nothing"
    assert world.read(other, exists(1, b"/c", watch=True)).err == -101


@pytest.mark.requires("pure")  # a compiled module holds its constants fast
def test_long_paths_are_bounded_too(world: World, me: int, monkeypatch) -> None:
    monkeypatch.setattr(watches_module, "WATCH_BYTES_PER_CONNECTION_MAX", 10)
    assert world.read(me, exists(1, b"/123456789", watch=True)).err == -101
    assert world.read(me, exists(1, b"/x", watch=True)).err == -125


def test_closing_tells_of_the_ephemerals(world: World, me: int, other: int) -> None:
    world.write(other, create(1, b"/p"), create(2, b"/p/e", flags=1), create(3, b"/p/f", flags=1))
    world.read(me, children(1, b"/p", watch=True))
    world.read(me, add_watch(1, b"/p", 1))
    world.items(world.slice(other, b"\0\0\0\x08\0\0\0\x01\xff\xff\xff\xf5"))
    assert sorted(events(world, 1)) == [(DELETED, b"/p/e"), (DELETED, b"/p/f"), (CHILDREN, b"/p")]
