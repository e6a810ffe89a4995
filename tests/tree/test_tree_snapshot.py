"""Snapshots: the bytes say what was true at `begin_snapshot`, whatever happens while they are written."""

from __future__ import annotations

import random
import sys

import pytest
from tree_load import Load
from tree_world import RecordingSink, World, create, delete, exists, set_data, set_watches, state_of

from synod.base import Ballot, Corruption
from synod.tree import (
    Tree,
    UnknownCommand,
    encode_batch,
    encode_digest_now,
    encode_expire,
    encode_opening,
    summarize,
)
from synod.tree._snapshot import CHILDREN_PER_SLICE
from synod.wire import ERR_NO_NODE, EVENT_CHILDREN_CHANGED, EVENT_DELETED


def whole(tree: Tree, step: int = 1 << 18) -> list[bytes]:
    tree.begin_snapshot()
    chunks = []
    while (chunk := tree.snapshot_step(step)) is not None:
        chunks.append(chunk)
    return chunks


def settled_digest(tree: Tree) -> int:
    tree.freeze()
    tree.digest_step(10**9)
    return tree.digest()


@pytest.fixture(scope="module")
def busy() -> World:
    """A tree with everything in it."""
    load = Load(3)
    world = World(Tree(configuration=b"the configuration"))
    for slot in range(1, 200):
        world.tree.apply(slot, load.batch(world.tree), world.sink)
    assert world.tree.ephemerals
    assert world.tree.containers
    assert any(session.identities for session in world.tree.sessions.values())
    return world


def test_restore_gives_the_same_state_and_the_same_bytes_again(busy: World) -> None:
    chunks = whole(busy.tree)
    restored = Tree.restore(chunks)
    restored.check()
    assert state_of(restored) == state_of(busy.tree)
    assert b"".join(whole(restored)) == b"".join(chunks)
    assert settled_digest(restored) == settled_digest(busy.tree)


@pytest.mark.parametrize("seed", range(8))
def test_a_walk_in_tiny_steps_with_writes_in_between_restores_the_beginning(seed: int) -> None:
    load, rng = Load(seed), random.Random(seed)
    tree, sink = Tree(), RecordingSink()
    slot = 0
    log: dict[int, bytes] = {}
    for round_ in range(6):
        for _ in range(40):
            slot += 1
            log[slot] = load.batch(tree)
            tree.apply(slot, log[slot], sink)
        if round_ % 2:
            tree.freeze()
        begun_at, state = slot, state_of(tree)
        tree.begin_snapshot()
        chunks = []
        while (chunk := tree.snapshot_step(rng.choice([1, 50, 400]))) is not None:
            chunks.append(chunk)
            for _ in range(rng.randrange(3)):
                slot += 1
                log[slot] = load.batch(tree)
                tree.apply(slot, log[slot], sink)
                tree.digest_step(rng.randrange(3))
        assert all(chunks)
        restored = Tree.restore(chunks)
        restored.check()
        assert state_of(restored) == state
        # The rest of the log brings it to where the other is.
        for later in range(begun_at + 1, slot + 1):
            restored.apply(later, log[later], RecordingSink())
        assert state_of(restored) == state_of(tree)
        assert settled_digest(restored) == settled_digest(tree)


def test_chunks_are_bounded() -> None:
    world = World()
    session = world.connect(1)
    for n in range(300):
        world.write(session, create(n, b"/n%d" % n, b"v" * 100))
    chunks = whole(world.tree, 4096)
    assert max(map(len, chunks)) <= 4096 + 256
    assert len(chunks) > 10
    # Pre-images pile up between the steps; they do not make one step larger.
    world.tree.begin_snapshot()
    for n in range(300):
        world.write(session, set_data(n, b"/n%d" % n, b"w"))
    chunks = []
    while (chunk := world.tree.snapshot_step(4096)) is not None:
        chunks.append(chunk)
    assert max(map(len, chunks)) <= 4096 + 256
    assert Tree.restore(chunks).nodes[b"/n7"].data == b"v" * 100


@pytest.mark.parametrize("seed", range(4))
def test_many_children_of_one_znode_are_listed_in_slices(seed: int) -> None:
    """A few at a time while none comes or goes, and none is forgotten when some do, also below such a znode."""
    rng = random.Random(seed)
    world = World()
    session = world.connect(1)
    many = 4 * CHILDREN_PER_SLICE
    world.write(session, create(0, b"/a"), create(0, b"/a/m"), create(0, b"/z"))
    for above in (b"/a", b"/a/m"):
        for n in range(many):
            world.write(session, create(n, b"%b/%d" % (above, n), b"v"))
    tree = world.tree
    state = state_of(tree)
    tree.begin_snapshot()
    if seed == 3:  # what changed before the walk came to it, in the same era, tells nobody of the next change
        world.write(session, delete(1, b"/a/7"), delete(1, b"/a/m/7"))
    chunks: list[bytes] = []
    listed = 0
    while (chunk := tree.snapshot_step(4096)) is not None:
        chunks.append(chunk)
        if tree._walk is not None:
            listed = max(listed, len(tree._walk._paths))
        if seed == 0 or rng.random() < 0.8:
            world.write(session, set_data(1, b"/a/%d" % rng.randrange(many), b"w"))  # none comes or goes
            continue
        above = rng.choice([b"/a", b"/a/m"])
        for n in rng.sample(range(many), 3):
            if above + b"/%d" % n in tree.nodes:
                world.write(session, delete(1, b"%b/%d" % (above, n)))
        world.write(session, create(1, b"%b/new-%d" % (above, len(chunks))))
    assert seed or listed < 2 * CHILDREN_PER_SLICE
    restored = Tree.restore(chunks)
    restored.check()
    assert state_of(restored) == state


