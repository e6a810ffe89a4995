"""Sessions: creation, attachment, expiry and its void cases, and the duplicate rule of forwarded groups."""

from __future__ import annotations

import struct

import pytest
from tree_world import PASSWORD, World, close, create, exists, frame, get_data, read, set_data

from synod.base import Ballot, InvariantViolation
from synod.tree import (
    UnknownCommand,
    encode_auth,
    encode_awake,
    encode_batch,
    encode_create_session,
    encode_expire,
    encode_group,
    encode_silent,
    encode_slice,
)

B1, B2 = Ballot(1, 1), Ballot(2, 3)


@pytest.fixture
def world() -> World:
    world = World()
    world.open_ballot(B1)
    return world


def test_a_session_is_named_by_the_zxid_of_its_creation(world: World) -> None:
    session = world.connect(1, 5_000)
    assert session == world.tree.zxid
    assert world.sink.named("opened") == [(1, session, 1, 5_000)]
    assert world.sink.named("session_opened") == [(session, 5_000)]


def test_only_the_origin_itself_hears_of_its_connections(world: World) -> None:
    """Another replica's connection numbers, or those before a restart, mean nothing here."""
    world.command(encode_group(2, 1, 1, [encode_create_session(1, 5_000, PASSWORD)]))
    world.command(encode_group(1, 9, 1, [encode_create_session(1, 5_000, PASSWORD)]))
    assert world.sink.named("opened") == []
    assert len(world.sink.named("session_opened")) == 2


def test_attach_raises_the_epoch_and_moves_the_session(world: World) -> None:
    """session_moved comes first: the host closes the old connection before the new one takes its place."""
    session = world.connect(1)
    world.sink.calls.clear()
    assert world.attach(2, session) == 2
    names = [call[0] for call in world.sink.calls]
    assert names.index("moved") < names.index("opened")
    assert world.sink.named("moved") == [(session, 2)]


def test_attach_is_refused_with_a_wrong_password_or_over_session(world: World) -> None:
    session = world.connect(1)
    assert world.attach(2, session, b"x" * 16) == 0
    assert world.attach(2, 4711) == 0
    assert world.tree.sessions[session].attach_epoch == 1


def test_a_slice_of_an_older_attachment_is_refused_and_changes_nothing(world: World) -> None:
    """A write sent on the old connection must not take effect after the session moved: a promise of Attach."""
    session = world.connect(1)
    old = world.slice(session, create(1, b"/late"))
    world.attach(2, session)
    before = world.tree.zxid
    world.items(old)
    assert [(r.xid, r.err) for r in world.sink.take(1)] == [(1, -118)]
    assert world.tree.zxid == before
    assert b"/late" not in world.tree.nodes


def test_a_slice_of_a_session_that_is_over_is_refused(world: World) -> None:
    session = world.connect(1)
    late = world.slice(session, create(1, b"/late"), create(2, b"/later"))
    world.command(encode_expire(session, 1, B1))
    before = world.tree.zxid
    world.items(late)
    assert [(r.xid, r.err) for r in world.sink.take(1)] == [(1, -112), (2, -112)]
    assert world.tree.zxid == before
    assert b"/late" not in world.tree.nodes


def test_close_deletes_the_ephemerals_with_one_zxid_and_answers(world: World) -> None:
    session, other = world.connect(1), world.connect(2)
    world.write(session, create(1, b"/e1", flags=1), create(2, b"/p"), create(3, b"/p/e2", flags=3))
    world.read(other, exists(1, b"/e1", watch=True))
    ephemeral = world.read(other, exists(1, b"/e1")).stat()
    assert ephemeral["ephemeral_owner"] == session
    assert world.tree.ephemerals == 2
    before = world.tree.zxid
    world.items(world.slice(session, close(9), create(10, b"/never")))
    assert [(r.xid, r.err, r.zxid) for r in world.sink.take(1)] == [(9, 0, before + 1)]
    assert [r.event() for r in world.sink.take(2)] == [(2, b"/e1")]
    assert world.tree.zxid == before + 1
    assert b"/e1" not in world.tree.nodes
    assert b"/never" not in world.tree.nodes
    assert world.read(other, exists(1, b"/p")).stat()["pzxid"] == before + 1
    assert world.sink.named("ended") == [(session,)]
    assert world.tree.ephemerals == 0
    world.tree.check()


def test_an_expiry_ends_the_session(world: World) -> None:
    session, other = world.connect(1), world.connect(2)
    world.write(session, create(1, b"/e", flags=1))
    before = world.tree.zxid
    world.command(encode_expire(session, 1, B1))
    assert session not in world.tree.sessions
    assert world.read(other, exists(1, b"/e")).err == -101
    assert world.tree.zxid == before + 1
    assert world.sink.named("ended") == [(session,)]


