"""The asyncio host of one replica: it feeds the core what happens, and does what the core asks for.

One `flush` per turn of the loop: everything that arrived in a turn is one step of the core, and everything
that leaves for one connection is one write. Read `_flush` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import secrets
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from time import monotonic_ns, time_ns
from typing import Any, Final

from synod import __version__
from synod.base import (
    MILLISECOND,
    Change,
    Corruption,
    DataDirError,
    Micros,
    RemoteProtocolError,
    Rng,
    Slot,
    StorageError,
)
from synod.replica import LogRead, Ready, Replica, SnapshotRead, Tree, UnknownCommand
from synod.storage import (
    File,
    FileSystem,
    RealFileSystem,
    Ring,
    Store,
    StoreOptions,
    mark_forgetful,
    open_snapshot,
)
from synod.wire import OP_PING, XID_PING

from ._clients import ClientConnection
from ._config import Config
from ._disk import Disk
from ._garbage import Garbage
from ._metrics import DISK_STALL_S, LOOP_STALL, Latency, Measures
from ._peers import PeerConnection
from ._recorder import Recorder, start_of
from ._words import ClientLine

logger = logging.getLogger("synod.server")

GREETING_S: Final = 10.0
"""A connection whose connect request is not whole after this long is closed."""

PING: Final = struct.pack(">iii", 8, XID_PING, OP_PING)
"""A ping alone: its answer waits for those of others on purpose, and is no measure of the service."""

SWEEP_S: Final = 1.0
ABUSE_LOG_S: Final = 10.0
"""One line of each kind of abuse in so many seconds."""

ABUSE_KINDS_MAX: Final = 1_000
"""Kinds that are remembered; who makes more of them gets more lines."""

FLUSH_S: Final = 0.005
"""After so long in one flush the sockets are looked at first."""


_YIELDS: Final = hasattr(os, "sched_yield")
"""Not everywhere."""

_clock_ns: Final = monotonic_ns
"""Asked some ten times for each write: a constant is not looked up by its name."""


def monotonic() -> Micros:
    """Microseconds of this machine's monotonic clock."""
    return _clock_ns() // 1000


def wall_ms() -> int:
    """Milliseconds since 1970."""
    return time_ns() // 1_000_000


