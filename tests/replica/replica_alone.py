"""A replica by itself, on a disk in memory: what the tests of one replica begin with."""

from __future__ import annotations

import random

from synod.base import Configuration, Micros
from synod.replica import Replica, ReplicaOptions
from synod.storage import Identity, MemoryFileSystem, Store, StoreOptions, format_directory
from synod.tree import Tree

SEGMENT_BYTES = 1 << 20


def new_replica(
    configuration: Configuration, now: Micros, options: ReplicaOptions | None = None
) -> tuple[Store, Replica]:
    """Replica 1 of a new cell, and the store that it began from."""
    fs = MemoryFileSystem()
    format_directory(fs, "/data", Identity(1, 1, configuration))
    return started(fs, configuration, now, options)


def started(
    fs: MemoryFileSystem, configuration: Configuration, now: Micros, options: ReplicaOptions | None = None
) -> tuple[Store, Replica]:
    """Replica 1, from what a disk holds of it."""
    small = StoreOptions(segment_bytes=SEGMENT_BYTES)  # to make a large one takes longer than the test
    store = Store.open(fs, "/data", cell_id=configuration.cell_id, replica_id=1, options=small)
    replica = Replica(
        id=1,
        configuration=configuration,
        options=options or ReplicaOptions(),
        recovered=store.recovered,
        tree=Tree(configuration=configuration.encode()),
        boot=store.boot,
        rng=random.Random(1),
        draw_secret=bytes,
        now=now,
        wall_ms=0,
    )
    return store, replica
