"""Who the members are is part of the state: in the digest, in snapshots, and to be read and watched by everybody."""

from __future__ import annotations

import pytest
from tree_world import World, get_data, state_of

from synod.base import Change, Configuration, Member
from synod.tree import Tree, UnknownCommand

FIRST = Configuration("0123456789abcdef" * 2, tuple(Member(i, f"127.0.0.1:{7000 + i}") for i in (1, 2, 3)))
GROWN = FIRST.added(4, "127.0.0.1:7004")
CONFIG = b"/zookeeper/config"


def value(before: Configuration, after: Configuration) -> bytes:
    return Change(after, before.digest(), b"i" * 16).encode()


def world() -> World:
    return World(Tree(configuration=FIRST.encode()))


def digest(tree: Tree) -> int:
    tree.freeze()
    while tree.digest_step(1_000):
        pass
    return tree.digest()


def test_a_change_is_shown_in_zookeepers_place_and_told_to_who_watches_it() -> None:
    """It is a write like any other: a zxid, a version, an event before any reply that shows it."""
    w = world()
    session = w.connect(1)
    assert w.read(session, get_data(1, CONFIG, watch=True)).field() == FIRST.encode()
    zxid = w.tree.zxid
    w.apply(value(FIRST, GROWN))
    [event] = w.sink.take(1)
    assert event.event() == (3, CONFIG)
    assert event.zxid == w.tree.zxid == zxid + 1
    reply = w.read(session, get_data(2, CONFIG))
    assert reply.field() == GROWN.encode() == w.tree.configuration
    stat = reply.stat()
    assert (stat["mzxid"], stat["version"]) == (zxid + 1, 1)


def test_a_change_that_does_not_fit_is_a_slot_without_effect() -> None:
    """Nothing moves but the slot: the same on every replica."""
    w = world()
    before = state_of(w.tree)
    slot = w.tree.slot
    for wrong in (value(GROWN, GROWN.removed(1)), value(FIRST, FIRST.removed(1).removed(2))):
        w.apply(wrong)
    assert w.tree.slot == slot + 2
    assert w.tree.configuration == FIRST.encode()
    assert state_of(w.tree)[1:] == before[1:]


def test_the_members_are_in_the_digest_and_in_the_snapshot() -> None:
    """Replicas that disagree about the members have gone astray; one that catches up by a snapshot knows them."""
    one, other = world(), world()
    one.apply(value(FIRST, GROWN))
    other.apply(value(FIRST, FIRST.removed(3)))
    assert digest(one.tree) != digest(other.tree)
    one.tree.begin_snapshot()
    chunks = []
    while (chunk := one.tree.snapshot_step(1_000)) is not None:
        chunks.append(chunk)
    again = Tree.restore(chunks)
    assert again.configuration == GROWN.encode()
    assert digest(again) == digest(one.tree)
    again.check()


def test_a_change_of_a_later_version_stops_the_replica_before_anything_changes() -> None:
    """Skipping it would be going another way than the others."""
    w = world()
    before = state_of(w.tree)
    with pytest.raises(UnknownCommand):
        w.apply(b"\xfe\x09" + bytes(64))
    assert state_of(w.tree) == before