class Host:
    """Everything around one `Replica`.

    Args:
        config: what the replica was told.
        fs: the file system; the real one unless given.
        fresh_zxid: where the zxid of an empty cell starts; in memory it must lie past every earlier cell's.
        on_stop: called once, with the reason, when the replica must stop.
        on_members: called when the members of the cell have changed.
    """

    def __init__(
        self,
        config: Config,
        *,
        on_stop: Callable[[str], None],
        on_members: Callable[[], None] = lambda: None,
        fs: FileSystem | None = None,
        fresh_zxid: int = 0,
        store_options: StoreOptions | None = None,
    ) -> None:
        self.config = config
        self._on_stop = on_stop
        self._fs = fs or RealFileSystem()
        self._on_members = on_members
        self._recorder: Recorder | None = None
        store = Store.open(
            self._fs,
            config.data_dir,
            cell_id=config.cell_id,
            replica_id=config.id,
            incarnation=config.incarnation,
            options=store_options,
        )
        self._store = store
        try:
            configuration = store.identity.configuration
            if config.recorder_bytes and fs is None:
                self._recorder = Recorder(config.data_dir, config.recorder_bytes, store.boot)
            tree, chunks = _latest_state(store, keep_chunks=self._recorder is not None)
            recovered = store.recovered
            for warning in recovered.warnings:
                logger.warning("%s", warning)
            if tree is None:
                tree = Tree(zxid=fresh_zxid, configuration=configuration.encode())
            made: dict[str, Any] = {
                "id": config.id,
                "configuration": configuration,
                "incarnation": store.identity.incarnation,
                "disk": store.identity.disk,
                "options": config.options,
                "boot": store.boot,
                "now": monotonic(),
                "wall_ms": wall_ms(),
            }
            recorder = self._recorder
            self.replica = Replica(
                **made,
                recovered=recovered,
                tree=tree,
                rng=_seeded() if recorder is None else recorder.rng(),
                draw_secret=secrets.token_bytes if recorder is None else recorder.draw_secret,
            )
            if recorder is not None:
                start = start_of(
                    replica=made, recovered=recovered, seed=recorder.seed, chunks=chunks, fresh_zxid=fresh_zxid
                )
                recorder.begin(start)
        except BaseException:
            store.close()
            raise
        # Who looks asks the replica itself; who tells it something, what may write that down: it is no `Replica`, and
        # compiled code takes nothing else for one.
        self.told: Any = self.replica if recorder is None else recorder.record(self.replica)
        self._members = self.replica.configuration
        self._loop = asyncio.get_running_loop()
        self._ring = Ring.open(config.data_dir) if config.io_uring and fs is None else None
        self.disk = Disk(store, self, self._from_disk, self._ring)
        self._clients: dict[int, ClientConnection] = {}
        self._per_address: dict[str, int] = {}
        self._mains: dict[int, PeerConnection] = {}
        self._bulks: dict[int, PeerConnection] = {}
        self._garbage = Garbage(self._loop)
        self._next_conn = 0
        self._flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        self._due = 0  # when the core wanted to be told the time, at the end of the last turn
        self._abuse: dict[str, float] = {}
        self._stopped = False
        self.has_room = True
        self._started_at = monotonic()
        self._timed = 0
        self._timed_at = 0
        self.latency = Latency()
        self.measures = Measures(self._started_at)

    def start(self) -> None:
        """Begin: the disk, the timers."""
        self.disk.start()
        if self._ring is not None:
            self._loop.add_reader(self._ring.fileno(), self._told_by_disk, self.disk.written, ())
        self._garbage.start()
        self._loop.call_later(SWEEP_S, self._sweep)
        self.poke()

    def addresses(self) -> dict[int, str]:
        """Where the other members are, as far as this replica knows."""
        replica = self.replica
        known = {member.id: member.address for member in replica.configuration.members}
        if not replica.configuration.holds(replica.id, replica.incarnation):
            known |= {member.id: member.address for member in self.config.known_members}
        known.pop(replica.id, None)
        return known

    def change_members(self, change: Change) -> None:
        """See `Replica.change_members`."""
        self.told.change_members(change, monotonic())
        self.poke()

    def hand_over(self) -> None:
        """Let another replica lead, if this one does and another can."""
        self.told.hand_over(monotonic())
        self.poke()

    def begin_backup(self) -> bool:
        """Begin a backup, unless one is under way; `Replica.backup` shows how far it is."""
        begun: bool = self.told.begin_backup(monotonic(), wall_ms())
        self.poke()
        return begun

    def open_snapshot(self, slot: Slot) -> File:
        """A stored snapshot, as a file of the caller's."""
        return open_snapshot(self._fs, self.config.data_dir, slot)

    async def stop(self) -> None:
        """Hand over if this replica leads, then let everything go."""
        if not self._stopped and self.replica.paxos.role == "leader" and len(self.replica.configuration.voters) > 1:
            self.hand_over()
            until = monotonic() + 2 * self.config.election_timeout_ms * MILLISECOND
            # The core says nothing when it is deposed: looking is enough at the end of a life.
            while self.replica.paxos.role == "leader" and monotonic() < until and not self._stopped:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        self.close()

    def close(self) -> None:
        """Let everything go at once."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for client in list(self._clients.values()):
            if client.transport is not None:
                client.transport.close()
        for peer in (*self._mains.values(), *self._bulks.values()):
            peer.close()
        ring, self._ring = self._ring, None
        if ring is not None:
            self._loop.remove_reader(ring.fileno())
        self.disk.stop()
        if self._recorder is not None:
            self._recorder.close()
        self._store.close()
        self._garbage.stop()

    # -- the cycle -----------------------------------------------------------------------------------------

    def poke(self) -> None:
        """Something happened: flush once in this turn of the loop."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if not self._stopped:
            try:
                self._turn()
            except Exception as bug:  # noqa: BLE001 -- whatever it is, half of a turn must not be lost unseen
                self._cannot_be(bug)

    def _cannot_be(self, bug: Exception) -> None:
        """A bug showed itself: what was to be done now is half done, so that only what is durable is still sound."""
        logger.critical("a bug in synod", exc_info=bug)
        self.failed(f"a bug in synod: {bug!r}; nothing durable is lost: start it again, and report the lines above")

    def _turn(self) -> None:
        began = monotonic()
        if began >= self._due:
            self.told.tick(began, wall_ms())
        backlog = False
        while True:
            ready: Ready = self.told.ready()
            self._do(ready)
            if not ready.more or self._stopped:
                break
            if backlog and _YIELDS:
                # Who wants this processor would else wait for a tick of the kernel, and it may be a peer: one on the
                # same machine that took over a snapshot made the p99 of the others' clients three times as long.
                os.sched_yield()
            backlog = True
            if monotonic() - began > FLUSH_S * 1_000_000:
                self.poke()
                return
        paxos = self.replica.paxos
        self.measures.follows(paxos.leader, paxos.ballot, began, wall_ms)
        self._due = self.replica.next_deadline()
        self._arm(self._due)

    def _arm(self, due: Micros) -> None:
        """Wake up at the core's next deadline; a timer that fires too early is cheap, a cancelled one is not."""
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_later(max(0, due - monotonic()) / 1_000_000, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._stopped:
            return
        now = monotonic()
        lag = max(0, now - self._timer_at)
        self.measures.loop_lag_seconds.observe(lag / 1_000_000)
        if lag > LOOP_STALL:
            self.measures.stalls["loop"] += 1
            self.abuse(
                "loop", f"the event loop stood still for {lag / 1000:.0f} ms: the machine is busy, or was asleep"
            )
        # Sockets first: a loop that was held up finds the pings of its clients there, and the core wants to
        # have them before it judges anybody's silence.
        self.poke()

    def _do(self, ready: Ready) -> None:
        # Messages first: what a peer does upon them takes longer than this replica's own disk.
        if ready.messages:
            self._send(ready.messages)
        for write in ready.writes:
            size = 0
            for entry in write.entries:
                size += len(entry.value)
            self.measures.batch_bytes.observe(size)
            self.disk.submit(write)
        for peer in ready.peer_closes:
            for connection in (self._mains.get(peer), self._bulks.get(peer)):
                if connection is not None:
                    connection.close_gently()
        if self.replica.configuration is not self._members:
            self._members = self.replica.configuration
            self._on_members()
        for conn, data in ready.client_output:
            client = self._clients.get(conn)
            if client is not None:
                client.send(data)
                if conn == self._timed:
                    self._timed = 0
                    micros = monotonic() - self._timed_at
                    self.latency.observe(micros)
                    self.measures.request_seconds.observe(micros / 1_000_000)
        for conn, _reason in ready.client_closes:
            client = self._clients.get(conn)
            if client is not None and client.transport is not None:
                client.transport.close()
        for conn, pause in ready.client_pauses:
            client = self._clients.get(conn)
            if client is not None and client.transport is not None and not client.transport.is_closing():
                if pause:
                    client.transport.pause_reading()
                else:
                    client.transport.resume_reading()
        for log_read in ready.log_reads:
            self.disk.submit(log_read)
        for chunk in ready.snapshot_writes:
            self.disk.submit(chunk)
        for snapshot_read in ready.snapshot_reads:
            self.disk.submit(snapshot_read)
        for transfer in ready.transfer_writes:
            self.disk.submit(transfer)
        if ready.snapshot_install is not None:
            self.disk.submit(ready.snapshot_install)
        for note in ready.notes:
            self.measures.noted(note, monotonic())
            logger.info("%s: %s", note.kind, note.text)
        if ready.stop is not None:
            if ready.forgetful:
                with contextlib.suppress(StorageError, DataDirError):  # its peers refuse it all the same
                    mark_forgetful(self._fs, self.config.data_dir, ready.stop)
            self.failed(ready.stop)

    def _send(self, messages: list[tuple[int, bytes, bool]]) -> None:
        for peer, message, bulk in messages:
            connection = (self._bulks if bulk else self._mains).get(peer)
            if connection is not None:
                connection.send(message)
                if bulk:
                    connection.flush()
        for connection in self._mains.values():
            connection.flush()

    # -- clients -------------------------------------------------------------------------------------------

    def client_connected(self, client: ClientConnection) -> None:
        """A client connected; close it at once when there are too many."""
        limits = self.config.limits
        count = self._per_address.get(client.address, 0)
        if len(self._clients) >= limits.connections or count >= limits.connections_per_address or self._stopped:
            self.measures.refusals["connections"] += 1
            self.abuse("connections", f"too many connections ({len(self._clients)}); {client.address} is turned away")
            if client.transport is not None:
                client.transport.abort()
            return
        self._next_conn += 1
        client.conn = self._next_conn
        client.opened_at = self._loop.time()
        self._clients[client.conn] = client
        self._per_address[client.address] = count + 1
        self.told.client_opened(client.conn, monotonic(), client.address)

    def client_data(self, conn: int, data: bytes) -> None:
        """Bytes of a client."""
        now = monotonic()
        is_ping = data == PING
        if not self._timed and not is_ping:
            self._timed, self._timed_at = conn, now
        others_wait = self._timer is not None and bool(self.replica.front.touched)
        try:
            self.told.client_data(conn, data, now)
        except Exception as bug:  # noqa: BLE001 -- no bytes of a client may raise anything
            self._cannot_be(bug)
        if self._flush_due:
            return
        if not is_ping:
            self.poke()
        # It goes to the leader together with others: nothing is to be done for it before that.
        elif not others_wait:
            due = self.replica.next_deadline()
            if due > now:
                self._due = min(self._due, due)
                self._arm(due)
            else:
                self.poke()

    def client_lost(self, client: ClientConnection) -> None:
        """A client's connection is gone."""
        if self._clients.pop(client.conn, None) is None:
            return
        if client.conn == self._timed:
            self._timed = 0
        left = self._per_address[client.address] - 1
        if left:
            self._per_address[client.address] = left
        else:
            del self._per_address[client.address]
        if not self._stopped:
            self.told.client_closed(client.conn, monotonic())
            self.poke()

    def _sweep(self) -> None:
        """Close connections that never came to the end of their greeting: half a word holds a place as silence does."""
        before = self._loop.time() - GREETING_S
        for client in list(self._clients.values()):
            known = self.replica.front.connections.get(client.conn)
            if client.opened_at < before and known is not None and not known.greeted and client.transport is not None:
                client.transport.close()
        refused = self.replica.front.refused_frames
        if refused:
            self.replica.front.refused_frames = 0
            self.measures.refusals["frames"] += refused
            self.abuse("frames", f"{refused} connections were closed for malformed or oversize frames")
        if not self._stopped:
            self._loop.call_later(SWEEP_S, self._sweep)

    def abuse(self, kind: str, text: str) -> None:
        """Log a kind of abuse, but not every instance of it."""
        now = self._loop.time()
        if now - self._abuse.get(kind, -ABUSE_LOG_S) >= ABUSE_LOG_S:
            if len(self._abuse) >= ABUSE_KINDS_MAX:
                self._abuse.clear()
            self._abuse[kind] = now
            logger.warning("%s", text)

    # -- peers ---------------------------------------------------------------------------------------------

    def peer_met(self, connection: PeerConnection) -> None:
        """A peer's hello was accepted; a newer connection takes the place of an older one."""
        peer, hello = connection.peer, connection.hello
        if peer is None or hello is None:
            return
        table = self._bulks if connection.bulk else self._mains
        older = table.get(peer)
        if older is not None:
            self.peer_lost(older)
            older.close()
        table[peer] = connection
        if not connection.bulk:
            self.told.peer_connected(hello, monotonic())
            self.poke()

    def peer_message(self, peer: int, message: bytes) -> None:
        """A message of a peer."""
        now = monotonic()
        heard = self.replica.paxos.heard_at
        try:
            self.told.step(peer, message, now)
        except RemoteProtocolError:
            raise
        except Exception as bug:  # noqa: BLE001 -- an invariant that does not hold, most likely
            self._cannot_be(bug)
        if self.replica.paxos.heard_at > heard:
            self.measures.heartbeat_gap_seconds.observe((now - heard) / 1_000_000)
        self.poke()

    def peer_refused(self, connection: PeerConnection, reason: str) -> None:
        """A peer broke the protocol, or is not one of ours."""
        self.measures.refusals["peer"] += 1
        self.abuse(f"peer {connection.peer}: {reason}", f"a peer connection is refused: {reason}")

    def forgotten(self, peer: int, reason: str) -> None:
        """A peer says that this disk shows less than it has shown."""
        if not self._stopped:
            self.told.forgotten(peer, reason, monotonic())
            self.poke()

    def peer_lost(self, connection: PeerConnection) -> None:
        """A peer's connection is gone."""
        peer = connection.peer
        table = self._bulks if connection.bulk else self._mains
        if peer is None or table.get(peer) is not connection:
            return
        del table[peer]
        if not connection.bulk and not self._stopped:
            self.told.peer_closed(peer, monotonic())
            self.poke()

    # -- the disk ------------------------------------------------------------------------------------------

    def _from_disk(self, what: Callable[..., object], *arguments: object) -> None:
        """Called by the disk thread."""
        try:
            self._loop.call_soon_threadsafe(self._told_by_disk, what, arguments)
        except RuntimeError:  # the loop is closed: the process is on its way out
            return

    def _told_by_disk(self, what: Callable[..., object], arguments: tuple[object, ...]) -> None:
        try:
            what(*arguments)
        except Exception as bug:  # noqa: BLE001 -- as in `_flush`
            self._cannot_be(bug)

    def persisted(self, write_id: int, seconds: float, writes: int) -> None:
        """See `DiskEvents`. Flushes at once: everybody waits for this."""
        self.measures.sync_seconds.observe(seconds)
        self.measures.sync_writes.observe(writes)
        if seconds > DISK_STALL_S:
            self.measures.stalls["disk"] += 1
            self.abuse("sync", f"a sync of the log took {seconds:.1f} s: the disk is slow, or hangs")
        if not self._stopped:
            self.told.persisted(write_id, monotonic())
            self.poke()

    def log_read(self, request: LogRead, entries: list) -> None:  # type: ignore[type-arg]
        """See `DiskEvents`."""
        if not self._stopped:
            self.told.log_read(request.id, entries, monotonic())
            self.poke()

    def snapshot_saved(self, slot: Slot, log_start: Slot) -> None:
        """See `DiskEvents`."""
        self.measures.snapshots += 1
        if not self._stopped:
            self.told.snapshot_saved(slot, log_start, monotonic())
            self.poke()

    def snapshot_read(self, request: SnapshotRead, data: bytes, total: int) -> None:
        """See `DiskEvents`."""
        if not self._stopped:
            self.told.snapshot_read(request.id, data, total, monotonic())
            self.poke()

    def transfer_written(self, slot: Slot, upto: int) -> None:
        """See `DiskEvents`."""
        if not self._stopped:
            self.told.transfer_written(slot, upto, monotonic())
            self.poke()

    def snapshot_installed(self, slot: Slot, chunks: Iterator[bytes]) -> None:
        """See `DiskEvents`."""
        if not self._stopped:
            # A recording holds all that the replica was told.
            told = chunks if self._recorder is None else list(chunks)
            self.told.snapshot_installed(slot, told, monotonic())
            self.poke()

    def snapshot_refused(self, slot: Slot, upto: int, no_room: bool, reason: str) -> None:
        """See `DiskEvents`."""
        logger.warning("a peer's snapshot is refused: %s", reason)
        if not self._stopped:
            self.told.snapshot_refused(slot, upto, no_room, monotonic())
            self.poke()

    def room(self, has_room: bool, reason: str) -> None:
        """See `DiskEvents`."""
        self.has_room = has_room
        if has_room:
            logger.warning("there is room on the disk again: this replica takes part again")
        else:
            logger.error("this replica abstains until there is room: %s", reason)
        if not self._stopped:
            self.told.abstain(not has_room, monotonic())
            self.poke()

    def failed(self, reason: str) -> None:
        """The replica must stop at once."""
        if not self._stopped:
            self._stopped = True
            self._on_stop(reason)

    # -- what others may know ------------------------------------------------------------------------------

    @property
    def damage(self) -> list[str]:
        """What was found damaged at the start, by file and record, until it is learned from the peers again."""
        return list(self._store.recovered.warnings) if self.replica.is_damaged else []

    def status(self) -> dict[str, object]:
        """What `/status`, the metrics and the four-letter words are made of."""
        replica = self.replica
        tree = replica.tree
        front = replica.front
        outstanding = sum(c.outstanding for c in front.connections.values())
        return {
            **replica.status(),
            "connections": sum(c.greeted for c in front.connections.values()),
            "znodes": tree.znodes,
            "watches": len(tree.watches),
            "ephemerals": tree.ephemerals,
            "data_bytes": tree.approximate_bytes,
            "log_bytes": self.disk.log_bytes,
            "version": __version__,
            "compiled": is_compiled(),
            "io_uring": self._ring is not None,
            "readable": replica.can_read,
            "abstaining": replica.paxos.abstaining,
            "damage": self.damage,
            "voters": len(replica.configuration.voters),
            "members": len(replica.configuration.members),
            "synced": {
                role: sum(
                    1
                    for m in replica.configuration.members
                    if m.id != replica.id and (m.role == "voter") == (role == "followers") and m.id in self._mains
                )
                for role in ("followers", "observers")
            },
            "outstanding": outstanding,
            "received": front.received,
            "sent": front.received - outstanding + front.events,
            "latency": self.latency,
            "last_election": self.measures.last_election,
            "measures": self.measures.summary(),
            "election_timeout_ms": self.config.election_timeout_ms,
            "http": "" if self.config.http is None else str(self.config.http),
            "uptime_ms": (monotonic() - self._started_at) // MILLISECOND,
        }

    def clients(self) -> list[ClientLine]:
        """What `stat` says of each connection."""
        connections = self.replica.front.connections
        return [
            ClientLine(client.address, client.port, c.session != 0, c.outstanding, c.received)
            for conn, client in self._clients.items()
            if (c := connections.get(conn)) is not None
        ]


def _latest_state(store: Store, *, keep_chunks: bool) -> tuple[Tree | None, list[bytes] | None]:
    """The state of the latest snapshot that holds one, and its chunks if they are wanted; None without a snapshot.

    Raises:
        Corruption: none holds one, and nobody else could have it.
        DataDirError: a newer version wrote it, by rules that this one does not know.
    """
    while store.recovered.snapshot_slot:
        chunks: Iterable[bytes] = store.snapshot_chunks()
        kept = list(chunks) if keep_chunks else None
        try:
            return _restore(chunks if kept is None else kept, store.directory), kept
        except Corruption as damage:
            store.snapshot_unusable(str(damage))
    return None, None


def _restore(chunks: Iterable[bytes], directory: str) -> Tree:
    """The state that a snapshot holds.

    Raises:
        Corruption: it is not whole.
        DataDirError: a newer version wrote it, by rules that this one does not know.
    """
    collecting = gc.isenabled()
    gc.disable()  # nothing here becomes garbage, and to look for it again and again takes as long as the loading
    try:
        return Tree.restore(chunks)
    except UnknownCommand as unknown:
        raise DataDirError(f"{directory} cannot be used by this version of synod: {unknown}") from unknown
    finally:
        if collecting:
            gc.enable()


def _seeded() -> Rng:
    rng: Rng = random.Random(secrets.randbits(64))
    return rng


def is_compiled() -> bool:
    """Whether the compiled core runs."""
    return not str(sys.modules["synod.tree._tree"].__file__).endswith(".py")