def test_the_cuts_between_chunks_mean_nothing(busy: World) -> None:
    data = b"".join(whole(busy.tree))
    for size in (1, 7, 1000, len(data)):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert state_of(Tree.restore(pieces)) == state_of(busy.tree)
    assert state_of(Tree.restore([b"", data, b""])) == state_of(busy.tree)


def test_every_damage_is_noticed() -> None:
    world = World()
    session = world.connect(1)
    world.write(session, create(1, b"/a", b"v"), create(2, b"/a/e", flags=1))
    data = b"".join(whole(world.tree))
    for at in range(len(data)):
        for flip in (1, 0x80):
            broken = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            # Bytes 10 to 13 are the versions: what is damaged there looks like the work of a newer replica.
            with pytest.raises(UnknownCommand if 10 <= at < 14 else Corruption):
                Tree.restore([broken])
    for cut in range(len(data)):
        with pytest.raises(Corruption):
            Tree.restore([data[:cut]])
    with pytest.raises(Corruption):
        Tree.restore([data, b"x"])
    with pytest.raises(Corruption):
        Tree.restore([])


def test_a_new_snapshot_replaces_one_that_is_under_way() -> None:
    world = World()
    session = world.connect(1)
    world.write(session, create(1, b"/a", b"1"))
    world.tree.begin_snapshot()
    world.tree.snapshot_step(1)
    world.write(session, set_data(2, b"/a", b"2"), create(3, b"/b"))
    restored = Tree.restore(whole(world.tree))
    assert restored.nodes[b"/a"].data == b"2"
    assert b"/b" in restored.nodes
    world.tree.begin_snapshot()
    world.tree.abandon_snapshot()
    assert world.tree.snapshot_step(100) is None
    assert Tree().snapshot_step(100) is None


def test_what_changes_during_the_walk_is_written_as_it_was() -> None:
    """Each kind of change goes through the choke point: setData, setACL, delete, create below, close."""
    world = World()
    session, dying = world.connect(1), world.connect(2)
    world.write(session, create(1, b"/set", b"old"), create(2, b"/gone", b"there"), create(3, b"/parent"))
    world.write(dying, create(4, b"/ephemeral", flags=1))
    state = state_of(world.tree)
    world.tree.begin_snapshot()
    world.write(session, set_data(5, b"/set", b"new"), delete(6, b"/gone"), create(7, b"/parent/child"))
    world.auth(session, b"digest", b"a:b")
    world.items(world.slice(dying, b"\0\0\0\x08\0\0\0\x01\xff\xff\xff\xf5"))
    world.write(session, create(8, b"/gone", b"another"))
    chunks = []
    while (chunk := world.tree.snapshot_step(1)) is not None:
        chunks.append(chunk)
    assert state_of(Tree.restore(chunks)) == state


def test_a_restored_tree_goes_on_serving() -> None:
    world = World()
    session = world.connect(1)
    world.write(session, create(1, b"/a", b"v"), create(2, b"/e", flags=1))
    restored = World(Tree.restore(whole(world.tree)))
    restored.seq = world.seq
    assert restored.attach(1, session) == 2
    assert restored.read(session, exists(1, b"/e")).stat()["ephemeral_owner"] == session
    assert restored.one(session, create(3, b"/a/n-", flags=2)).field() == b"/a/n-0000000000"
    restored.tree.check()


def test_what_was_deleted_at_the_slot_of_a_snapshot_is_told_by_whoever_begins_with_it() -> None:
    """The log of the deletion is gone with the trim; who watched, and comes here now, hears of it (etcd #19179)."""
    world = World()
    owner, watcher = world.connect(1), world.connect(2)
    world.write(owner, create(1, b"/p"), create(2, b"/p/gone"), create(3, b"/gone"), create(4, b"/kept"))
    since = world.tree.zxid
    world.write(owner, delete(5, b"/p/gone"), delete(6, b"/gone"))
    restored = World(Tree.restore(whole(world.tree)))
    restored.seq = world.seq
    assert restored.tree.slot == world.tree.slot, "nothing lies between the deletion and the snapshot"
    assert restored.attach(3, watcher) == 2
    assert restored.tree.zxid >= since + 2
    asked = set_watches(-8, since, data=[b"/gone", b"/p/gone", b"/kept"], child=[b"/p", b"/kept"])
    assert restored.read(watcher, asked).err == 0
    told = [reply.event() for reply in restored.sink.take(3)]
    assert told == [(EVENT_DELETED, b"/gone"), (EVENT_DELETED, b"/p/gone"), (EVENT_CHILDREN_CHANGED, b"/p")]
    for path in (b"/gone", b"/p/gone"):
        assert restored.read(watcher, exists(1, path)).err == ERR_NO_NODE


