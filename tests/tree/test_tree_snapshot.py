"""Snapshots: the bytes say what was true at `begin_snapshot`, whatever happens while they are written."""

from __future__ import annotations

import random

import pytest
from tree_load import Load
from tree_world import RecordingSink, World, create, delete, exists, set_data, state_of

from synod.base import Corruption
from synod.tree import Tree, UnknownCommand


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
