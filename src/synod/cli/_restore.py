"""`synod restore`: a new cell that begins with a backup, or a backup's contents put back into a running cell.

A new cell gets the very state, without a gap: the replicas' directories are formatted with it. Into a running cell the
contents come as a client would write them: docs/decisions/backup.md says what that leaves out, and why.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from synod.base import NodeExists, NoNode, NotApplied, NotEmpty, UserError
from synod.wire import ACL, CREATE_CONTAINER, Create, Delete, SetData, Stat

from ._backup import opened_backup
from ._operator import RefusedByCell
from ._output import print_json

if TYPE_CHECKING:
    from synod.client import Cell
    from synod.server import Config
    from synod.storage import BackupReader

OPERATIONS_MAX: Final = 500
"""In one transaction: its apply takes a few milliseconds."""

BYTES_MAX: Final = 512 * 1024
"""In one transaction; a frame holds twice as much."""

ASKED_AT_ONCE: Final = 256
RESERVED: Final = "/zookeeper"


# -- a new cell -----------------------------------------------------------------------------------------------


def begin_replica(file: str, config: Config) -> None:
    """Format the directory of one replica of a new cell, with the backup as its first state.

    Raises:
        UserError: the file is no backup, or the directory is not empty; nothing was changed.
        Damaged: the file is not as it was written; nothing was changed.
    """
    with opened_backup(file) as (reader, _):
        begin_from(reader, file, config)


def begin_from(reader: BackupReader, file: str, config: Config) -> None:
    """The same from a backup that was checked."""
    from synod.storage import Identity, RealFileSystem, begin_directory
    from synod.tree import Tree

    header = reader.header
    if config.cell_id == header.cell_id.hex():
        raise UserError(
            f"{file} is of the cell {config.cell_id}, and the config names that very cell; a restored cell is another "
            f"one: `synod format --new-cell` prints a fresh cell_id for its configs"
        )
    configuration = replace(config.configuration, backup=header.digest.hex(), begins_at=header.slot)
    tree = Tree.restore(reader.chunks())
    tree.begin_anew(configuration.encode())
    tree.begin_snapshot()

    def chunks() -> Iterator[bytes]:
        while (chunk := tree.snapshot_step(BYTES_MAX)) is not None:
            yield chunk

    identity = Identity(config.id, 1, configuration, secrets.randbits(62))
    begin_directory(RealFileSystem(), config.data_dir, identity, header.slot, chunks())


# -- a running cell -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A znode as a client can put it back."""

    data: bytes
    acl: tuple[ACL, ...]
    container: bool = False


@dataclass(slots=True)
class Outcome:
    """What was done, in znodes."""

    created: int = 0
    changed: int = 0
    deleted: int = 0
    kept: int = 0


def wanted_of(reader: BackupReader, below: str) -> dict[str, Entry]:
    """The lasting znodes of a backup at and below a path, parents first."""
    from synod.tree import Tree

    found = {}
    for raw, node in Tree.restore(reader.chunks()).nodes.items():
        path = raw.decode()
        if node.owner <= 0 and _is_within(path, below) and path != "/" and not _is_within(path, RESERVED):
            acl = tuple(ACL(perms, scheme.decode(), who.decode()) for perms, scheme, who in node.acl.entries)
            found[path] = Entry(node.data or b"", acl, node.owner < 0)
    return dict(sorted(found.items()))


def _is_within(path: str, top: str) -> bool:
    return top == "/" or path == top or path.startswith(top + "/")


def restore_online(file: str, hosts: str, *, below: str, force: bool, timeout: float, as_json: bool) -> None:
    """Make the lasting znodes of a running cell those of a backup.

    Raises:
        UserError: the file or the path is no use; nothing was changed.
        Damaged: the file is not as it was written; nothing was changed.
        RefusedByCell: the cell is not empty and that was not asked for; or somebody else wrote meanwhile.
        NotApplied: the cell refused a change; what was done before stays.
        OutcomeUnknown: the cell was lost on the way; the same command goes on from there.
    """
    from synod.client import connect
    from synod.wire import validate_path

    validate_path(below)
    with opened_backup(file) as (reader, _):
        wanted = wanted_of(reader, below)
        slot = reader.header.slot
    if not wanted:
        raise UserError(f"{file} holds nothing at {below}; nothing was changed")

    async def work() -> Outcome:
        async with connect(hosts, timeout=timeout) as cell:
            return await Restoring(cell, wanted, below, force=force).run()

    done = asyncio.run(work())
    if as_json:
        print_json(
            {
                "slot": slot,
                "znodes": len(wanted),
                "created": done.created,
                "changed": done.changed,
                "deleted": done.deleted,
                "kept": done.kept,
            }
        )
    else:
        print(
            f"{len(wanted):,} znodes are as they were at slot {slot}: {done.created:,} created, {done.changed:,} changed, "
            f"{done.deleted:,} deleted, {done.kept:,} of live sessions left alone; all read back and compared"
        )