def test_a_summary_has_the_digest_of_the_state(busy: World) -> None:
    """Counted and hashed from the bytes alone: what a backup is compared by."""
    summary = summarize(whole(busy.tree))
    assert summary.digest == settled_digest(busy.tree)
    assert (summary.znodes - 1, summary.sessions) == (busy.tree.znodes, len(busy.tree.sessions))
    assert (summary.head.slot, summary.head.zxid) == (busy.tree.slot, busy.tree.zxid)


def test_loading_in_steps_is_loading_at_once(busy: World) -> None:
    """And a step is small; what is dissolved is given back in small steps, to the last znode."""
    chunks = whole(busy.tree)
    steps = list(Tree.loading(chunks))
    assert steps[-1] is not None
    assert all(step is None for step in steps[:-1])
    assert state_of(steps[-1]) == state_of(Tree.restore(chunks))
    world = World()
    session = world.connect(1)
    for n in range(2_000):
        world.write(session, create(n, b"/n%d" % n))
    steps = list(Tree.loading(whole(world.tree)))
    assert len(steps) > 2_000 // 500
    world.tree.freeze()
    references = sys.getrefcount(world.tree.nodes[b"/n1999"])
    node = world.tree.nodes[b"/n1999"]
    assert references > 2
    assert len(list(world.tree.dissolve())) > 2_000 // 500
    assert not world.tree.nodes
    assert sys.getrefcount(node) == 2, "nothing keeps it but this test"


def test_another_cell_begins_with_the_state() -> None:
    """Contents and stats stay; sessions stay but nobody can resume them; nothing of the old replicas stays."""
    world = World(Tree(configuration=b"old"))
    world.open_ballot(Ballot(7, 3))
    session = world.connect(1)
    world.write(session, create(1, b"/a", b"v"), create(2, b"/e", flags=1))
    old = Tree.restore(whole(world.tree))
    tree = Tree.restore(whole(world.tree))
    tree.begin_anew(b"the new configuration")
    tree.check()
    new = World(Tree.restore(whole(tree)), boot=1)
    assert new.tree.origins == {}
    assert new.tree.nodes[b"/zookeeper/config"].data == new.tree.configuration == b"the new configuration"
    for path in (b"/", b"/a", b"/e"):
        assert new.tree.nodes[path].record() == old.nodes[path].record()
    new.open_ballot(Ballot(1, 2))
    assert new.attach(1, session) == 0, "no password fits"
    assert session in new.tree.sessions
    assert b"/e" in new.tree.nodes
    new.command(encode_expire(session, 1, Ballot(1, 2)))
    assert b"/e" not in new.tree.nodes


def test_the_first_leader_of_a_cell_with_a_past_raises_the_zxid_and_no_later_one_does() -> None:
    """Fencing tokens go on rising, whatever the old cell gave out after the backup; the log says by how much."""
    world = World()
    world.open_ballot(Ballot(1, 1))
    world.write(world.connect(1), create(1, b"/a", b"v"))
    zxid = world.tree.zxid
    world.open_ballot(Ballot(2, 1))
    assert world.tree.zxid == zxid, "an ordinary change of leaders takes none"
    world.tree.begin_anew(b"new")
    restored = Tree.restore(whole(world.tree))

    def opening(wall_ms: int) -> bytes:
        commands = [encode_opening(Ballot(1, 1))]
        return encode_batch(feature_level=1, cell_time_ms=0, wall_ms=wall_ms, commands=commands)

    restored.apply(restored.slot + 1, opening(1_700_000_000_000), RecordingSink())
    assert restored.zxid == 1_700_000_000_000 * 128
    restored.apply(restored.slot + 1, opening(1_800_000_000_000), RecordingSink())
    assert restored.zxid == 1_700_000_000_000 * 128
    for wall_ms in (-(1 << 63), 0, (1 << 63) - 1):
        odd = Tree.restore(whole(world.tree))
        odd.apply(odd.slot + 1, opening(wall_ms), RecordingSink())
        assert zxid < odd.zxid < 1 << 62


def test_a_digest_is_left_out_while_much_of_the_last_one_is_to_be_done() -> None:
    """Finishing it at once would take as long as it is large."""
    world = World()
    session = world.connect(1)
    for n in range(60):
        world.write(session, *(create(n * 100 + k, b"/n%d-%d" % (n, k)) for k in range(100)))
    world.command(encode_digest_now())
    first = world.tree.frozen_slot
    world.command(encode_digest_now())
    assert world.tree.frozen_slot == first
    world.tree.digest_step(5_500)
    world.command(encode_digest_now())
    assert world.tree.frozen_slot == world.tree.slot
    assert world.tree.digest_slot == first
