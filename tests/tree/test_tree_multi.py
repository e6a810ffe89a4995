"""Multi: all or nothing, one zxid, and the error results of ZooKeeper's protocol."""

from __future__ import annotations

import random
import struct

import pytest
from tree_world import (
    World,
    create,
    exists,
    frame,
    get_data,
    multi,
    op_check,
    op_create,
    op_delete,
    op_set,
    state_of,
)

import synod.tree._multi as multi_module


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def me(world: World) -> int:
    return world.connect(1)


def test_all_of_it_happens_with_one_zxid(world: World, me: int) -> None:
    world.write(me, create(1, b"/p", b"v"))
    before = world.tree.zxid
    got = world.one(
        me,
        multi(
            2,
            op_check(b"/p", 0),
            op_create(b"/p/a", b"1"),
            op_create(b"/p/n-", flags=2, op=15),
            op_create(b"/p/c", flags=4, op=19),
            op_set(b"/p/a", b"2"),
            op_delete(b"/p/a", 1),
            op_create(b"/p/e", flags=1),
        ),
    )
    assert (got.err, got.zxid) == (0, before + 1)
    assert [(kind, err) for kind, err, _ in got.results()] == [
        (13, 0),
        (1, 0),
        (15, 0),
        (15, 0),
        (5, 0),
        (2, 0),
        (1, 0),
    ]
    results = [body for _, _, body in got.results()]
    assert results[1] == struct.pack(">i", 4) + b"/p/a"
    assert results[2][:19] == struct.pack(">i", 15) + b"/p/n-0000000001"
    assert results[3][8:] == world.read(me, exists(3, b"/p/c")).body
    assert b"/p/a" not in world.tree.nodes
    assert world.tree.nodes[b"/p/e"].owner == me
    world.tree.check()


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        (op_check(b"/p", 7), -103),
        (op_check(b"/none", -1), -101),
        (op_create(b"/p"), -110),
        (op_create(b"/p/new"), -110),
        (op_create(b"/none/x"), -101),
        (op_create(b"/bad/"), -101),
        (op_create(b"bad"), -8),
        (op_create(b"/x", acl=[]), -114),
        (op_delete(b"/p"), -111),
        (op_delete(b"/zookeeper"), -8),
        (op_set(b"/p", b"x", 9), -103),
        (op_create(b"/t", flags=5), -6),
    ],
)
def test_nothing_happens_when_one_fails(world: World, me: int, failing: tuple[int, bytes], code: int) -> None:
    world.write(me, create(1, b"/p", b"v"), create(2, b"/p/old", flags=1))
    before, zxid = state_of(world.tree)[1:], world.tree.zxid
    got = world.one(
        me,
        multi(3, op_create(b"/p/new"), op_set(b"/p", b"w"), op_delete(b"/p/old"), failing, op_delete(b"/p/new")),
    )
    assert got.err == 0
    codes = [struct.unpack(">i", body)[0] for _, _, body in got.results()]
    assert codes == [0, 0, 0, code, -2]
    assert [(kind, err) for kind, err, _ in got.results()] == [(-1, c) for c in codes]
    assert state_of(world.tree)[1:] == before
    assert world.tree.zxid == zxid + 1
    world.tree.check()


def test_a_rolled_back_multi_leaves_no_trace_whatever_it_did(world: World, me: int) -> None:
    """Random operations on few paths, then a failing one: the state is that of before, digest included."""
    rng = random.Random(5)
    paths = [b"/a", b"/b", b"/a/c", b"/a/d", b"/a/c/e"]
    for round_ in range(300):
        before = state_of(world.tree)[1:]
        known = {path for path in paths if path in world.tree.nodes}
        operations = []
        for _ in range(rng.randrange(8)):
            path = rng.choice(paths)
            kind = rng.randrange(4)
            parent_there = path.rpartition(b"/")[0] in known or path.count(b"/") == 1
            if kind == 0 and path not in known and parent_there:
                operations.append(op_create(path, b"%d" % round_, flags=0 if rng.randrange(3) else 4))
                known.add(path)
            elif kind == 1 and path in known and not any(p.startswith(path + b"/") for p in known):
                operations.append(op_delete(path))
                known.discard(path)
            elif kind == 2 and path in known:
                operations.append(op_set(path, b"x" * rng.randrange(9)))
            elif kind == 3 and parent_there and path not in known:
                operations.append(op_create(path + b"-", flags=2))
                operations.append(op_delete(path + b"-none"))
                break
        failed = world.one(me, multi(1, *operations, op_check(b"/none", 1)))
        assert failed.results()[-1][1] in (-101, -2)
        assert state_of(world.tree)[1:] == before
        world.tree.check()
        if operations and operations[-1][0] != 2:
            world.one(me, multi(2, *operations))
        world.tree.check()


def test_a_malformed_multi_fails_as_a_whole(world: World, me: int) -> None:
    good = multi(1, op_create(b"/a"), op_create(b"/b"))
    zxid = world.tree.zxid
    for cut in range(12, len(good) - 1):
        broken = struct.pack(">i", cut - 4) + good[4:cut]
        assert world.one(me, broken).err == -5
    unknown = frame(1, 14, struct.pack(">i?i", 7, False, -1) + good[21:])
    assert world.one(me, unknown).err == -5
    assert b"/a" not in world.tree.nodes
    assert world.tree.zxid == zxid + len(range(12, len(good) - 1)) + 1


def test_an_empty_multi_is_fine(world: World, me: int) -> None:
    assert world.one(me, multi(1)).results() == []


@pytest.mark.requires("pure")  # a compiled module holds its constants fast
def test_the_number_of_operations_is_bounded(world: World, me: int, monkeypatch) -> None:
    monkeypatch.setattr(multi_module, "MULTI_OPS_MAX", 3)
    assert world.one(me, multi(1, *(op_create(b"/%d" % n) for n in range(4)))).err == -125
    assert world.one(me, multi(1, *(op_create(b"/%d" % n) for n in range(3)))).err == 0
    assert b"/3" not in world.tree.nodes


def test_a_check_alone_is_no_request(world: World, me: int) -> None:
    kind, body = op_check(b"/", -1)
    assert world.one(me, frame(1, kind, body)).err == -6


def test_a_multi_sees_its_own_changes(world: World, me: int) -> None:
    got = world.one(me, multi(1, op_create(b"/a"), op_set(b"/a", b"x", 0), op_check(b"/a", 1), op_delete(b"/a", 1)))
    assert [err for _, err, _ in got.results()] == [0, 0, 0, 0]
    got = world.one(me, multi(1, op_create(b"/a"), op_create(b"/a/b"), op_set(b"/a/b", b"y")))
    assert [err for _, err, _ in got.results()] == [0, 0, 0]
    assert world.read(me, get_data(1, b"/a/b")).field() == b"y"