@pytest.mark.parametrize(("epoch", "ballot"), [(2, B1), (1, B2), (0, B1)])
def test_an_expiry_is_void_after_a_new_attachment_or_under_another_leader(
    world: World, epoch: int, ballot: Ballot
) -> None:
    """Else a leader that is none any more, or has not heard of the reconnect, would kill a living client."""
    session = world.connect(1)
    world.write(session, create(1, b"/e", flags=1))
    before = world.tree.zxid
    world.command(encode_expire(session, epoch, ballot))
    assert session in world.tree.sessions
    assert world.tree.zxid == before
    assert world.sink.named("ended") == []


def test_an_expiry_proposed_before_a_new_leader_opened_is_void(world: World) -> None:
    session = world.connect(1)
    stale = encode_expire(session, 1, B1)
    world.open_ballot(B2)
    world.command(stale)
    assert session in world.tree.sessions
    world.command(encode_expire(session, 1, B2))
    assert session not in world.tree.sessions


def test_silence_is_kept_until_any_frame_or_the_leader_ends_it(world: World) -> None:
    session = world.connect(1)
    state = world.tree.sessions[session]
    world.command(encode_silent(session, 1, B1, 77))
    assert state.silent_since_ms == 77
    world.command(encode_awake(session, 1, B2))
    assert state.silent_since_ms == 77
    assert ("awake", session) not in world.sink.calls
    world.command(encode_awake(session, 1, B1))
    assert state.silent_since_ms is None
    assert ("awake", session) in world.sink.calls
    world.command(encode_silent(session, 1, B1, 78))
    world.write(session, create(1, b"/a"))
    assert state.silent_since_ms is None
    world.command(encode_silent(session, 1, B1, 79))
    world.attach(2, session)
    assert state.silent_since_ms is None
    world.command(encode_silent(session, 1, B1, 80))
    assert state.silent_since_ms is None, "it spoke of the attachment before"
    world.command(encode_silent(session, 2, B2, 80))
    assert state.silent_since_ms is None, "it is of a leader that has not opened"


def test_every_slice_touches_its_session(world: World) -> None:
    session = world.connect(1)
    world.sink.calls.clear()
    world.write(session, create(1, b"/a"))
    assert world.sink.named("touched") == [(session,)]


# -- the duplicate rule --------------------------------------------------------------------------------


def test_a_repeated_group_is_skipped(world: World) -> None:
    """Origins send again to a new leader what they have not seen applied: it must not happen twice."""
    session = world.connect(1)
    group = world.group(world.slice(session, create(1, b"/a-", flags=2)))
    world.command(group)
    world.command(group, group)
    assert [path for path in world.tree.nodes if path.startswith(b"/a-")] == [b"/a-0000000000"]
    assert len(world.sink.named("skipped")) == 2
    assert world.sink.named("applied")[-1] == world.sink.named("skipped")[0]
    assert len(world.sink.take(1)) == 1


def test_a_group_after_a_gap_is_skipped_until_its_origin_sends_again(world: World) -> None:
    session = world.connect(1)
    first = world.group(world.slice(session, create(1, b"/a")))
    second = world.group(world.slice(session, create(2, b"/b")))
    world.command(second)
    assert b"/b" not in world.tree.nodes
    assert world.sink.named("skipped") == [(1, 1, world.seq)]
    world.command(first, second)
    assert b"/b" in world.tree.nodes
    assert [r.xid for r in world.sink.take(1)] == [1, 2]


def test_the_rule_of_boots(world: World) -> None:
    def outcome(boot: int, seq: int) -> str:
        world.sink.calls.clear()
        world.command(encode_group(7, boot, seq, []))
        return world.sink.calls[0][0]

    assert outcome(5, 2) == "skipped"
    assert outcome(5, 1) == "applied"
    assert outcome(5, 2) == "applied"
    assert outcome(6, 3) == "skipped"
    assert outcome(6, 1) == "applied"
    assert outcome(5, 3) == "skipped"
    assert outcome(6, 1) == "skipped"
    assert outcome(0, 1) == "skipped"
    assert world.tree.origins[7] == (6, 1)


def test_the_output_is_asked_for_once_per_slice_and_never_for_skipped_groups(world: World) -> None:
    """The host serves the reads that wait before a slice when it is asked: once too often would be too early."""
    session = world.connect(1)
    world.sink.calls.clear()
    group = world.group(world.slice(session, create(1, b"/a"), create(2, b"/b")), world.slice(session, close(3)))
    world.command(group)
    world.command(group)
    assert world.sink.named("output") == [(session, 1)] * 2


# -- identities ----------------------------------------------------------------------------------------


def who(world: World, session: int) -> bytes:
    return world.read(session, frame(1, 107)).body


def test_auth_is_answered_and_remembered_until_the_next_attachment(world: World) -> None:
    session = world.connect(1)
    world.auth(session, b"digest", b"joe:hash")
    assert [(r.xid, r.err) for r in world.sink.take(1)] == [(-4, 0)]
    assert world.tree.sessions[session].identities == [(b"digest", b"joe:hash")]
    assert who(world, session) == struct.pack(">ii", 1, 6) + b"digest" + struct.pack(">i", 3) + b"joe"
    world.auth(session, b"digest", b"joe:hash")
    assert len(world.tree.sessions[session].identities) == 1
    world.attach(2, session)
    assert world.tree.sessions[session].identities == []


