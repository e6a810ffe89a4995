"""The cell's feature level: part of the state, raised by the log, and never passed by who does not know it."""

from __future__ import annotations

import pytest
from tree_world import World, exists, get_data

from synod.tree import Tree, UnknownCommand, encode_batch, encode_raise

FEATURES = b"/zookeeper/synod"


def whole(tree: Tree) -> list[bytes]:
    tree.begin_snapshot()
    chunks = []
    while (chunk := tree.snapshot_step(1_000)) is not None:
        chunks.append(chunk)
    return chunks


def digest(tree: Tree) -> int:
    tree.freeze()
    while tree.digest_step(1_000):
        pass
    return tree.digest()


def raised(level: int) -> World:
    world = World(Tree(supported_level=level))
    world.command(encode_raise(level))
    return world


def test_a_new_cell_begins_at_the_first_level_whoever_forms_it() -> None:
    """Replicas of two versions that form a cell together apply by the same rules."""
    assert Tree(supported_level=7).feature_level == Tree().feature_level == 1


def test_a_raise_is_a_write_that_clients_see() -> None:
    """It takes a zxid, fires watches, and stands in the znode that clients read."""
    world = World(Tree(supported_level=12))
    me = world.connect(1)
    world.read(me, exists(1, FEATURES, watch=True))
    before = world.tree.zxid
    world.command(encode_raise(12))
    assert world.tree.feature_level == 12
    assert world.tree.zxid == before + 1
    assert world.read(me, get_data(2, FEATURES)).field() == b'{"feature_level": 12}'
    assert len(world.tree.watches) == 0, "the watch has fired"
    world.tree.check()


@pytest.mark.parametrize("level", [1, 3, 4])
def test_the_level_never_falls(level: int) -> None:
    """A lower or equal raise, which a leader that knew less may have proposed, changes nothing."""
    world = raised(4)
    before = (world.tree.zxid, digest(world.tree))
    world.command(encode_raise(level))
    assert (world.tree.feature_level, world.tree.zxid) == (4, before[0])


def test_the_level_is_part_of_digest_and_snapshot() -> None:
    """Two replicas that differ in it differ; one that takes a snapshot over goes on at its level."""
    one, two = raised(2), raised(3)
    assert digest(one.tree) != digest(two.tree)
    restored = Tree.restore(whole(two.tree), supported_level=3)
    assert restored.feature_level == 3
    assert digest(restored) == digest(two.tree)


def test_who_does_not_know_a_level_applies_nothing_of_it() -> None:
    """A raise, a batch and a snapshot beyond it are refused before anything is changed, with what to do."""
    tree = World(Tree(supported_level=2)).tree
    before = digest(tree)
    said = "the cell runs at feature level 3, and this version of synod knows the levels 1 to 2; start this replica"
    for batch in (
        encode_batch(feature_level=1, cell_time_ms=9, wall_ms=9, commands=[encode_raise(3)]),
        encode_batch(feature_level=3, cell_time_ms=9, wall_ms=9, commands=[]),
    ):
        with pytest.raises(UnknownCommand, match=said):
            tree.apply(tree.slot + 1, batch, World().sink)
    assert digest(tree) == before
    with pytest.raises(UnknownCommand, match=said):
        Tree.restore(whole(raised(3).tree), supported_level=2)
