"""The tree parses and writes frames by itself, for speed: here `wire`'s own codecs check each of them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tree_world import PlainTree, World

from synod import wire
from synod.tree import Tree
from synod.tree._acl import OPEN_WIRE
from synod.tree._paths import is_valid_path
from synod.tree._scan import int32_at, int64_at, uint32_at

ME = wire.ACL(31, "auth", "")


def ask(world: World, session: int, xid: int, request: wire.Request) -> object:
    """Send what `wire` encodes; the body of the reply as `wire` decodes it, or the error code."""
    data = wire.encode_request(xid, request)
    if request.op in wire.WRITE_OPS:
        world.items(world.slice(session, data))
        *_, answer = world.sink.outs[1]  # behind the events
        world.sink.outs[1].clear()
    else:
        answer = world.tree.read(data, session, 1, world.sink)
    assert int.from_bytes(answer[:4], "big") == len(answer) - 4
    header, reader = wire.decode_reply(answer[4:])
    assert header.xid == xid
    assert header.zxid == world.tree.zxid
    return header.err or wire.decode_reply_body(request.op, reader)


@pytest.mark.parametrize("kind", [Tree, PlainTree])
def test_every_operation_speaks_the_codecs_language(kind: type[Tree]) -> None:
    world = World(kind())
    session = world.connect(1)
    world.auth(session, b"digest", b"joe:hash")
    world.sink.take(1)
    xid = 0

    def do(request: wire.Request) -> object:
        nonlocal xid
        xid += 1
        return ask(world, session, xid, request)

    assert do(wire.Create("/a", b"1")) == "/a"
    made = do(wire.Create("/a/ä", b"22", (ME,), wire.CREATE_EPHEMERAL_SEQUENTIAL, with_stat=True))
    assert made[0] == "/a/ä0000000000"
    stat = made[1]
    assert (stat.ephemeral_owner, stat.data_length, stat.czxid) == (session, 2, world.tree.zxid)
    assert do(wire.Create("/box", flags=wire.CREATE_CONTAINER, with_stat=True))[1].ephemeral_owner == 0
    assert do(wire.Create("/t", ttl_ms=5, flags=5)) == wire.ERR_UNIMPLEMENTED
    assert do(wire.Exists("/a/ä0000000000")) == stat
    assert do(wire.GetData("/a/ä0000000000")) == (b"22", stat)
    assert do(wire.GetChildren("/a")) == ("ä0000000000",)
    assert do(wire.GetChildren("/a", with_stat=True)) == (("ä0000000000",), do(wire.Exists("/a")))
    changed = do(wire.SetData("/a", b"new", 0))
    assert (changed.version, changed.mzxid, changed.data_length) == (1, world.tree.zxid, 3)
    assert do(wire.GetACL("/a/ä0000000000")) == ((wire.ACL(31, "digest", "joe:hash"),), stat)
    assert do(wire.SetACL("/a", wire.READ_ACL)).aversion == 1
    assert do(wire.SetData("/a", b"x")) == wire.ERR_NO_AUTH
    assert do(wire.Sync("/a")) == "/a"
    assert do(wire.GetEphemerals("/a")) == ("/a/ä0000000000",)
    assert do(wire.GetAllChildrenNumber("/a")) == 1
    assert do(wire.Bare(wire.OP_WHO_AM_I)) == (wire.Id("digest", "joe"),)
    assert do(wire.AddWatch("/a", wire.WATCH_PERSISTENT)) == 0
    assert do(wire.CheckWatches("/a", wire.WATCHER_PERSISTENT)) is None
    assert do(wire.RemoveWatches("/a", wire.WATCHER_PERSISTENT)) is None
    assert do(wire.RemoveWatches("/a", wire.WATCHER_ANY)) == wire.ERR_NO_WATCHER
    assert do(wire.SetWatches(world.tree.zxid, ("/a",), ("/no",), ("/a",), ("/a",), ("/",))) is None
    assert do(wire.Reconfig(None, None, None)) == wire.ERR_RECONFIG_DISABLED
    good = do(
        wire.Multi(
            (
                wire.Create("/m"),
                wire.Create("/m/x", with_stat=True),
                wire.SetData("/m", b"1"),
                wire.Check("/m", 1),
                wire.Delete("/m/x"),
            )
        )
    )
    assert [(r.op, r.err) for r in good] == [(1, 0), (15, 0), (5, 0), (13, 0), (2, 0)]
    assert good[0].value == "/m"
    assert good[1].value[0] == "/m/x"
    assert good[2].value.version == 1
    bad = do(wire.Multi((wire.Delete("/m"), wire.Check("/box", 9), wire.Delete("/box"))))
    assert [(r.op, r.err) for r in bad] == [(-1, 0), (-1, wire.ERR_BAD_VERSION), (-1, -2)]
    several = do(wire.MultiRead((wire.GetData("/box"), wire.GetChildren("/a"), wire.GetData("/none"))))
    assert [(r.op, r.err) for r in several] == [(4, 0), (8, 0), (-1, wire.ERR_NO_NODE)]
    assert several[1].value == ("ä0000000000",)
    world.sink.outs[1].clear()
    assert do(wire.Delete("/m")) is None


@settings(deadline=None)
@given(st.binary(max_size=3), st.binary(min_size=8, max_size=8))
@example(b"", b"\x7f" + b"\xff" * 7)
@example(b"", b"\x80" + b"\0" * 7)
@example(b"", b"\xff" * 8)
def test_integers_are_read_as_struct_reads_them(before: bytes, data: bytes) -> None:
    at = len(before)
    assert int32_at(before + data, at) == struct.unpack(">i", data[:4])[0]
    assert uint32_at(before + data, at) == struct.unpack(">I", data[:4])[0]
    assert int64_at(before + data, at) == struct.unpack(">q", data)[0]


def test_events_speak_the_codecs_language() -> None:
    world = World()
    session = world.connect(1)
    world.tree.read(wire.encode_request(1, wire.Exists("/ä", True)), session, 1, world.sink)
    world.items(world.slice(session, wire.encode_request(2, wire.Create("/ä"))))
    event = world.sink.outs[1][0]
    assert event == wire.encode_event(wire.WatcherEvent(wire.EVENT_CREATED, 3, "/ä"), world.tree.zxid)


def test_the_open_acl_is_the_codecs() -> None:
    assert wire.pack_acls(wire.OPEN_ACL) == OPEN_WIRE


PIECES = st.sampled_from(
    ["/", "a", ".", "..", "ä", "\0", "\x1f", "\x7f", "\u009f", "\ud7ff", "\ue000", "\ufff0", "😀", " "]
)


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(st.lists(PIECES, max_size=7).map("".join), st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
)
@example("")
@example("/")
@example("a")
def test_the_tree_and_the_codecs_agree_about_paths(path: str) -> None:
    assert is_valid_path(path.encode()) == (wire.path_problem(path) is None)