def test_identities_are_bounded(world: World) -> None:
    session = world.connect(1)
    for number in range(65):
        world.auth(session, b"digest", b"%d:h" % number)
    assert [r.err for r in world.sink.take(1)] == [0] * 64 + [-115]
    assert len(world.tree.sessions[session].identities) == 64


def test_auth_of_an_older_attachment_is_refused(world: World) -> None:
    session = world.connect(1)
    old = encode_auth(session, 1, -4, b"digest", b"joe:hash")
    world.attach(2, session)
    world.items(old)
    assert world.tree.sessions[session].identities == []
    assert [(r.xid, r.err) for r in world.sink.take(1)] == [(-4, -118)]


def test_an_ip_identity_is_the_origins_statement(world: World) -> None:
    session = world.connect(1)
    world.sink.calls.clear()
    world.auth(session, b"ip", b"127.0.0.1")
    world.auth(session, b"ip", b"10.0.0.1")
    assert world.tree.sessions[session].identities == [(b"ip", b"10.0.0.1")]
    assert world.sink.named("output") == []


def test_ephemerals_of_a_session_can_be_listed(world: World) -> None:
    session = world.connect(1)
    world.write(session, create(1, b"/p"), create(2, b"/p/b", flags=1), create(3, b"/p/a", flags=1))
    world.write(session, create(4, b"/x", flags=1), create(5, b"/lasting"))
    assert world.read(session, read(1, 103, b"/", None)).names() == [b"/p/a", b"/p/b", b"/x"]
    assert world.read(session, read(1, 103, b"/p", None)).names() == [b"/p/a", b"/p/b"]
    assert world.read(session, read(1, 103, b"/none", None)).names() == []


# -- the log's own rules -------------------------------------------------------------------------------


def test_slots_are_applied_in_order_without_gaps(world: World) -> None:
    slot = world.tree.slot
    for wrong in (slot, slot + 2, 0):
        with pytest.raises(InvariantViolation):
            world.tree.apply(wrong, b"", world.sink)
    world.tree.apply(slot + 1, b"", world.sink)


def test_the_no_op_changes_nothing_but_the_slot(world: World) -> None:
    zxid, time = world.tree.zxid, world.tree.cell_time_ms
    world.tree.apply(world.tree.slot + 1, b"", world.sink)
    assert (world.tree.zxid, world.tree.cell_time_ms) == (zxid, time)


def test_cell_time_never_goes_back_and_the_wall_stamp_may(world: World) -> None:
    session = world.connect(1)
    for cell_time_ms, wall_ms in ((500, 9_000), (400, 5_000)):
        world.seq += 1
        items = [encode_slice(session, 1, 1, create(1, b"/w%d" % wall_ms))]
        group = encode_group(1, 1, world.seq, items)
        world.apply(encode_batch(feature_level=1, cell_time_ms=cell_time_ms, wall_ms=wall_ms, commands=[group]))
    assert world.tree.cell_time_ms == 500
    assert world.read(session, exists(1, b"/w5000")).stat()["ctime"] == 5_000


@pytest.mark.parametrize(
    "batch",
    [
        b"x",
        encode_batch(feature_level=2, cell_time_ms=0, wall_ms=0, commands=[]),
        encode_batch(feature_level=0, cell_time_ms=0, wall_ms=0, commands=[]),
        encode_batch(feature_level=1, cell_time_ms=0, wall_ms=0, commands=[b"\x63"]),
        encode_batch(feature_level=1, cell_time_ms=0, wall_ms=0, commands=[]) + b"x",
        encode_batch(feature_level=1, cell_time_ms=0, wall_ms=0, commands=[encode_group(1, 1, 1, [b"\x09\0\0\0\0"])]),
        b"\x02" + encode_batch(feature_level=1, cell_time_ms=0, wall_ms=0, commands=[])[1:],
    ],
)
def test_what_this_version_does_not_know_stops_it_before_anything_changes(world: World, batch: bytes) -> None:
    """Skipping would make this replica differ from its peers."""
    good = encode_group(1, 1, world.seq + 1, [encode_create_session(1, 1, PASSWORD)])
    mixed = encode_batch(feature_level=1, cell_time_ms=10**6, wall_ms=0, commands=[good, b"\x63"])
    slot, zxid, time = world.tree.slot, world.tree.zxid, world.tree.cell_time_ms
    for one in (batch, mixed):
        with pytest.raises(UnknownCommand):
            world.tree.apply(slot + 1, one, world.sink)
    assert (world.tree.slot, world.tree.zxid, world.tree.cell_time_ms) == (slot, zxid, time)
    assert world.sink.named("opened") == []


def test_read_your_writes(world: World) -> None:
    session = world.connect(1)
    world.write(session, create(1, b"/a", b"1"))
    for value in (b"2", b"3"):
        assert world.one(session, set_data(2, b"/a", value)).err == 0
        assert world.read(session, get_data(3, b"/a")).field() == value
