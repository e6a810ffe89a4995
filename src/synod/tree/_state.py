"""The replicated state, and the one choke point through which all of it changes.

Read `State.touch`: whoever changes a znode calls it *first*. It drops what is cached of the znode, lets a
snapshot write it as it was, and lets the digest hash it as it was.

`attach` and `detach` are the only two places that add and remove znodes; everything that must agree with
the set of znodes (children, ephemerals, containers, counts) is kept there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from synod.base import BALLOT_ZERO, Ballot, Corruption, invariant

from ._acl import OPEN_ACL, OPEN_WIRE, READ_ONLY_ACL, Acl, Acls, Identity, scan_entries
from ._batch import FEATURE_LEVEL, FEATURE_LEVEL_FIRST, PASSWORD_HASH_BYTES
from ._digest import Digest, Entity, entity_hash, hash_of
from ._paths import ROOT, parent_path
from ._scan import Scanner
from ._session import Session, session_of_record
from ._snapshot import KIND_HEAD, KIND_SESSION, Head, SnapshotWalk, read_records
from ._znode import CONTAINER, Znode, unpack_record

ZOOKEEPER: Final = b"/zookeeper"
QUOTA: Final = b"/zookeeper/quota"
CONFIG: Final = b"/zookeeper/config"
FEATURES: Final = b"/zookeeper/synod"
"""Tells a client that this is no Apache ZooKeeper, and its feature level. Neither listed nor counted."""

SPECIAL: Final = frozenset({ROOT, ZOOKEEPER, QUOTA, CONFIG, FEATURES})
"""May not be deleted. (Only ever asked for membership: its order means nothing.)"""

NO_IDENTITIES: Final[list[Identity]] = []

ENTITIES_PER_STEP: Final = 100
"""Loading, or freeing, so many znodes takes about a third of a millisecond."""

NO_PASSWORD: Final = bytes(PASSWORD_HASH_BYTES)
"""The hash of no password that anybody can find."""

ZXID_MAX: Final = 1 << 62
"""Room above for every write that a cell can live to see."""


class State:
    """Znodes, sessions, and the counters that every replica keeps the same.

    Args:
        zxid: where the counter starts. A new cell in memory, and a restored one, start past every zxid
            that a client can have seen.
        configuration: the cell's members, as canonical bytes: the first ones, until a change is applied.
        supported_level: the highest feature level whose rules this replica knows; only tests say another.

    Invariant: `nodes` has the parent of every znode but the root's.
    Invariant: `containers` has exactly the paths of the containers.
    """

    __slots__ = (
        "_acls",
        "_digest",
        "_snapshot_epoch",
        "_walk",
        "cell_time_ms",
        "configuration",
        "containers",
        "data_bytes",
        "ephemerals",
        "era",
        "feature_level",
        "nodes",
        "opening_ballot",
        "origins",
        "sessions",
        "slot",
        "supported_level",
        "zxid",
    )

    def __init__(self, *, zxid: int = 0, configuration: bytes = b"", supported_level: int = FEATURE_LEVEL) -> None:
        invariant(0 <= zxid < ZXID_MAX, "a zxid starts between 0 and 2**62")
        self.zxid = zxid
        self.slot = 0
        self.cell_time_ms = 0
        self.opening_ballot: Ballot = BALLOT_ZERO
        self.origins: dict[int, tuple[int, int]] = {}
        self.configuration = configuration
        self.supported_level = supported_level
        self.feature_level = FEATURE_LEVEL_FIRST
        self.nodes: dict[bytes, Znode] = {}
        self.sessions: dict[int, Session] = {}
        self.containers: dict[bytes, None] = {}
        self.ephemerals = 0
        self.data_bytes = 0
        self.era = 1
        self._acls = Acls()
        self._digest = Digest()
        self._snapshot_epoch = 1
        self._walk: SnapshotWalk | None = None
        self._plant()

    def _plant(self) -> None:
        """The znodes that are always there. Their stats are ZooKeeper's: all zero, no creation counted."""
        for path, data, acl in (
            (ROOT, b"", OPEN_ACL),
            (ZOOKEEPER, b"", OPEN_ACL),
            (QUOTA, b"", OPEN_ACL),
            (CONFIG, self.configuration, READ_ONLY_ACL),
            (FEATURES, self.features(), READ_ONLY_ACL),
        ):
            parent = None if path in (ROOT, FEATURES) else self.nodes[parent_path(path)]
            self.attach(self.new_znode(path, data, acl, 0, 0, 0), parent)
        self.nodes[CONFIG].aversion = -1  # ZooKeeper's is set with "any version" and shows it ever after

    def features(self) -> bytes:
        """What the reserved znode tells clients."""
        return b'{"feature_level": %d}' % self.feature_level

    # -- the choke point -------------------------------------------------------------------------------

    def touch(self, node: Znode) -> None:
        """To be called before any field of a znode changes."""
        node.stat = None
        node.listing = None
        if node.era != self.era:
            self._first_touch(node)

    def touch_session(self, session: Session) -> None:
        """To be called before any replicated field of a session changes."""
        if session.era != self.era:
            self._first_touch(session)

    def _first_touch(self, entity: Entity) -> None:
        invariant(entity.era >= 0, "what is deleted does not change")
        self._digest.touched(entity)
        if self._walk is not None:
            self._walk.pre_image(entity)
        entity.era = self.era

    # -- znodes come and go ----------------------------------------------------------------------------

    def new_znode(self, path: bytes, data: bytes | None, acl: Acl, zxid: int, wall_ms: int, owner: int) -> Znode:
        """A znode that is not yet in the tree."""
        return Znode(path, data, acl, zxid, wall_ms, owner, self.era, self._snapshot_epoch)

    def attach(self, node: Znode, parent: Znode | None) -> None:
        """Put a new znode into the tree. Its touched parent's counters are the caller's business."""
        self.nodes[node.path] = node
        self._digest.added(node)
        self._enter(node, parent)

    def _enter(self, node: Znode, parent: Znode | None) -> None:
        path = node.path
        if parent is not None:
            if parent.children is None:
                parent.children = {path: None}
            else:
                parent.children[path] = None
        owner = node.owner
        if owner > 0:
            self.sessions[owner].ephemerals[path] = None
            self.ephemerals += 1
        elif owner:
            self.containers[path] = None
        data = node.data
        self.data_bytes += len(path) if data is None else len(path) + len(data)

    def detach(self, node: Znode, parent: Znode) -> None:
        """Take a touched, childless znode out of the tree."""
        path = node.path
        del self.nodes[path]
        children = parent.children
        if children is not None:
            del children[path]
            if not children:
                parent.children = None
        owner = node.owner
        if owner > 0:
            del self.sessions[owner].ephemerals[path]
            self.ephemerals -= 1
        elif owner:
            del self.containers[path]
        data = node.data
        self.data_bytes -= len(path) if data is None else len(path) + len(data)
        node.era = -1 - self.era

    def reattach(self, node: Znode, parent: Znode) -> None:
        """Undo a `detach` of the same batch, within the same era."""
        invariant(node.era == -1 - self.era, "only a znode that has just gone can come back")
        node.era = self.era
        self.nodes[node.path] = node
        self._enter(node, parent)

    def share_acl(self, entries: tuple[tuple[int, bytes, bytes], ...]) -> Acl:
        """The one object for this ACL."""
        return self._acls.share(entries)

    # -- sessions --------------------------------------------------------------------------------------

    def new_session(self, id_: int, timeout_ms: int, password_hash: bytes) -> Session:
        """Open a session."""
        session = Session(id_, timeout_ms, password_hash, self.era, self._snapshot_epoch)
        self.sessions[id_] = session
        self._digest.added(session)
        return session

    def remove_session(self, session: Session) -> None:
        """Close a session whose ephemerals are gone."""
        invariant(not session.ephemerals, "a session's ephemerals go before it")
        self.touch_session(session)
        del self.sessions[session.id]
        session.era = -1 - self.era

    def identities(self, session: int) -> list[Identity]:
        """What a session has proved; empty when it is over."""
        known = self.sessions.get(session)
        return NO_IDENTITIES if known is None else known.identities

    # -- digests ---------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Take a digest of the state as it is now; `digest_step` computes it."""
        self.era += 1
        self._digest.freeze(self.slot, self._head().encode(), self.era)

    def digest(self) -> int:
        """The last digest that is fully computed, an integer below 2**128; 0 before the first."""
        return self._digest.value

    def digest_anew(self) -> int:
        """What the digest of the present state would be, with every entity hashed anew: the slow twin."""
        total = sum(entity_hash(znode) for znode in self.nodes.values())
        total += sum(entity_hash(session) for session in self.sessions.values())
        return (total + hash_of(self._head().encode(), b"head")) % (1 << 128)

    @property
    def digest_slot(self) -> int:
        """The slot after which the state had that digest; 0 before the first."""
        return self._digest.slot

    @property
    def frozen_slot(self) -> int:
        """The slot of the last digest that was begun; 0 before the first."""
        return self._digest.frozen_slot

    @property
    def digest_pending(self) -> bool:
        """Whether `digest_step` has work to do."""
        return self._digest.pending

    def digest_step(self, budget_nodes: int) -> bool:
        """Hash up to so many znodes and sessions; about 3 microseconds each. True while there is more to do."""
        return self._digest.step(budget_nodes)

    def _head(self) -> Head:
        return Head(
            slot=self.slot,
            zxid=self.zxid,
            cell_time_ms=self.cell_time_ms,
            opening=(self.opening_ballot[0], self.opening_ballot[1]),
            level=self.feature_level,
            origins=self.origins,
            configuration=self.configuration,
        )

    # -- snapshots -------------------------------------------------------------------------------------

    def begin_snapshot(self) -> None:
        """Start a snapshot of the state as it is now; one that is under way is given up."""
        self.era += 1
        self._snapshot_epoch += 1
        self._walk = SnapshotWalk(
            self._snapshot_epoch,
            self.feature_level,
            self._head().encode(),
            roots=[FEATURES, ROOT],
            nodes=self.nodes,
            sessions=list(reversed(self.sessions.values())),
        )

    def snapshot_step(self, bytes_max: int) -> bytes | None:
        """The next chunk of the snapshot that was begun; None when it is whole, or none was begun."""
        if self._walk is None:
            return None
        chunk = self._walk.step(bytes_max)
        if chunk is None:
            self._walk = None
        return chunk

    def abandon_snapshot(self) -> None:
        """Give up the snapshot that is under way."""
        self._walk = None

    def _load(self, chunks: Iterable[bytes]) -> Iterator[None]:
        """Become the state that a snapshot describes, in steps of about a third of a millisecond.

        Raises:
            Corruption: the bytes are no whole and sound snapshot; this object is to be thrown away.
        """
        self.nodes.clear()
        self.containers.clear()
        self.data_bytes = 0
        self._digest = Digest()
        done = 0
        early: list[Znode] = []  # came before their parents or owners
        for kind, record in read_records(chunks, self.supported_level):
            if kind == KIND_HEAD:
                self._load_head(record)
            elif kind == KIND_SESSION:
                session = session_of_record(record, self.era, self._snapshot_epoch)
                if session is None or session.id <= 0 or session.id in self.sessions:
                    raise _corruption("a session is broken or there twice")
                self.sessions[session.id] = session
                self._digest.added(session)
            else:
                node = self._load_znode(record)
                if not self._settled(node):
                    early.append(node)
            done += 1
            if done % ENTITIES_PER_STEP == 0:
                yield
        if not all(path in self.nodes for path in sorted(SPECIAL)):
            raise _corruption("a reserved znode is missing")
        for node in early:
            if not self._settled(node):
                raise _corruption(f"{node.path!r} has no parent, or an owner that is gone")
            done += 1
            if done % ENTITIES_PER_STEP == 0:
                yield

    def dissolve(self) -> Iterator[None]:
        """Give the memory of a state back that nobody needs any more, in steps of about a third of a millisecond.

        Everything at once takes half a second for a million znodes.
        """
        self._walk = None
        nodes, done = self.nodes, 0
        while nodes:
            nodes.popitem()[1].children = None
            done += 1
            if done % ENTITIES_PER_STEP == 0:
                yield
        for entities in self._digest.let_go():
            while entities:
                del entities[-ENTITIES_PER_STEP:]
                yield

    def begin_anew(self, configuration: bytes) -> None:
        """Become the first state of another cell, which goes on with these contents.

        What belongs to the replicas of the old cell goes. Its sessions stay until their timeout has passed, for a
        lock's holder may still believe in its lease; but nobody can resume one: a client that did would not learn
        that what it did last may be undone. The first leader that opens raises the zxid: see `Tree.apply`.
        """
        self.era += 1
        self.opening_ballot = BALLOT_ZERO
        self.origins = {}
        self.configuration = configuration
        node = self.nodes[CONFIG]
        self.touch(node)
        self.data_bytes += len(configuration) - len(node.data or b"")
        node.data = configuration
        for session in self.sessions.values():
            self.touch_session(session)
            session.password_hash = NO_PASSWORD
            session.identities = []

    def _load_head(self, record: bytes) -> None:
        head = Head.decode(record)
        if not FEATURE_LEVEL_FIRST <= head.level <= self.supported_level:
            raise _corruption(f"the cell's feature level is {head.level}")
        self.slot, self.zxid, self.cell_time_ms = head.slot, head.zxid, head.cell_time_ms
        self.opening_ballot = Ballot(*head.opening)
        self.feature_level = head.level
        self.origins = head.origins
        self.configuration = head.configuration

    def _settled(self, node: Znode) -> bool:
        """Enter a loaded znode below its parent and with its owner, if these are here already."""
        path, owner = node.path, node.owner
        parent = None
        if path not in (ROOT, FEATURES):
            parent = self.nodes.get(parent_path(path))
            if parent is None:
                return False
        if owner not in (0, CONTAINER) and owner not in self.sessions:
            return False
        self._enter(node, parent)
        return True

    def _load_znode(self, record: bytes) -> Znode:
        parts = unpack_record(record)
        if parts is None:
            raise _corruption("a znode is broken")
        path, data, acl_wire, numbers = parts
        if path[:1] != b"/" or path in self.nodes:
            raise _corruption(f"{path!r} is no path or is there twice")
        acl = OPEN_ACL
        if acl_wire != OPEN_WIRE:
            scanner = Scanner(acl_wire, 0, len(acl_wire))
            entries = scan_entries(scanner)
            if not entries or scanner.bad or scanner.at != len(acl_wire):
                raise _corruption(f"the ACL of {path!r} is broken")
            acl = self.share_acl(tuple(entries))
        node = self.new_znode(path, data, acl, 0, 0, 0)
        (
            node.czxid,
            node.mzxid,
            node.pzxid,
            node.ctime,
            node.mtime,
            node.version,
            node.creates,
            node.aversion,
            node.owner,
        ) = numbers
        self.nodes[path] = node
        self._digest.added(node)
        return node

    # -- checks ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert every invariant of the state; slow, for tests and the simulator.

        Raises:
            InvariantViolation: one does not hold.
        """
        owned: dict[int, list[bytes]] = {}
        children: dict[bytes, list[bytes]] = {}
        containers: list[bytes] = []
        size = 0
        for path, node in self.nodes.items():
            invariant(path is node.path, "a znode and the table share one path object")
            invariant(node.era >= 0, "a znode in the table is not marked as deleted")
            if path not in (ROOT, FEATURES):
                children.setdefault(parent_path(path), []).append(path)
            if node.owner > 0:
                owned.setdefault(node.owner, []).append(path)
            elif node.owner == CONTAINER:
                containers.append(path)
            size += len(path) + len(node.data or b"")
        for path, node in self.nodes.items():
            have = sorted(node.children or ())
            invariant(have == sorted(children.pop(path, [])), f"the children of {path!r} are those below it")
            invariant(node.children is None or bool(have), f"{path!r} has no empty table of children")
            invariant(node.creates >= len(have) or path in (ROOT, ZOOKEEPER), f"{path!r} counted its creations")
        invariant(not children, "every znode has a parent")
        for session in self.sessions.values():
            invariant(
                sorted(session.ephemerals) == sorted(owned.pop(session.id, [])),
                "a session's ephemerals are the znodes that it owns",
            )
        invariant(not owned, "every owner is a session")
        invariant(sorted(containers) == sorted(self.containers), "the containers are known")
        invariant(self.ephemerals == sum(len(s.ephemerals) for s in self.sessions.values()), "ephemerals are counted")
        invariant(self.data_bytes == size, "bytes are counted")


def _corruption(fault: str) -> Corruption:
    return Corruption(f"the snapshot of the tree is unusable: {fault}")
