"""The fast path and its slow twin never differ, whatever comes; nor do two replicas."""

from __future__ import annotations

import pytest
from tree_load import Load
from tree_world import (
    OPEN,
    PlainTree,
    RecordingSink,
    World,
    create,
    get_data,
    multi,
    op_check,
    op_delete,
    op_set,
    set_acl,
    set_data,
    state_of,
)

from synod.tree import Tree

SEEDS = range(12)
SLOTS = 250


class Follower:
    """One replica's tree and everything that it gave out."""

    def __init__(self, tree: Tree, origin: int = 1) -> None:
        self.tree = tree
        self.sink = RecordingSink(origin, 1)

    def outs(self) -> dict[int, list[bytes]]:
        return {conn: out for conn, out in self.sink.outs.items() if out}


@pytest.mark.parametrize("seed", SEEDS)
def test_fast_and_plain_give_the_same_replies_events_and_state(seed: int) -> None:
    """Also with damaged frames, closed ACLs, dead sessions, and reads with watches in between."""
    load = Load(seed)
    fast, plain = Follower(Tree(zxid=1000)), Follower(PlainTree(zxid=1000))
    for slot in range(1, SLOTS):
        batch = load.batch(fast.tree)
        for one in (fast, plain):
            one.tree.apply(slot, batch, one.sink)
        for _ in range(load.rng.randrange(6)):
            request = load.read(fast.tree)
            if load.rng.random() < 0.1:
                request = load.damaged(request)
            session = load.rng.choice([*sorted(fast.tree.sessions), 4711])
            conn = load.rng.randrange(6)
            for one in (fast, plain):
                one.sink.outs.setdefault(conn, []).append(one.tree.read(request, session, conn, one.sink))
        if load.rng.random() < 0.05:
            for one in (fast, plain):
                one.tree.forget(3)
        assert fast.outs() == plain.outs()
        assert fast.sink.calls == plain.sink.calls
        for one in (fast, plain):
            for out in one.sink.outs.values():
                out.clear()
            one.sink.calls.clear()
        fast.tree.check()
        if slot % 10 == 0:
            assert state_of(fast.tree) == state_of(plain.tree)
            fast.tree.digest_step(5)
    assert state_of(fast.tree) == state_of(plain.tree)
    assert fast.tree.zxid > 1500, "the load did something"
    assert len(fast.tree.nodes) > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_fast_and_plain_give_the_same_for_transactions_that_only_set_values(seed: int) -> None:
    """Also with a znode twice, versions, closed and missing znodes, nulls, other operations, and frames that are cut."""
    load = Load(seed)
    rng = load.rng
    worlds = [World(Tree()), World(PlainTree())]
    for world in worlds:
        me, other = world.connect(1), world.connect(2)
        for name in (b"/a", b"/b", b"/c"):
            world.one(me, create(1, name, b"0"))
        world.one(me, create(1, b"/shut", b"0", acl=[(31, b"digest", b"u:h")]))
    changed = 0
    for number in range(200):
        operations = [op_set(rng.choice([b"/a", b"/b", b"/c"]), rng.randbytes(rng.randrange(4))) for _ in range(4)]
        if number % 2:
            operations[rng.randrange(4)] = rng.choice(
                [
                    op_set(b"/a", b"", rng.choice([0, world.tree.nodes[b"/a"].version])),
                    op_set(rng.choice([b"/shut", b"/none", b""]), b""),
                    op_set(b"/b", None),
                    op_check(b"/b", -1),
                    op_delete(b"/none"),
                ]
            )
        request = multi(number, *operations)
        if rng.random() < 0.2:
            request = load.damaged(request)
        watched, before = rng.choice([b"/a", b"/b", b"/none"]), world.tree.zxid
        for world in worlds:
            world.read(other, get_data(number, watched, watch=True))
            world.items(world.slice(me, request))
            world.tree.check()
        fast, plain = worlds
        assert fast.sink.outs == plain.sink.outs
        assert state_of(fast.tree) == state_of(plain.tree)
        changed += any(node.mzxid > before for node in world.tree.nodes.values())
        for world in worlds:
            world.sink.take(1)
            world.sink.take(2)
    assert 80 < changed < 180, "some had an effect, and some had none"


@pytest.mark.parametrize("seed", SEEDS)
def test_replicas_that_serve_other_clients_reach_the_same_state(seed: int) -> None:
    """What is local (connections, watches, caches, digest steps, snapshots) leaves no mark on the state."""
    load = Load(seed + 100)
    one, two = Follower(Tree(), origin=1), Follower(Tree(), origin=2)
    for slot in range(1, SLOTS):
        batch = load.batch(one.tree)
        one.tree.apply(slot, batch, one.sink)
        two.tree.apply(slot, batch, two.sink)
        two.sink.outs.setdefault(1, [])
        for _ in range(3):
            two.tree.read(load.read(one.tree), 1, 1, two.sink)
        if slot % 40 == 0:
            two.tree.begin_snapshot()
        two.tree.snapshot_step(100)
    assert state_of(one.tree) == state_of(two.tree)
    for follower in (one, two):
        follower.tree.freeze()
        follower.tree.digest_step(10**6)
    assert one.tree.digest() == two.tree.digest() != 0


@pytest.mark.parametrize("version", [0, 4_094, 4_095, 70_000, 2_147_483_646, 2_147_483_647, -2_147_483_648, -3, -2])
def test_fast_and_plain_tell_the_same_stat_whatever_its_numbers_are(version: int) -> None:
    """What is put together from pieces that were made before is what would be packed anew, of plain znodes and others."""
    told = []
    for tree in (Tree(zxid=1 << 40), PlainTree(zxid=1 << 40)):
        world = World(tree)
        me = world.connect(1)
        world.write(me, create(1, b"/plain"), create(2, b"/parent"), create(3, b"/parent/child"))
        world.write(me, create(4, b"/mine", flags=1), create(5, b"/acl"), set_acl(6, b"/acl", OPEN, 0))
        got = []
        for length in (0, 100, 4_007, 4_008, 4_095, 4_096):
            value = b"v" * length
            for path in (b"/plain", b"/parent", b"/mine", b"/acl"):
                world.tree.nodes[path].version = version
                got += world.write(me, multi(7, op_set(path, value), op_set(path, value)), set_data(8, path, value))
                got.append(world.read(me, get_data(9, path)))
        told.append([repr(reply) for reply in got])
    assert told[0] == told[1]
