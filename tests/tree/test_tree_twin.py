"""The fast path and its slow twin never differ, whatever comes; nor do two replicas."""

from __future__ import annotations

import pytest
from tree_load import Load
from tree_world import PlainTree, RecordingSink, state_of

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
