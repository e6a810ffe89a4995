"""A simulated machine: a disk that survives, and a process on it that comes and goes.

Hosts the very same `Replica`, `Store` and `Tree` as the server does.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from typing import TYPE_CHECKING

from synod.base import (
    BALLOT_ZERO,
    Ballot,
    Configuration,
    Corruption,
    DataDirError,
    Micros,
    NoSpace,
    Slot,
    StorageError,
    invariant,
)
from synod.paxos import Accepted, Promise
from synod.paxos import decode as decode_paxos
from synod.paxos import encode as encode_paxos
from synod.replica import (
    DiskWrite,
    LogRead,
    Ready,
    Replica,
    SnapshotInstall,
    SnapshotRead,
    SnapshotWrite,
    TransferWrite,
    UnknownCommand,
)
from synod.storage import Identity, MemoryFileSystem, Store, StoreOptions, format_directory, mark_forgetful
from synod.tree import Tree

if TYPE_CHECKING:
    from ._world import World

DIRECTORY = "/data"
SEGMENT_BYTES = 64 * 1024
READY_TURNS_MAX = 10_000
_VOTES = frozenset(
    encode_paxos(vote)[0] for vote in (Promise(Ballot(1, 1), 1, 0, 0, (), ()), Accepted(Ballot(1, 1), 1, 0, 0))
)
"""The first bytes of the messages that nobody may send before what they say is durable."""
BLOCK = 4096
SECTOR = 512
LEVEL_NEW = 2
"""The feature level of the version to which machines are upgraded."""


_ERRORS = {"read": "read error", "sync": "disk error", "write": "write error"}
"""What is counted when an operation of the disk fails."""

Job = DiskWrite | LogRead | SnapshotWrite | SnapshotRead | TransferWrite | SnapshotInstall


class Machine:
    """One machine of the cell."""

    def __init__(self, world: World, id_: int, configuration: Configuration, incarnation: int = 1) -> None:
        self.world = world
        self.id = id_
        self.incarnation = incarnation
        self.disk = 0
        self._formats = 0
        self.rng = random.Random(world.rng.getrandbits(64))
        self.fs = MemoryFileSystem()
        self.store: Store | None = None
        self.replica: Replica | None = None
        self.life = 0
        self.paused_until: Micros = 0
        self.rate = 1_000_000 + (self.rng.randrange(-world.plan.drift, world.plan.drift + 1) if world.plan.drift else 0)
        if self.rate != 1_000_000:
            world.count("clock drifts")
        self.offset = self.rng.randrange(0, 1 << 40)
        self.wall_offset_ms = 0
        self.full_until: Micros = 0
        # While its disk is bad, the plan's share of each operation fails: with chance of its own.
        self.bad_until: dict[str, Micros] = {"read": 0, "sync": 0, "write": 0}
        self._shares = {
            "read": world.plan.read_errors,
            "sync": world.plan.disk_errors,
            "write": world.plan.write_errors,
        }
        self._disk_rng = world.stream(f"disk errors {id_}")
        self._failed = ""  # the operation that failed last in this life
        self.doomed = False  # its power fails while it writes next
        self.build = 0  # which bounds and sizes it was built with
        self.slow_until: Micros = 0
        self.hangs_until: Micros = 0
        self.unreadable_until: Micros = 0
        self.misdirects_until: Micros = 0
        self.hurt = False  # its disk was damaged once: at most a minority of machines
        self.forgetful = False  # its disk was replaced: peers may refuse it
        self.refused = False  # and one did
        self.unproved = ""  # the segment whose last group landed elsewhere: no later one shows it yet
        self.gone: str | None = None  # its process refuses to start from what the disk holds
        self.durable_promised = BALLOT_ZERO
        self.durable: dict[Slot, Ballot] = {}
        self.configuration = configuration
        self._jobs: deque[Job] = deque()
        self._busy: list[Job] = []
        self._full = False
        self._snapshot_dropped = False
        self._tree: Tree | None = None
        self._waits_for_room = False
        # What its version of the software knows: see `_applies`.
        self.level = world.stream(f"version/{id_}").choice((1, 1, 2)) if world.plan.versions else 1
        self._format()

    def _format(self) -> None:
        self._formats += 1
        self.fs.fail = None  # whoever formats a disk does so until it is done
        self.disk = self.world.stream(f"disk {self.id}.{self._formats}").randrange(1, 1 << 62)
        format_directory(self.fs, DIRECTORY, Identity(self.id, self.incarnation, self.configuration, self.disk))

    # -- clocks --------------------------------------------------------------------------------------------

    def now(self) -> Micros:
        """This machine's monotonic clock."""
        return self.world.now * self.rate // 1_000_000 + self.offset

    def wall_ms(self) -> int:
        """This machine's wall clock."""
        return 1_700_000_000_000 + self.world.now // 1000 + self.wall_offset_ms

    def at(self, local: Micros) -> Micros:
        """When the world's time will be so that this machine's clock shows `local`."""
        return (local - self.offset) * 1_000_000 // self.rate + 1

    @property
    def running(self) -> bool:
        """Whether its process runs and is not paused."""
        return self.replica is not None and self.world.now >= self.paused_until

    def suspend(self, length: Micros) -> None:
        """The machine stands still, and so does its monotonic clock."""
        self.paused_until = self.world.now + length
        self.offset -= length * self.rate // 1_000_000

    # -- life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process from what the disk holds; it may refuse to, for a damaged disk only."""
        if self.gone is not None:
            return
        try:
            self._start()
        except (Corruption, DataDirError) as refusal:
            if not self.hurt or "/data" not in str(refusal):
                self.world.violated(f"replica {self.id} refuses to start: {refusal}")
            self.gone = str(refusal)
            self.world.count("start refused")
        except UnknownCommand as refusal:
            self._stopped(str(refusal))
        except StorageError:
            if not self._failed:
                raise
            self.store = None
            if self._failed == "read":
                self.fs.crash(lambda: True, lambda count: count)
            else:
                self.fs.crash_randomly(self.rng)  # what that write and that sync have left behind, nobody knows
            self.world.after(self.rng.randrange(100_000, 1_000_000), "restart", self.id)

    def _start(self) -> None:
        self.life += 1
        self._jobs.clear()
        self._busy = []
        self._full = False
        self._waits_for_room = False
        self._failed = ""
        self._snapshot_dropped = False
        self.fs.fail = self._fail
        self.fs.misdirect = self._misdirect if self.world.plan.misdirected else None
        store = self.store = Store.open(
            self.fs,
            DIRECTORY,
            cell_id=self.configuration.cell_id,
            replica_id=self.id,
            # Where snapshots are taken, logs must be trimmed behind them.
            options=StoreOptions(segment_bytes=self._segment_bytes()),
        )
        recovered = store.recovered
        if recovered.snapshot_slot:
            tree = Tree.restore(store.snapshot_chunks(), self.level)
        else:
            tree = Tree(configuration=self.configuration.encode(), supported_level=self.level)
        if recovered.unknown:
            self.world.count("slot unknown")
        if recovered.lost_upto:
            self.world.count("snapshot lost")
        self.durable_promised = recovered.promised
        self.durable = {entry.slot: entry.ballot for entry in recovered.entries}
        self.replica = Replica(
            id=self.id,
            configuration=self.configuration,
            incarnation=self.incarnation,
            disk=self.disk,
            options=self.world.plan.options(self.build),
            recovered=recovered,
            tree=tree,
            boot=store.boot,
            rng=random.Random(self.rng.getrandbits(64)),
            draw_secret=self.rng.randbytes,
            now=self.now(),
            wall_ms=self.wall_ms(),
        )
        self.replica.observer = self._applies
        self._tree = tree
        self.world.oracles.begins(self.id, tree.slot)
        self.world.machine_started(self)
        self.drain()
        self._arm()

    def _segment_bytes(self) -> int:
        return (SEGMENT_BYTES // 4 if self.world.plan.snapshots else SEGMENT_BYTES) << self.build % 2

    def _applies(self, slot: Slot, batch: bytes) -> None:
        """One value per slot, on every machine and in every life.

        The new version's rules stand here: at level 2 every slot takes a zxid. Whoever applies by them too early,
        or does not know them and goes on, has another digest.
        """
        replica = self.replica
        first = slot not in self.world.oracles.values
        if replica is not None:
            if replica.tree is not self._tree:  # it has taken over a snapshot meanwhile, step by step
                self._tree = replica.tree
                self.world.oracles.begins(self.id, replica.tree.slot)
            self.world.oracles.applies(self.id, slot, batch, replica.tree)
        self.world.value_applied(self.id, slot, batch, first=first)
        if self.level >= LEVEL_NEW and replica is not None and replica.tree.feature_level >= LEVEL_NEW:
            replica.tree.zxid += 1

    def _stopped(self, reason: str) -> None:
        """Right only when the cell's level was raised while this machine was rolled back: it gets the new version."""
        if (
            self.level >= LEVEL_NEW
            or "feature level 2, and this version of synod knows the levels 1 to 1" not in reason
        ):
            self.world.violated(f"replica {self.id} stopped: {reason}")
        self.world.count("too old")
        self.level = LEVEL_NEW
        self.kill(power_cut=False)
        self.world.after(self.rng.randrange(100_000, 1_000_000), "restart", self.id)

    def kill(self, *, power_cut: bool) -> None:
        """End the process; with a power cut, what was not synced is torn, lost and reordered."""
        self.replica = None
        if power_cut:
            self.fs.crash_randomly(self.rng)
        elif self.store is not None:
            # The kernel still has what was written: it reaches the disk.
            self.fs.crash(lambda: True, lambda count: count)
        self.store = None
        if self.unproved:
            # The last group is not where it belongs, and nothing on this disk can tell: such a disk lies, and no
            # promise holds for it. It is taken away.
            self.gone = "its last write is lost without a trace"
            self.world.count("disk taken away")
        self.world.machine_stopped(self)

    # -- what goes wrong with the disk ---------------------------------------------------------------------

    def wipe(self) -> None:
        """A new disk, formatted as if nothing had been."""
        if self.replica is not None:
            self.kill(power_cut=True)
        self.fs.wipe()
        self._format()
        self.gone = None
        self.unproved = ""
        self.durable_promised = BALLOT_ZERO
        self.forgetful = True
        self.world.forgotten(self)

    def put_back(self, image: MemoryFileSystem) -> None:
        """An older state of the disk is put back, as from a backup of the machine."""
        if self.replica is not None:
            self.kill(power_cut=True)
        self.fs = image.copy()
        self.gone = None
        self.unproved = ""
        self.forgetful = True
        self.world.forgotten(self)

    def readmit(self, incarnation: int) -> None:
        """A new disk, and a new life of this id: the cell has admitted it."""
        if self.replica is not None:
            self.kill(power_cut=True)
        self.incarnation = incarnation
        self.wipe()
        self.forgetful = self.refused = self.hurt = False
        self.misdirects_until = 0
        self.start()

    def rot(self) -> str | None:
        """Flip a bit of something durable; returns what kind of file it was in, None when there is nothing yet."""
        names = [n for n in self.fs.list_dir(DIRECTORY) if n.endswith((".seg", ".snap"))]
        if not names:
            return None
        snapshots = [n for n in names if n.endswith(".snap")]
        if snapshots and self.rng.random() < 0.5:
            names = snapshots
            for name in snapshots if self.rng.random() < 0.5 else ():
                self.fs.rot(f"{DIRECTORY}/{name}", self.rng.randrange(self.fs.size(f"{DIRECTORY}/{name}")))
        path = f"{DIRECTORY}/{self.rng.choice(names)}"
        data = self.fs.durable_bytes(path)
        sectors = [at for at in range(0, len(data), SECTOR) if any(data[at : at + SECTOR])]
        if not sectors:
            return None
        start = self.rng.choice(sectors)
        # The zeros behind what was written are nobody's: damage there does no harm.
        at = self.rng.choice([k for k, byte in enumerate(data[start : start + SECTOR], start) if byte])
        self.fs.rot(path, at, 1 << self.rng.randrange(8))
        return "log" if path.endswith(".seg") else "snapshot"

    def _misdirect(self, path: str, offset: int, length: int) -> int:
        """Where a write really lands."""
        if path == self.unproved:
            self.unproved = ""  # a later group of the segment shows that one is missing
        if self.world.now >= self.misdirects_until or not path.endswith((".seg", ".tmp")) or "prepared" in path:
            return offset
        if self._disk_rng.random() >= self.world.plan.misdirected:
            return offset
        blocks = self.fs.size(path) // BLOCK
        where = self.rng.randrange(max(1, blocks)) * BLOCK
        if where == offset or (path.endswith(".seg") and where + length > self.fs.size(path)):
            return offset
        if path.endswith(".seg"):
            self.unproved = path
        self.world.count("write misdirected")
        return where

    def _fail(self, operation: str, path: str) -> StorageError | None:
        now = self.world.now
        bad = now < self.bad_until[operation] and self._disk_rng.random() < self._shares[operation]
        if bad or (operation == "read" and now < self.unreadable_until):
            self._failed = operation
            self.world.count(_ERRORS[operation])
            return StorageError(f"{path}: injected")
        if operation == "write" and now < self.full_until and path.endswith(".tmp"):
            if path.endswith("prepared.tmp"):
                self.world.count("disk full")
                return NoSpace(f"{path}: injected")
            if "snapshot" in path:
                self.world.count("disk full for a snapshot")
                return NoSpace(f"{path}: injected")
        return None

    # -- inputs --------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """A timer fired."""
        if self.replica is not None and self.running and self.now() >= self.replica.next_deadline():
            self.replica.tick(self.now(), self.wall_ms())
            self.drain()
        self._arm()

    def _arm(self) -> None:
        if self.replica is None:
            return
        due = max(self.at(self.replica.next_deadline()), self.world.now + 200, self.paused_until + 1)
        self.world.wake_at(self, due)

    def drain(self) -> None:
        """Do what the core asks for, until it asks for nothing."""
        for _ in range(READY_TURNS_MAX):
            replica = self.replica
            if replica is None:
                return
            ready = replica.ready()
            self._do(ready)
            if not ready.more:
                return
        invariant(False, "the core comes to rest")

    def _do(self, ready: Ready) -> None:
        world = self.world
        if ready.stop is not None and self.replica is not None and self.replica.has_left:
            self.gone = ready.stop
            self.kill(power_cut=False)
            world.count("left for good")
            return
        if ready.forgetful and ready.stop is not None:
            with contextlib.suppress(StorageError):  # as the server: its peers refuse it all the same
                mark_forgetful(self.fs, DIRECTORY, ready.stop)
            self.gone = ready.stop
            self.kill(power_cut=False)
            world.count("forgetful replica stopped")
            return
        if ready.stop is not None:
            self._stopped(ready.stop)
            return
        self._jobs.extend(ready.writes)
        self._jobs.extend(ready.log_reads)
        self._jobs.extend(ready.snapshot_writes)
        self._jobs.extend(ready.snapshot_reads)
        self._jobs.extend(ready.transfer_writes)
        if ready.snapshot_install is not None:
            self._jobs.append(ready.snapshot_install)
        self._begin_jobs()
        if self.replica is None:
            return  # the disk failed at once: nothing more leaves
        for peer, message, _bulk in ready.messages:
            self._check_durable(message)
            world.network.send(self.id, peer, message)
        for peer in ready.peer_closes:
            world.network.close_gently(self.id, peer)
        for conn, data in ready.client_output:
            world.to_client(self, conn, data)
        for conn, _reason in ready.client_closes:
            world.close_client(self, conn)
        for note in ready.notes:
            world.note(self, note.kind, note.text)
        replica = self.replica
        if replica is not None and replica.paxos.role == "leader":
            world.oracles.leads(self.id, replica.paxos.ballot)

    def _check_durable(self, data: bytes) -> None:
        """Durable before visible, looked at from outside: at the door of the network."""
        if data[0] not in _VOTES:
            return
        message = decode_paxos(data)
        if isinstance(message, Promise):
            self._check_voter()
        if isinstance(message, Promise) and message.ballot > self.durable_promised:
            self.world.violated(f"replica {self.id} promised {message.ballot} before it was durable")
        if isinstance(message, Accepted):
            replica = self.replica
            mark = replica.paxos.chosen_mark if replica is not None else 0
            if message.ballot > self.durable_promised or (
                message.slot > mark and self.durable.get(message.slot, BALLOT_ZERO) < message.ballot
            ):
                self.world.violated(f"replica {self.id} accepted slot {message.slot} before it was durable")

    def _check_voter(self) -> None:
        """Who was removed, or has another disk than the one that was promoted, votes for nothing."""
        member = self.world.members.member(self.id)
        if self.replica is None or self.replica.has_left:
            self.world.violated(f"replica {self.id} votes although it was removed")
        if member is not None and member.incarnation == self.incarnation and member.disk not in (0, self.disk):
            self.world.violated(f"replica {self.id} votes with another disk than the one that was promoted")
        # One that was replaced since, and has not heard of it, votes among those who have not heard of it either.
        if (self.id, self.incarnation) not in self.world.promoted:
            self.world.violated(f"replica {self.id} votes before it was promoted")

    # -- the disk ------------------------------------------------------------------------------------------

    def _begin_jobs(self) -> None:
        """Start on everything that waits; it is done, and durable, after a while."""
        if self._busy or self._waits_for_room or not self._jobs or self.store is None:
            return
        self._busy = list(self._jobs)
        self._jobs.clear()
        try:
            for job in self._busy:
                if isinstance(job, DiskWrite):
                    self.store.append(
                        promised=job.promised, chosen_mark=job.chosen_mark, entries=job.entries, peers=job.peers
                    )
        except NoSpace:
            # As the server's disk thread does: nothing was written of this one, try again a little later.
            written = self._busy.index(job)
            self._jobs.extendleft(reversed(self._busy[written:]))
            self._busy = self._busy[:written]
            self._say_room(has_room=False)
            self._waits_for_room = True
            self.world.after(500_000, "retry", self.id, self.life)
            if not self._busy:
                return
        except StorageError:
            self._die()
            return
        latency = self.rng.randrange(60, 400)
        if self.world.now < self.slow_until:
            latency = self.rng.randrange(1_000, 900_000)
            self.world.count("slow sync")
        if self.doomed and any(isinstance(job, DiskWrite) for job in self._busy):
            self.doomed = False
            self.world.after(self.rng.randrange(latency), "crash", self.id, self.life)
        self.world.after(latency, "disk", self.id, self.life)

    def retry(self) -> None:
        """Try again to write what had no room."""
        self._waits_for_room = False
        self._begin_jobs()

    def disk_done(self) -> None:
        """The jobs that were started are done."""
        store, jobs = self.store, self._busy
        if store is None or self.replica is None:
            return
        self._busy = []
        try:
            store.sync()
            writes = [job for job in jobs if isinstance(job, DiskWrite)]
            for write in writes:
                self.durable_promised = max(self.durable_promised, write.promised)
                for entry in write.entries:
                    self.durable[entry.slot] = max(self.durable.get(entry.slot, BALLOT_ZERO), entry.ballot)
            for job in jobs:
                self._other(store, job)
            if writes and self.replica is not None:
                self.replica.persisted(writes[-1].id, self.now())
            try:
                store.prepare()
                self._say_room(has_room=True)
            except NoSpace:
                self._say_room(has_room=False)
                self.world.after(500_000, "room", self.id, self.life)
        except StorageError:
            self._die()
            return
        self.drain()
        self._begin_jobs()

    def look_for_room(self) -> None:
        """The disk was full: is there room again?"""
        if self.store is None or self.replica is None:
            return
        try:
            self.store.prepare()
            self._say_room(has_room=True)
        except NoSpace:
            self.world.after(500_000, "room", self.id, self.life)
        except StorageError:
            self._die()
            return
        self.drain()

    def _say_room(self, *, has_room: bool) -> None:
        if self._full == has_room and self.replica is not None:
            self._full = not has_room
            self.replica.abstain(not has_room, self.now())

    def _die(self) -> None:
        """The disk failed: the process stops at once, and is started again later."""
        self.kill(power_cut=True)
        self.world.after(self.rng.randrange(100_000, 1_000_000), "restart", self.id)

    def _other(self, store: Store, job: Job) -> None:
        replica = self.replica
        if replica is None:
            return
        now = self.now()
        match job:
            case LogRead(id_, from_slot, bytes_max):
                replica.log_read(id_, store.read(from_slot, bytes_max), now)
            case SnapshotWrite(slot, chunk, first, last):
                self._write_snapshot(store, slot, chunk, first=first, last=last)
                if last:
                    replica.snapshot_saved(store.snapshot_slot, store.log_start, now)
            case SnapshotRead(id_, slot, offset, bytes_max):
                replica.snapshot_read(id_, *store.snapshot_read(slot, offset, bytes_max), now)
            case TransferWrite() | SnapshotInstall():
                self._transfer(store, replica, job)
            case _:
                pass

    def _transfer(self, store: Store, replica: Replica, job: TransferWrite | SnapshotInstall) -> None:
        """As the server's disk thread does; but the chunks are read now, so that an error of the disk shows here."""
        now = self.now()
        try:
            if isinstance(job, TransferWrite):
                store.transfer_write(job.slot, job.offset, job.data)
                replica.transfer_written(job.slot, job.offset + len(job.data), now)
                return
            store.transfer_install(job.slot, promised=job.promised)
        except (Corruption, NoSpace) as failure:
            no_room = isinstance(failure, NoSpace)
            if not no_room:
                self.world.count("snapshot refused")
            store.transfer_abort()
            upto = job.offset + len(job.data) if isinstance(job, TransferWrite) else 0
            replica.snapshot_refused(job.slot, upto, no_room, now)
            return
        self.world.count("snapshot installed")
        replica.snapshot_installed(job.slot, list(store.snapshot_chunks()), now)

    def _write_snapshot(self, store: Store, slot: Slot, chunk: bytes, *, first: bool, last: bool) -> None:
        """As the server's disk thread does: without room there is no snapshot this time."""
        try:
            if first:
                self._snapshot_dropped = False
                store.snapshot_begin(slot)
            if not self._snapshot_dropped:
                store.snapshot_write(chunk)
                if last:
                    store.snapshot_commit()
                    self.world.count("snapshot")
        except NoSpace:
            self._snapshot_dropped = True
            store.snapshot_abort()
