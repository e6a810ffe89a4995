"""Any bytes give the same result everywhere, and never an exception: a client cannot stop a replica."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_load import Load
from tree_world import (
    OPEN,
    PlainTree,
    RecordingSink,
    Reply,
    World,
    create,
    delete,
    frame,
    get_data,
    multi,
    op_create,
    op_set,
    set_acl,
    set_data,
    state_of,
    text,
)

from synod.base import InvariantViolation
from synod.tree import Tree, UnknownCommand, encode_batch, encode_group, encode_slice

OPS = [
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    11,
    12,
    13,
    14,
    15,
    16,
    17,
    18,
    19,
    20,
    21,
    22,
    101,
    103,
    104,
    105,
    106,
    107,
    900,
    -10,
]


def world() -> tuple[World, int]:
    made = World()
    session = made.connect(1)
    made.write(session, create(1, b"/a", b"v"), create(2, b"/a/b", b"w"))
    return made, session


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_frame_is_answered_by_read(data: bytes) -> None:
    it, session = world()
    before = state_of(it.tree)
    reply = Reply(it.tree.read(data, session, 1, it.sink))
    if len(data) >= 12:
        assert reply.xid == struct.unpack_from(">i", data, 4)[0]
    assert state_of(it.tree) == before


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(OPS), st.binary(max_size=60), st.binary(max_size=20))
def test_any_body_of_any_operation_gives_one_reply_to_its_xid(op: int, body: bytes, tail: bytes) -> None:
    """Read or written; a written one followed by a good frame, which is applied whatever came before it."""
    it, session = world()
    assert Reply(it.tree.read(frame(77, op, body), session, 1, it.sink)).xid == 77
    it.sink.take(1)
    replies = it.write(session, frame(77, op, body), set_data(78, b"/a", tail))
    assert [reply.xid for reply in replies if reply.xid != -1] == [77, 78]
    assert replies[-1].err in (0, -101)
    it.tree.check()


@pytest.mark.parametrize("seed", range(20))
def test_no_read_crosses_the_end_of_its_own_frame(seed: int) -> None:
    """A frame whose inner lengths point past its end gives the same answer whatever follows it."""
    rng = random.Random(seed)
    load = Load(seed)
    for _ in range(60):
        it, session = world()
        target = it.tree
        request = load.damaged(load.write(target))
        if struct.unpack_from(">i", request, 8)[0] == -11:
            continue
        outcomes = []
        for tail in (b"", set_data(5, b"/a", b"t" * rng.randrange(200)), b"\0" * rng.randrange(12)):
            for kind in (Tree, PlainTree):
                twin = World(kind())
                twin.connect(1)
                twin.write(session, create(1, b"/a", b"v"), create(2, b"/a/b", b"w"))
                twin.items(encode_slice(session, 1, 9, request + tail))
                first = [reply for reply in twin.sink.take(1) if reply.xid == struct.unpack_from(">i", request, 4)[0]]
                outcomes.append(repr(first[:1]))
        assert len(set(outcomes)) == 1


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (set_data(7, b"/a", b"value"), (12, 18)),
        (create(7, b"/new", b"value"), (12, 20, 29, 37, 46)),
        (create(7, b"/new", b"value", 3, op=15), (12, 20, 29, 37, 46)),
        (delete(7, b"/a/b"), (12,)),
        (set_acl(7, b"/a", OPEN), (12, 18, 26, 35)),
        (multi(7, op_set(b"/a", b"value"), op_create(b"/n")), (21, 27, 49)),
    ],
)
@pytest.mark.parametrize("kind", [Tree, PlainTree])
def test_a_field_that_claims_more_than_its_frame_is_malformed(kind: type[Tree], request_: bytes, fields) -> None:
    """The bytes that it would need are there: they are the next frame's."""
    after = set_data(8, b"/a", bytes(300))  # zeros read well as lengths and versions
    for at in fields:
        (length,) = struct.unpack_from(">i", request_, at)
        for more in (*range(1, 60), 2**31 - 1 - length):
            crosses = at + 4 + length + more > len(request_)
            if not crosses and request_[8:12] == b"\0\0\0\x0e":
                continue  # what a multi's longer field swallows may leave another good multi
            it = World(kind())
            session = it.connect(1)
            it.write(session, create(1, b"/a", b"v"), create(2, b"/a/b", b"w"))
            broken = request_[:at] + struct.pack(">i", length + more) + request_[at + 4 :]
            known = sorted(it.tree.nodes)
            first, second = it.write(session, broken, after)
            assert first.err < 0, (at, more)
            assert first.err == -5 or not crosses
            assert second.err == 0
            assert sorted(it.tree.nodes) == known


