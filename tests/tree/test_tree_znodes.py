"""Znodes: what each operation answers and leaves behind, as ZooKeeper's Programmer's Guide and server do."""

from __future__ import annotations

import struct

import pytest
from tree_world import (
    OPEN,
    World,
    children,
    children2,
    create,
    delete,
    exists,
    frame,
    get_data,
    read,
    set_acl,
    set_data,
    text,
)

from synod.tree import Tree
from synod.tree._znode import int32, next_version


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def me(world: World) -> int:
    return world.connect(1)


def test_a_new_tree_has_the_reserved_znodes_and_zookeepers_stats(world: World, me: int) -> None:
    """The root of a fresh server shows cversion -1, as ZooKeeper's does: no creation was ever counted."""
    assert world.read(me, children(1, b"/")).names() == [b"zookeeper"]
    assert world.read(me, children(1, b"/zookeeper")).names() == [b"config", b"quota"]
    stat = world.read(me, exists(1, b"/")).stat()
    assert (stat["cversion"], stat["num_children"], stat["czxid"]) == (-1, 1, 0)
    assert world.read(me, read(1, 104, b"/", None)).body == struct.pack(">i", 3)


def test_the_feature_level_can_be_read_but_is_neither_listed_nor_counted_nor_written(world: World, me: int) -> None:
    assert world.read(me, get_data(1, b"/zookeeper/synod")).field() == b'{"feature_level": 1}'
    assert world.read(me, exists(1, b"/zookeeper")).stat()["num_children"] == 2
    assert world.one(me, set_data(1, b"/zookeeper/synod", b"x")).err == -102
    assert world.one(me, create(1, b"/zookeeper/synod")).err == -110
    assert world.one(me, create(1, b"/zookeeper/synod/x")).err == -102
    assert world.one(me, delete(1, b"/zookeeper/synod")).err == -8


def test_the_configuration_can_be_read(me: int) -> None:
    world = World(Tree(configuration=b"{...}"))
    session = world.connect(1)
    assert world.read(session, get_data(1, b"/zookeeper/config")).field() == b"{...}"


def test_create_then_get(world: World, me: int) -> None:
    made = world.one(me, create(7, b"/a", b"value"))
    assert (made.xid, made.err, made.field()) == (7, 0, b"/a")
    assert made.zxid == world.tree.zxid
    got = world.read(me, get_data(8, b"/a"))
    assert got.field() == b"value"
    assert got.stat() == {
        "czxid": made.zxid,
        "mzxid": made.zxid,
        "ctime": world.wall_ms,
        "mtime": world.wall_ms,
        "version": 0,
        "cversion": 0,
        "aversion": 0,
        "ephemeral_owner": 0,
        "data_length": 5,
        "num_children": 0,
        "pzxid": made.zxid,
    }


def test_create2_answers_with_the_stat(world: World, me: int) -> None:
    made = world.one(me, create(1, b"/a", b"xy", op=15))
    assert made.field() == b"/a"
    assert made.stat() == world.read(me, exists(1, b"/a")).stat()


def test_null_and_empty_values_differ(world: World, me: int) -> None:
    world.write(me, create(1, b"/null", None), create(2, b"/empty", b""))
    assert world.read(me, get_data(1, b"/null")).field() is None
    assert world.read(me, get_data(1, b"/null")).stat()["data_length"] == 0
    assert world.read(me, get_data(1, b"/empty")).field() == b""
    world.write(me, set_data(1, b"/empty", None))
    assert world.read(me, get_data(1, b"/empty")).field() is None


@pytest.mark.parametrize(
    "path", [b"", b"a", b"a/b", b"/a/", b"//", b"//a", b"/./a", b"/..", b"/a/../b", b"/a\0", b"/a\x01"]
)
def test_a_bad_path_is_refused(world: World, me: int, path: bytes) -> None:
    """Ref: PathUtils.validatePath. The order of ZooKeeper's checks lets a missing parent speak first."""
    world.write(me, create(1, b"/a"), create(2, b"/."), create(3, b"/.."))
    reply = world.one(me, create(9, path))
    assert reply.err in (-8, -101)
    assert (reply.err == -101) == (path in (b"a/b", b"/./a", b"/a/../b"))
    assert path not in world.tree.nodes
    world.tree.check()


@pytest.mark.parametrize("name", ["\x7f", "\x85", "\ue000", "\uf8ff", "\ufff0", "\uffff", "😀"])
def test_characters_that_zookeeper_bars_are_refused(world: World, me: int, name: str) -> None:
    assert world.one(me, create(1, b"/" + name.encode())).err == -8


@pytest.mark.parametrize("name", ["ä", "日本", " ", "~", "a.b", "...", "\u00a0", "\ud7ff"])
def test_other_characters_are_names(world: World, me: int, name: str) -> None:
    assert world.one(me, create(1, b"/" + name.encode())).err == 0
    world.tree.check()