class Restoring:
    """One restore into a running cell."""

    def __init__(self, cell: Cell, wanted: dict[str, Entry], below: str, *, force: bool) -> None:
        self._cell = cell
        self._wanted = wanted
        self._below = below
        self._force = force
        self._asking = asyncio.Semaphore(ASKED_AT_ONCE)
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """Look, decide, write, and look again."""
        present, living = await self._read()
        if present and not self._force:
            raise RefusedByCell(
                f"the cell is not empty: there is {min(present)} and {len(present) - 1:,} more; --force "
                f"replaces what is there (nothing was changed)"
            )
        for path in living:
            if path in self._wanted:
                raise RefusedByCell(f"{path} belongs to a live session and is in the way; nothing was changed")
        holding = {parent for path in living for parent in _parents(path)}
        self.outcome.kept = len(living)
        gone = [path for path in present if path not in self._wanted and path not in holding]
        await self._write(Delete(path) for path in sorted(gone, reverse=True))
        self.outcome.deleted = len(gone)
        await self._make_parents()
        missing = [(path, entry) for path, entry in self._wanted.items() if path not in present]
        await self._write(
            Create(path, entry.data, entry.acl, CREATE_CONTAINER if entry.container else 0) for path, entry in missing
        )
        self.outcome.created = len(missing)
        other = [path for path in present if path in self._wanted and present[path] != self._plain(path)]
        await self._write(
            SetData(path, self._wanted[path].data) for path in other if present[path].data != self._wanted[path].data
        )
        for path in other:
            if present[path].acl != self._wanted[path].acl:
                await self._cell.set_acl(path, self._wanted[path].acl)
        self.outcome.changed = len(other)
        await self._compare(holding)
        return self.outcome

    def _plain(self, path: str) -> Entry:
        entry = self._wanted[path]
        return Entry(entry.data, entry.acl)

    async def _make_parents(self) -> None:
        """What leads to the path below which is restored is made if it is not there, as nothing but a way."""
        if self._below != "/":
            await self._cell.ensure_path(self._below.rpartition("/")[0] or "/")

    async def _compare(self, holding: set[str]) -> None:
        """Read everything back.

        Raises:
            RefusedByCell: it is not as it was written.
        """
        present, _ = await self._read()
        differing = [path for path in self._wanted if present.get(path) != self._plain(path)]
        differing += [path for path in present if path not in self._wanted and path not in holding]
        if differing:
            raise RefusedByCell(
                f"{min(differing)} and {len(differing) - 1:,} more are not as in the backup: somebody else writes to "
                f"the cell; stop them, and run this again"
            )

    # -- reading -------------------------------------------------------------------------------------------

    async def _read(self) -> tuple[dict[str, Entry], list[str]]:
        """What is there now: the lasting znodes, and the paths of those that live with a session."""
        lasting: dict[str, Entry] = {}
        living: list[str] = []
        level = [self._below]
        while level:
            following: list[str] = []
            for path, node in zip(level, await asyncio.gather(*map(self._read_one, level)), strict=True):
                if node is None:
                    continue
                entry, stat, names = node
                if path != "/":
                    if stat.ephemeral_owner:
                        living.append(path)
                    else:
                        lasting[path] = entry
                below = [f"{path.rstrip('/')}/{name}" for name in names]
                following += [child for child in below if child != RESERVED]
            level = following
            _tell(f"read {len(lasting):,} znodes")
        _tell("")
        return lasting, living

    async def _read_one(self, path: str) -> tuple[Entry, Stat, list[str]] | None:
        async with self._asking:
            try:
                (data, stat), (acl, _), names = await asyncio.gather(
                    self._cell.get(path), self._cell.get_acl(path), self._cell.children(path)
                )
            except NoNode:
                return None  # it went while we looked
        return Entry(data, tuple(acl)), stat, names

    # -- writing -------------------------------------------------------------------------------------------

    async def _write(self, changes: Iterable[Create | Delete | SetData]) -> None:
        """In transactions, one after the other: each happens whole or not at all."""
        done = 0
        for batch in _batches(changes):
            async with _explained(done):
                await self._cell.multi(batch)
            done += len(batch)
            _tell(f"wrote {done:,} changes")
        _tell("")


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _batches(changes: Iterable[Create | Delete | SetData]) -> Iterator[Sequence[Create | Delete | SetData]]:
    batch: list[Create | Delete | SetData] = []
    size = 0
    for change in changes:
        cost = len(change.path) + (0 if isinstance(change, Delete) else len(change.data))
        if batch and (len(batch) == OPERATIONS_MAX or size + cost > BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(change)
        size += cost
    if batch:
        yield batch


@asynccontextmanager
async def _explained(done: int) -> AsyncIterator[None]:
    try:
        yield
    except (NodeExists, NoNode, NotEmpty) as crossed:
        raise RefusedByCell(
            f"somebody else writes to the cell ({crossed}); {done:,} changes of this step were made: stop them, and run "
            f"this again"
        ) from crossed
    except NotApplied as refused:
        raise RefusedByCell(f"{refused}; {done:,} changes of this step were made") from refused


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
