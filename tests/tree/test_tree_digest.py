"""The digest: equal states give equal numbers, however and whenever the hashing steps fall."""

from __future__ import annotations

import random

import pytest
from tree_load import Load
from tree_world import RecordingSink, World, create, delete, set_acl, set_data

from synod.tree import Tree, encode_digest_now
from synod.tree._digest import entity_hash


def recomputed(tree: Tree) -> int:
    """The slow twin: every entity is hashed anew."""
    return tree.digest_anew()


@pytest.mark.parametrize("seed", range(8))
def test_steps_of_any_size_at_any_time_give_the_digest_of_the_freeze(seed: int) -> None:
    """Also when znodes change, come and go, and a snapshot runs, between the freeze and the hashing."""
    load = Load(seed)
    rng = random.Random(seed)
    tree, sink = Tree(), RecordingSink()
    expected: dict[int, int] = {}
    seen: dict[int, int] = {}
    for slot in range(1, 300):
        batch = load.batch(tree)
        tree.apply(slot, batch, sink)
        if rng.random() < 0.1:
            tree.freeze()
        if tree.digest_pending and tree._digest._slot == slot:
            expected[slot] = recomputed(tree)
        if rng.random() < 0.05:
            tree.begin_snapshot()
        if rng.random() < 0.7:
            tree.digest_step(rng.choice([1, 2, 7, 50]))
        seen[tree.digest_slot] = tree.digest()
    while tree.digest_step(3):
        pass
    seen[tree.digest_slot] = tree.digest()
    del seen[0]
    assert len(seen) > 5
    assert all(expected[slot] == value for slot, value in seen.items())


def test_every_1024th_slot_is_digested() -> None:
    tree, sink = Tree(), RecordingSink()
    for slot in range(1, 2100):
        tree.apply(slot, b"", sink)
        tree.digest_step(2)
    assert tree.digest_slot == 2048
    for slot in range(2100, 3073):
        tree.apply(slot, b"", sink)
    assert tree.digest_pending
    assert (tree.digest_slot, tree._digest._slot) == (2048, 3072)


def test_a_digest_command_takes_the_state_after_its_slot() -> None:
    world = World()
    session = world.connect(1)
    group = world.group(world.slice(session, create(1, b"/a")))
    world.command(encode_digest_now(), group)
    expected = recomputed(world.tree)
    world.write(session, set_data(2, b"/a", b"later"), create(3, b"/b"))
    assert world.tree.digest_step(10**6) is False
    assert world.tree.digest() == expected
    assert world.tree.digest_slot == world.tree.slot - 1
    assert recomputed(world.tree) != expected


def test_each_replicated_field_counts() -> None:
    """A digest that overlooked a field would let replicas differ in it unseen."""
    world = World()
    session_id = world.connect(1)
    world.write(session_id, create(1, b"/a", b"v"))
    tree = world.tree
    node, session = tree.nodes[b"/a"], tree.sessions[session_id]
    base = recomputed(tree)

    def differs(entity: object, name: str, value: object) -> None:
        old = getattr(entity, name)
        setattr(entity, name, value)
        assert recomputed(tree) != base, name
        setattr(entity, name, old)
        assert recomputed(tree) == base

    for name in ("czxid", "mzxid", "pzxid", "ctime", "mtime", "version", "creates", "aversion", "owner"):
        differs(node, name, getattr(node, name) + 1)
    differs(node, "data", b"w")
    differs(node, "data", None)
    differs(node, "path", b"/b")
    differs(node, "acl", tree.share_acl(((1, b"world", b"anyone"),)))
    for name in ("id", "timeout_ms", "attach_epoch"):
        differs(session, name, getattr(session, name) + 1)
    differs(session, "password_hash", bytes(16))
    differs(session, "identities", [(b"digest", b"x:y")])
    differs(session, "silent_since_ms", 0)
    for name in ("zxid", "cell_time_ms", "slot"):
        differs(tree, name, getattr(tree, name) + 1)
    differs(tree, "opening_ballot", (9, 9))
    differs(tree, "origins", {1: (1, 9)})
    differs(tree, "configuration", b"other")


def test_a_change_of_an_access_list_is_hashed() -> None:
    """Lists are changed by the log alone; who has another one has another digest (etcd #14571)."""
    world = World()
    session = world.connect(1)
    world.write(session, create(1, b"/a", b"v"), create(2, b"/b", b"v"))
    digests = set()
    for permissions in (31, 1, 31):
        world.write(session, set_acl(3, b"/a", [(permissions, b"world", b"anyone"), (16, b"world", b"anyone")]))
        world.tree.freeze()
        world.tree.digest_step(10**6)
        assert world.tree.digest() == recomputed(world.tree)
        digests.add(world.tree.digest())
    assert len(digests) == 3


def test_null_and_empty_values_have_other_digests() -> None:
    world = World()
    session = world.connect(1)
    world.write(session, create(1, b"/a", b""))
    node = world.tree.nodes[b"/a"]
    empty = entity_hash(node)
    node.data = None
    assert entity_hash(node) != empty


def test_a_freeze_before_the_last_one_is_hashed_finishes_that_first() -> None:
    world = World()
    session = world.connect(1)
    world.write(session, *(create(n, b"/n%d" % n) for n in range(20)))
    world.tree.freeze()
    first, slot = recomputed(world.tree), world.tree.slot
    world.write(session, *(delete(n, b"/n%d" % n) for n in range(10)))
    world.tree.freeze()
    assert (world.tree.digest(), world.tree.digest_slot) == (first, slot)
    assert world.tree.digest_step(10**6) is False
    assert world.tree.digest() == recomputed(world.tree)
