"""Backups as files, made without a cell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from synod.base import Configuration, Member
from synod.storage import BackupHeader, MemoryFileSystem
from synod.storage._snapshots import NAME, SnapshotWriter
from synod.tree import Tree

CELL = "ce" * 16
CONFIGURATION = Configuration(CELL, (Member(1, "127.0.0.1:1"),))


def chunks_of(tree: Tree) -> Iterator[bytes]:
    tree.begin_snapshot()
    while (chunk := tree.snapshot_step(300)) is not None:
        yield chunk


def file_of(tree: Tree, *, cell: str = CELL, digest: bytes | None = None) -> bytes:
    """The bytes of a backup of a tree."""
    fs = MemoryFileSystem()
    fs.make_dir("/d")
    writer = SnapshotWriter(fs, "/d", bytes.fromhex(cell), tree.slot)
    for chunk in chunks_of(tree):
        writer.write(chunk)
    writer.finish()
    writer.publish()
    tree.freeze()
    while tree.digest_step(10_000):
        pass
    snapshot = fs.durable_bytes(f"/d/{NAME.format(tree.slot)}")
    header = BackupHeader(
        level=tree.feature_level,
        cell_id=bytes.fromhex(cell),
        slot=tree.slot,
        zxid=tree.zxid,
        znodes=tree.znodes,
        sessions=len(tree.sessions),
        taken_ms=1_700_000_000_000,
        digest=tree.digest().to_bytes(16, "big") if digest is None else digest,
        snapshot_bytes=len(snapshot),
    )
    return header.encode() + snapshot


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)
