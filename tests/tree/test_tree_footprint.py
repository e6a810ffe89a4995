"""What the tree costs and on what it may not depend: memory, garbage, and the seed of hashes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

from tree_load import Load
from tree_world import World, create, get_data, multi, op_check, op_create, op_delete, set_data

from synod.tree import Tree


def test_a_znode_of_100_bytes_costs_less_than_700() -> None:
    """100,000 of them are to fit into 70 MB: see the speed rules of the design."""
    world = World()
    session = world.connect(1)
    world.write(session, create(0, b"/bench"))
    count = 4_000
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(count):
            world.items(world.slice(session, create(n, b"/bench/key-%07d" % n, b"v" * 100)))
            world.sink.outs[1].clear()
            world.sink.calls.clear()
            world.log.clear()
        world.tree.freeze()
        world.tree.digest_step(count * 2)
        cost = (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
    assert cost < 700, f"{cost:.0f} bytes a znode"


def test_a_workload_leaves_no_cycles_behind() -> None:
    """The collector is off or frozen in production: what is dropped must go by itself."""
    load = Load(7)
    world = World()
    session = world.connect(1)
    gc.collect()
    gc.disable()
    try:
        for slot in range(world.tree.slot + 1, 150):
            world.tree.apply(slot, load.batch(world.tree), world.sink)
            world.tree.read(load.read(world.tree), session, 1, world.sink)
            world.tree.digest_step(3)
        world.seq = world.tree.origins[1][1]
        session = world.connect(1)
        world.write(session, *(create(n, b"/c%d" % n, flags=1) for n in range(50)))
        world.write(session, multi(1, op_create(b"/m"), op_delete(b"/c1"), op_check(b"/none", 1)))
        world.tree.begin_snapshot()
        world.write(session, *(set_data(n, b"/c%d" % n, b"x") for n in range(50)))
        while world.tree.snapshot_step(100) is not None:
            pass
        world.read(session, get_data(1, b"/c1", watch=True))
        world.tree.forget(1)
        assert gc.collect() == 0
    finally:
        gc.enable()


SCRIPT = """
import sys
sys.path[:0] = [{here!r}]
from hashlib import blake2b
from tree_load import Load
from tree_world import RecordingSink, state_of
from synod.tree import Tree
load, tree, sink, out = Load(11), Tree(), RecordingSink(), blake2b()
for slot in range(1, 200):
    tree.apply(slot, load.batch(tree), sink)
    sink.outs.setdefault(1, []).append(tree.read(load.read(tree), 1, 1, sink))
tree.freeze()
tree.digest_step(10**6)
for conn in sorted(sink.outs):
    for frame in sink.outs[conn]:
        out.update(frame)
for record in state_of(tree):
    out.update(record)
print(tree.digest(), out.hexdigest(), repr(sink.calls[-1]))
"""


def test_the_seed_of_hashes_means_nothing() -> None:
    """Replicas are other processes: nothing may depend on the order of a set, or on hash()."""
    here = str(Path(__file__).parent)
    outputs = []
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(here=here)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(done.stdout)
    assert len(outputs[0]) > 100
    assert len(set(outputs)) == 1


def test_statistics() -> None:
    world = World(Tree())
    assert (world.tree.znodes, world.tree.ephemerals, len(world.tree.watches)) == (4, 0, 0)
    session = world.connect(1)
    before = world.tree.approximate_bytes
    world.write(session, create(1, b"/a", b"123", 1), create(2, b"/b", None))
    world.read(session, get_data(1, b"/a", watch=True))
    assert (world.tree.znodes, world.tree.ephemerals, len(world.tree.watches)) == (6, 1, 1)
    assert world.tree.approximate_bytes == before + len(b"/a123/b")
