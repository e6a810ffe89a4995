"""Everything durable of one replica: identity, log and snapshots, behind one door.

Calls block, and come from one thread at a time; but `compose` and `composed` do not block, and another thread may be in
`prepare` meanwhile. After an error of the active segment the store is dead: a failed sync may have dropped what it was to
write, so that trying again would report success for lost data.
Ref: Rebello et al. 2020 (after a failed fsync pages are marked clean).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from synod.base import Ballot, Corruption, DataDirError, Entry, NoSpace, Slot, StorageError

from ._files import FileSystem, join
from ._identity import LOCK, Identity, demand_memory, load_identity, raise_boot_count
from ._log import Composed, Log
from ._snapshots import NAME, NotOurs, Snapshots

SEGMENT_BYTES: Final = 16 << 20
"""Zero-filling and syncing this much takes some ten milliseconds, and it holds four thousand small groups."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Sizes in bytes."""

    segment_bytes: int = SEGMENT_BYTES


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the disk held at the start.

    Args:
        promised: the highest ballot promised.
        entries: the highest ballot per slot past the snapshot.
        chosen_mark: everything up to here was known chosen.
        log_start: everything up to here is only in the snapshot.
        unknown: slots past the snapshot whose record is rotten.
        snapshot_slot: the slot of the snapshot that `snapshot_chunks` gives; 0 without one.
        peers: what the last sync group said about the peers' disks.
        lost_upto: the state up to here was in a snapshot that is damaged, and what is left does not reach so far.
        warnings: what is damaged, by file and place.
    """

    promised: Ballot
    entries: tuple[Entry, ...]
    chosen_mark: Slot
    log_start: Slot
    unknown: frozenset[Slot]
    snapshot_slot: Slot
    peers: bytes
    warnings: tuple[str, ...] = ()
    lost_upto: Slot = 0


class Store:
    """The disk of one replica. Made by `open`."""

    def __init__(self, fs: FileSystem, directory: str, identity: Identity, options: StoreOptions) -> None:
        self._fs = fs
        self._directory = directory
        self.identity = identity
        self._cell_id = bytes.fromhex(identity.cell_id)
        self._dead: str | None = None
        self._lock = fs.lock(join(directory, LOCK))
        try:
            self._starts = raise_boot_count(fs, directory)
            self._nonces = 0
            self._snapshots = Snapshots(fs, directory, self._cell_id)
            self._log = Log(
                fs,
                directory,
                cell_id=self._cell_id,
                replica=identity.replica_id,
                incarnation=identity.incarnation,
                configuration=identity.configuration.digest(),
                segment_bytes=options.segment_bytes,
                draw_nonce=self._draw_nonce,
            )
            self._unusable: dict[Slot, str] = {}
            self._recover()
        except BaseException:
            self._lock.close()
            raise

    def _recover(self) -> None:
        self._chunks, self.snapshot_slot, lost_upto, warnings = self._best_snapshot()
        self.recovered = Recovered(
            promised=self._log.promised,
            entries=self._log.entries(self.snapshot_slot),
            chosen_mark=max(self._log.chosen_mark, self.snapshot_slot),
            log_start=self.log_start,
            unknown=frozenset(slot for slot in self._log.unknown if slot > self.snapshot_slot),
            snapshot_slot=self.snapshot_slot,
            peers=self._log.peers,
            warnings=(*warnings, *self._log.unknown.values()),
            lost_upto=lost_upto,
        )

    def snapshot_unusable(self, why: str) -> None:
        """The file of the latest snapshot is sound, but what it holds is no state: go on as if it were damaged.

        `recovered` is another one afterwards.

        Raises:
            Corruption: there is no older one that the log reaches back to, and nobody else has what it held.
        """
        path = join(self._directory, NAME.format(self.snapshot_slot))
        self._unusable[self.snapshot_slot] = f"{path}: {why}"
        self._recover()

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        directory: str,
        *,
        cell_id: str,
        replica_id: int,
        incarnation: int | None = None,
        options: StoreOptions | None = None,
    ) -> Store:
        """Open a formatted directory, lock it, count the start, and read what it holds.

        Raises:
            DataDirError: unformatted, another replica's or cell's, of a newer version, not writable, in use, or
                marked as one that has forgotten its votes.
            Corruption: something was durable once and is gone or damaged; the text names file and record.
            StorageError: the disk failed.
        """
        if not fs.exists(directory):
            raise DataDirError(f"{directory} does not exist; `synod format CONFIG` makes and formats it, once")
        identity = load_identity(fs, directory)
        if identity.cell_id != cell_id:
            raise DataDirError(
                f"{directory} belongs to the cell {identity.cell_id}, the config names the cell {cell_id}; "
                f"check data_dir and cell_id"
            )
        if identity.replica_id != replica_id:
            raise DataDirError(
                f"{directory} belongs to replica {identity.replica_id}, the config is that of replica {replica_id}; "
                f"check data_dir and id"
            )
        if incarnation is not None and identity.incarnation != incarnation:
            raise DataDirError(
                f"{directory} belongs to incarnation {identity.incarnation} of replica {replica_id}, the config says "
                f"{incarnation}; a new incarnation needs an empty directory: move the old one away, and format again"
            )
        demand_memory(fs, directory)
        return cls(fs, directory, identity, options or StoreOptions())

    @property
    def directory(self) -> str:
        """Where it lies."""
        return self._directory

    @property
    def boot(self) -> int:
        """Rises with every start, and past every start of the incarnations before: no request of theirs comes after."""
        return (self.identity.incarnation - 1) << 32 | self._starts

    def _draw_nonce(self) -> bytes:
        """The boot count and a counter: never drawn before in this directory, and no chance needed."""
        self._nonces += 1
        return (self._starts << 24 | self._nonces).to_bytes(8, "big")

    def _best_snapshot(self) -> tuple[list[bytes], Slot, Slot, list[str]]:
        """The newest good snapshot, and up to which slot it and the log do not reach.

        A snapshot holds only what was chosen. So a replica that lost one has lost no vote of its own: it learns
        that part from its peers again, and until then it knows that it must be silent.
        """
        slots = self._snapshots.slots()
        warnings: list[str] = []
        foreign = False
        for slot in reversed(slots):
            try:
                if slot in self._unusable:
                    raise Corruption(self._unusable[slot])
                chunks = list(self._snapshots.load(slot))
            except Corruption as damage:
                self._snapshots.damaged.add(slot)
                warnings.append(str(damage))
                foreign = foreign or isinstance(damage, NotOurs)
                continue
            break
        else:
            slot, chunks = 0, []
        if slots and not foreign and self._log.empty and slots[-1] > self.identity.configuration.begins_at:
            raise Corruption(
                f"{self._directory}: there is a snapshot of slot {slots[-1]}, and the log with this replica's promises "
                f"is gone; replace the replica from its peers"
            )
        if slots:
            lost = self._log.missing_upto(slot)
            if lost and not warnings:
                warnings.append(f"{self._directory}: the log does not reach back to the snapshot of slot {slot}")
            if slot != slots[-1] and self._log.first_slot(slots[-1]) > slot + 1:
                lost = max(lost, slots[-1])
            if not lost:
                return chunks, slot, 0, warnings
            if foreign:
                raise Corruption(f"{warnings[0]}, and no older one is complete; replace the replica from its peers")
            if len(self.identity.configuration.voters) == 1:
                # It was formatted alone; whom the log remembers has come since, and the members with it are in the state.
                advice = "restore the cell from a backup"
                if self._log.peers:
                    advice = f"replace the replica from its peers; if none of them votes, {advice}"
                raise Corruption(f"{warnings[0]}, and no older one is complete; {advice}")
            warnings.append(f"{warnings[0]}, and no older one is complete; the peers are asked for the state")
            return chunks, slot, lost, warnings
        if self._log.trimmed or self.identity.needs_snapshot:
            raise Corruption(
                f"{self._directory}: the log continues a snapshot, and there is none; "
                f"replace the replica from its peers"
            )
        return [], 0, 0, warnings

    # -- the log -------------------------------------------------------------------------------------------

    def append(self, *, promised: Ballot, chosen_mark: Slot, entries: Sequence[Entry], peers: bytes = b"") -> None:
        """Write one sync group, not durably yet.

        Raises:
            NoSpace: there is no room for the next segment; nothing was written, and it may be tried again.
            StorageError: the active segment failed; the store is dead.
        """
        self._alive()
        try:
            self._log.append(promised=promised, chosen_mark=chosen_mark, entries=entries, peers=peers)
        except NoSpace:
            raise
        except StorageError as failure:
            self._dead = str(failure)
            raise

    def compose(
        self, *, promised: Ballot, chosen_mark: Slot, entries: Sequence[Entry], peers: bytes, bytes_max: int
    ) -> Composed | None:
        """The next sync group, for whoever writes it elsewhere, and syncs it, and then calls `composed`.

        None when it takes more than `bytes_max` or more than one write: it is for `append`, and nothing has happened.

        Raises:
            StorageError: the store is dead.
        """
        self._alive()
        return self._log.compose(
            promised=promised, chosen_mark=chosen_mark, entries=entries, peers=peers, bytes_max=bytes_max
        )

    def composed(self, failure: str | None = None) -> None:
        """Everything composed is durable; or may be lost, and the store is dead.

        Raises:
            StorageError: it failed.
        """
        if failure is None:
            self._log.composed()
        else:
            self._dead = failure
            raise StorageError(failure)

    def sync(self) -> None:
        """Make everything appended durable.

        Raises:
            StorageError: it failed; the store is dead, and what was appended may be lost.
        """
        self._alive()
        try:
            self._log.sync()
        except StorageError as failure:
            self._dead = str(failure)
            raise

    @property
    def wants_preparing(self) -> bool:
        """Whether the next segment is behind: `prepare` goes on with it."""
        return self._log.wants_preparing

    def prepare(self) -> None:
        """Have the next segment ready before it is needed, and memory free of what hardly anybody will read.

        Raises:
            NoSpace: there is no room; the store lives on while the active segment has some.
        """
        self._alive()
        self._log.uncache()
        self._log.prepare()

    def read(self, from_slot: Slot, bytes_max: int) -> list[Entry]:
        """Entries of the log from a slot on, without a gap, at least one if there is one.

        Raises:
            Corruption: a record is damaged; the text names it.
        """
        return self._log.read(from_slot, bytes_max)

    @property
    def log_start(self) -> Slot:
        """Everything up to here is only in the snapshot: the log has every slot after it, up to the snapshot's."""
        return self._log.first_slot(self.snapshot_slot) - 1

    @property
    def log_bytes(self) -> int:
        """What the log takes on the disk."""
        return self._log.bytes

    def _alive(self) -> None:
        if self._dead is not None:
            raise StorageError(f"the disk failed before ({self._dead}); the replica must stop")

    # -- snapshots -----------------------------------------------------------------------------------------

    def snapshot_chunks(self) -> Iterator[bytes]:
        """The chunks of the snapshot at `snapshot_slot`, in order; none without one.

        Those that the start read are let go one by one; later they are read from the file as they are taken, in
        whatever thread that is.

        Raises:
            Corruption: what is read is damaged.
        """
        chunks, self._chunks = self._chunks, []
        if not chunks and self.snapshot_slot:
            yield from self._snapshots.load(self.snapshot_slot)
        chunks.reverse()
        while chunks:
            yield chunks.pop()

    def snapshot_begin(self, slot: Slot) -> None:
        """Start writing this replica's own snapshot of a slot."""
        self._snapshots.begin(slot)

    def snapshot_write(self, chunk: bytes) -> None:
        """Add a chunk."""
        self._snapshots.write(chunk)

    def snapshot_commit(self) -> None:
        """Make it durable; then older snapshots and the log behind the older kept one are deleted."""
        for _ in self.snapshot_commit_steps():
            pass

    def snapshot_commit_steps(self) -> Iterator[None]:
        """The same, one wait for the disk at a time: between two of them the log may be written, and nothing else done.

        The file system makes a change of names durable by writing its journal, which takes as long as some ten syncs of
        the log; all of them in a row would hold up every write for as long as that takes.
        """
        self._snapshots.finish()
        yield
        self.snapshot_slot = max(self.snapshot_slot, self._snapshots.publish())
        yield
        trim_to = self._snapshots.prune()
        yield
        # The last groups to go may be the only durable ones that hold the mark and what is known of the peers.
        self.sync()
        yield from self._log.trim_steps(trim_to)

    def snapshot_abort(self) -> None:
        """Forget the one that was begun; its room is there at once."""
        self._snapshots.abort(at_once=True)

    def snapshot_read(self, slot: Slot, offset: int, bytes_max: int) -> tuple[bytes, int]:
        """Raw bytes of a snapshot's file and its length, for a peer; nothing when it is gone."""
        return self._snapshots.read(slot, offset, bytes_max)

    def transfer_write(self, slot: Slot, offset: int, data: bytes) -> None:
        """Keep bytes of a peer's snapshot file, which come in order; offset 0 begins a new one.

        Raises:
            Corruption: they are damaged, of another cell or slot, or do not continue what is here: begin anew.
            NoSpace: there is no room; what had come is deleted.
        """
        self._snapshots.transfer(slot, offset, data)

    def transfer_install(self, slot: Slot, *, promised: Ballot) -> None:
        """Take over a peer's snapshot that has come whole: everything at or below its slot is replaced.

        The log is kept: what was accepted past the slot is still accepted, and no promise is forgotten.

        Raises:
            Corruption: it is not whole; nothing was changed.
        """
        self._snapshots.transferred(slot)
        # The promise goes into the log first, so that trimming cannot lose it.
        self.append(promised=promised, chosen_mark=self._log.chosen_mark, entries=(), peers=self._log.peers)
        self.sync()
        self._snapshots.install(slot)
        self._chunks = []
        self.snapshot_slot = slot
        self._snapshots.prune()
        self._log.trim(slot)

    def transfer_abort(self) -> None:
        """Forget what has come of a peer's snapshot; its room is there at once."""
        self._snapshots.abort_transfer(at_once=True)

    def close(self) -> None:
        """Let go of everything; nothing is written."""
        self._log.close()
        self._lock.close()