def test_broken_utf8_is_no_path(world: World, me: int) -> None:
    assert world.one(me, create(1, b"/\xff\xfe")).err == -8


def test_sequential_names_come_from_the_parents_count_of_creations(world: World, me: int) -> None:
    """Every creation counts, whatever kind, and deletions do not: names are never drawn twice."""
    world.write(me, create(1, b"/q"))
    assert world.one(me, create(2, b"/q/n-", flags=2)).field() == b"/q/n-0000000000"
    world.write(me, create(3, b"/q/plain"), delete(4, b"/q/n-0000000000"))
    assert world.one(me, create(5, b"/q/n-", flags=3)).field() == b"/q/n-0000000002"
    assert world.one(me, create(6, b"/q/", flags=2)).field() == b"/q/0000000003"


def test_a_suffix_that_would_wrap_is_refused(world: World, me: int) -> None:
    """A wrapped suffix would sort before the others and hand the lock to the wrong contender."""
    world.write(me, create(1, b"/q"))
    world.tree.nodes[b"/q"].creates = 2_147_483_647
    assert world.one(me, create(2, b"/q/n", flags=2)).field() == b"/q/n2147483647"
    assert world.one(me, create(3, b"/q/n", flags=2)).err == -125
    assert world.one(me, create(4, b"/q/plain")).err == 0
    assert world.read(me, exists(1, b"/q")).stat()["cversion"] == int32(2 * 2_147_483_649 - 2)


def test_cversion_counts_creations_and_deletions(world: World, me: int) -> None:
    world.write(me, create(1, b"/p"), create(2, b"/p/a"), create(3, b"/p/b"), delete(4, b"/p/a"))
    stat = world.read(me, exists(5, b"/p")).stat()
    assert (stat["cversion"], stat["num_children"], stat["version"]) == (3, 1, 0)
    assert stat["pzxid"] == world.tree.zxid


def test_set_data_checks_the_version_and_skips_minus_one(world: World, me: int) -> None:
    world.write(me, create(1, b"/a"))
    assert world.one(me, set_data(2, b"/a", b"1", 0)).stat()["version"] == 1
    assert world.one(me, set_data(3, b"/a", b"2", 0)).err == -103
    assert world.one(me, set_data(4, b"/b", b"2", 0)).err == -101
    assert world.one(me, set_data(4, b"/b/", b"2", 0)).err == -8
    world.tree.nodes[b"/a"].version = 2_147_483_647
    assert world.one(me, set_data(5, b"/a", b"3")).stat()["version"] == -2_147_483_648
    world.tree.nodes[b"/a"].version = -2
    assert world.one(me, set_data(6, b"/a", b"3")).stat()["version"] == 0


def test_the_only_place_that_wraps() -> None:
    assert [int32(v) for v in (0, 2**31 - 1, 2**31, -1, 2**32, -(2**31) - 1)] == [
        0,
        2**31 - 1,
        -(2**31),
        -1,
        0,
        2**31 - 1,
    ]
    assert [next_version(v) for v in (0, 2**31 - 1, -2, -3)] == [1, -(2**31), 0, -2]


def test_delete(world: World, me: int) -> None:
    world.write(me, create(1, b"/p"), create(2, b"/p/c"))
    assert world.one(me, delete(3, b"/p")).err == -111
    assert world.one(me, delete(4, b"/p/c", 5)).err == -103
    assert world.one(me, delete(4, b"/p/c/d", 5)).err == -101
    assert world.one(me, delete(5, b"/p/c", 0)).err == 0
    assert world.one(me, delete(6, b"/p/c")).err == -101
    assert world.one(me, delete(7, b"/p")).err == 0
    assert world.read(me, exists(8, b"/p")).err == -101


@pytest.mark.parametrize("path", [b"/", b"/zookeeper", b"/zookeeper/quota", b"/zookeeper/config", b"", b"x", b"/\0"])
def test_what_may_not_be_deleted(world: World, me: int, path: bytes) -> None:
    assert world.one(me, delete(1, path)).err == -8


def test_errors_of_create(world: World, me: int) -> None:
    assert world.one(me, create(1, b"/a/b")).err == -101
    assert world.one(me, create(2, b"/a")).err == 0
    assert world.one(me, create(3, b"/a")).err == -110
    assert world.one(me, create(4, b"/e", flags=1)).err == 0
    assert world.one(me, create(5, b"/e/x")).err == -108
    assert world.one(me, create(6, b"/x", flags=7)).err == -8
    assert world.one(me, create(7, b"/x", flags=-1)).err == -8
    assert world.one(me, create(8, b"/x", acl=[])).err == -114
    assert world.one(me, create(9, b"/x", b"v" * 1_047_553)).err == -8
    assert world.one(me, create(9, b"/x", b"v" * 1_047_552)).err == 0