def test_a_frame_that_crosses_the_end_of_its_slice_drops_the_rest() -> None:
    """An origin never forwards one; should it happen, all replicas do the same and nobody is answered."""
    for kind in (Tree, PlainTree):
        it = World(kind())
        session = it.connect(1)
        it.write(session, create(1, b"/a"))
        whole = set_data(2, b"/a", b"x")
        for broken in (struct.pack(">i", 1000) + whole[4:], whole[:-1], whole[:7], struct.pack(">i", -5) + whole[4:]):
            zxid = it.tree.zxid
            it.items(encode_slice(session, 1, 1, broken))
            assert it.sink.take(1) == []
            assert it.tree.zxid == zxid


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.randoms(use_true_random=False))
def test_any_batch_is_applied_or_stops_the_replica_with_a_name(data: bytes, rng: random.Random) -> None:
    it, session = world()
    group = encode_group(1, 1, it.seq + 1, [encode_slice(session, 1, 2, data)])
    good = encode_batch(feature_level=1, cell_time_ms=5, wall_ms=6, commands=[group])
    damaged = bytearray(good)
    for _ in range(rng.randrange(1, 4)):
        damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 2, 0xFF, 0x7F])
    for batch in (data, good, bytes(damaged)):
        slot = it.tree.slot
        try:
            it.tree.apply(slot + 1, batch, it.sink)
        except UnknownCommand:
            assert it.tree.slot == slot
        it.tree.check()


def test_a_huge_count_costs_nothing() -> None:
    """A vector that claims two billion members is refused by the bytes that are there."""
    it, session = world()
    huge = struct.pack(">i", 2**31 - 1)
    assert it.read(session, frame(1, 101, bytes(8) + huge)).err == -5
    assert it.one(session, frame(1, 1, text(b"/x") + text(b"") + huge)).err == -5
    assert it.one(session, frame(1, 5, text(b"/a") + huge)).err == -5
    assert it.one(session, frame(1, 5, huge)).err == -5
    assert it.read(session, frame(1, 4, huge)).err == -5


def test_short_frames_are_answered() -> None:
    it, session = world()
    for size in range(16):
        reply = Reply(it.tree.read(get_data(7, b"/a")[:size], session, 1, it.sink))
        assert reply.err == -5
    assert Reply(it.tree.read(frame(7, 4), session, 1, it.sink)).err == -5


def test_a_read_of_a_session_that_is_over_is_answered() -> None:
    it, _ = world()
    assert Reply(it.tree.read(get_data(7, b"/a"), 4711, 1, it.sink)).err == 0
    assert Reply(it.tree.read(frame(7, 107), 4711, 1, it.sink)).body == b"\0\0\0\0"
    assert Reply(it.tree.read(frame(7, 103, text(b"/")), 4711, 1, it.sink)).body == b"\0\0\0\0"


def test_a_sink_without_connections_takes_no_replies() -> None:
    """A replica that serves nobody applies the same."""
    it, session = world()
    it.sink.outs.clear()
    it.sink.conn_of.clear()
    it.items(it.slice(session, create(3, b"/c"), frame(4, 99)))
    assert b"/c" in it.tree.nodes


def test_a_slot_cannot_be_applied_twice() -> None:
    it, _ = world()
    sink = RecordingSink()
    with pytest.raises(InvariantViolation):
        it.tree.apply(it.tree.slot, it.log[-1], sink)
    assert sink.calls == []