def test_every_write_takes_a_zxid_even_a_failed_one(world: World, me: int) -> None:
    """As ZooKeeper, which logs the error as a transaction; a read takes none."""
    before = world.tree.zxid
    failed = world.one(me, delete(1, b"/nothing"))
    assert (failed.err, failed.zxid, world.tree.zxid) == (-101, before + 1, before + 1)
    assert world.read(me, exists(2, b"/nothing")).zxid == before + 1
    assert world.one(me, frame(3, 5, b"\0")).err == -5
    assert world.tree.zxid == before + 2
    assert world.one(me, frame(3, 4711)).err == -6
    assert world.tree.zxid == before + 2


def test_containers_are_reaped_when_they_had_children_and_have_none(world: World, me: int) -> None:
    world.write(me, create(1, b"/c", flags=4, op=19), create(2, b"/fresh", flags=4, op=19))
    assert world.read(me, exists(3, b"/c")).stat()["ephemeral_owner"] == 0
    world.write(me, create(3, b"/c/x"))
    world.cell_time_ms = 59_990
    world.command()
    world.write(me, delete(4, b"/c/x"))
    assert world.read(me, exists(5, b"/c")).err == 0
    world.read(me, exists(5, b"/c", watch=True))
    before = world.tree.zxid
    world.cell_time_ms = 60_005
    world.command()
    assert world.read(me, exists(6, b"/c")).err == -101
    assert [reply.event() for reply in world.sink.take(1)] == [(2, b"/c")]
    assert world.read(me, exists(6, b"/fresh")).err == 0
    assert world.tree.zxid == before + 1
    world.tree.check()


def test_ttl_znodes_are_not_offered(world: World, me: int) -> None:
    body = create(1, b"/t", flags=5)[12:] + struct.pack(">q", 1000)
    assert world.one(me, frame(1, 21, body)).err == -6
    assert world.one(me, create(2, b"/t", flags=5)).err == -6


def test_reconfig_is_refused_clearly(world: World, me: int) -> None:
    assert world.one(me, frame(1, 16, text(None) * 3 + struct.pack(">q", -1))).err == -123


def test_children_are_sorted_and_the_cached_list_follows_changes(world: World, me: int) -> None:
    world.write(me, create(1, b"/p"), *(create(2, b"/p/" + n) for n in (b"b", b"c", b"a")))
    assert world.read(me, children(3, b"/p")).names() == [b"a", b"b", b"c"]
    world.write(me, delete(4, b"/p/b"))
    got = world.read(me, children2(5, b"/p"))
    assert got.names() == [b"a", b"c"]
    assert got.stat() == world.read(me, exists(6, b"/p")).stat()
    world.write(me, create(7, b"/p/0"))
    assert world.read(me, children(8, b"/p")).names() == [b"0", b"a", b"c"]


def test_count_of_all_below(world: World, me: int) -> None:
    world.write(me, create(1, b"/p"), create(2, b"/p/a"), create(3, b"/p/a/b"), create(4, b"/pp"))
    assert world.read(me, read(5, 104, b"/p", None)).body == struct.pack(">i", 2)
    assert world.read(me, read(5, 104, b"/", None)).body == struct.pack(">i", 7)
    assert world.read(me, read(5, 104, b"/none", None)).err == -101


def test_sync_answers_with_its_path(world: World, me: int) -> None:
    assert world.read(me, read(1, 9, b"/any", None)).field() == b"/any"


def test_multi_read_answers_each_for_itself(world: World, me: int) -> None:
    world.write(me, create(1, b"/p", b"v"), create(2, b"/p/c"))
    parts = [(4, b"/p"), (8, b"/p"), (4, b"/none")]
    body = b"".join(struct.pack(">i?i", op, False, -1) + text(p) + b"\0" for op, p in parts)
    got = world.read(me, frame(1, 22, body + struct.pack(">i?i", -1, True, -1)))
    kinds = [(kind, err) for kind, err, _ in got.results()]
    assert kinds == [(4, 0), (8, 0), (-1, -101)]
    assert got.results()[0][2] == world.read(me, get_data(1, b"/p")).body
    assert got.results()[1][2] == world.read(me, children(1, b"/p")).body


def test_set_acl_counts_its_own_version(world: World, me: int) -> None:
    world.write(me, create(1, b"/a"))
    assert world.one(me, set_acl(2, b"/a", OPEN, 0)).stat()["aversion"] == 1
    assert world.one(me, set_acl(3, b"/a", OPEN, 0)).err == -103
    assert world.one(me, set_acl(3, b"/a", [], 0)).err == -114
    assert world.one(me, set_acl(3, b"/none", OPEN, 0)).err == -101
    assert world.one(me, set_acl(3, b"bad", OPEN, 0)).err == -8
    assert world.read(me, exists(4, b"/a")).stat()["version"] == 0
