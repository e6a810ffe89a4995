"""What each write does, one obvious function each: the slow twin of the fast path in `_tree`.

A function checks in ZooKeeper's order and returns either an error code (a negative int) or what the reply
needs; it changes nothing unless everything holds. The changes of one request are noted until it is settled, so
that those of a multi can be taken back when a later operation fails.

Read `Writer.create` first.
"""

from __future__ import annotations

from typing import Final

from synod.wire import (
    ERR_BAD_ARGUMENTS,
    ERR_BAD_VERSION,
    ERR_INVALID_ACL,
    ERR_NO_AUTH,
    ERR_NO_CHILDREN_FOR_EPHEMERALS,
    ERR_NO_NODE,
    ERR_NODE_EXISTS,
    ERR_NOT_EMPTY,
    ERR_QUOTA_EXCEEDED,
    ERR_UNIMPLEMENTED,
    OK,
    PERM_ADMIN,
    PERM_CREATE,
    PERM_DELETE,
    PERM_READ,
    PERM_WRITE,
)

from ._acl import AclEntry, permits, resolve
from ._limits import SEQUENCE_MAX, VALUE_BYTES_MAX
from ._paths import SLASH, is_valid_path, parent_path
from ._session import Session
from ._state import CONFIG, SPECIAL, State
from ._watches import Outputs, Watches
from ._znode import CONTAINER, Znode, next_version

EPHEMERAL: Final = 1
SEQUENTIAL: Final = 2
CONTAINER_FLAGS: Final = 4
TTL_FLAGS: Final = (5, 6)


_CREATED: Final = 1
_DELETED: Final = 2
_CHANGED: Final = 3


class _Change:
    """What watches may hear of once it is sure to stay, and how it is taken back if it is not."""

    __slots__ = ("creates", "data", "kind", "mtime", "mzxid", "node", "parent", "pzxid", "version")

    def __init__(self, kind: int, node: Znode, parent: Znode | None) -> None:
        self.kind = kind
        self.node = node
        self.parent = parent
        self.data = node.data
        self.mzxid = node.mzxid
        self.mtime = node.mtime
        self.version = node.version
        self.creates = 0 if parent is None else parent.creates
        self.pzxid = 0 if parent is None else parent.pzxid


class Writer:
    """Applies single operations to the state. `zxid`, `wall_ms` and `session` are those of the request.

    Invariant: between requests `_changes` is empty.
    """

    __slots__ = ("_changes", "session", "state", "wall_ms", "watches", "zxid")

    def __init__(self, state: State, watches: Watches) -> None:
        self.state = state
        self.watches = watches
        self.session = Session(0, 0, b"", 0, 0)
        self.zxid = 0
        self.wall_ms = 0
        self._changes: list[_Change] = []

    # -- the operations --------------------------------------------------------------------------------

    def create(
        self, path: bytes, data: bytes | None, acl: list[AclEntry] | None, flags: int, *, container: bool
    ) -> Znode | int:
        """Make a znode; returns it, for its path may have got a suffix."""
        state, session = self.state, self.session
        if not 0 <= flags <= 6:
            return ERR_BAD_ARGUMENTS
        if flags in TTL_FLAGS:
            return ERR_UNIMPLEMENTED
        container = container or flags == CONTAINER_FLAGS
        if SLASH not in path or 0 in path:
            return ERR_BAD_ARGUMENTS
        entries = resolve(acl, session.identities)
        if entries is None:
            return ERR_INVALID_ACL
        parent = state.nodes.get(parent_path(path))
        if parent is None:
            return ERR_NO_NODE
        if not permits(parent.acl, PERM_CREATE, session.identities):
            return ERR_NO_AUTH
        if flags in (SEQUENTIAL, SEQUENTIAL | EPHEMERAL):
            if parent.creates > SEQUENCE_MAX:
                return ERR_QUOTA_EXCEEDED
            path = path + b"%010d" % parent.creates
        if not is_valid_path(path):
            return ERR_BAD_ARGUMENTS
        if path in state.nodes:
            return ERR_NODE_EXISTS
        if parent.owner > 0:
            return ERR_NO_CHILDREN_FOR_EPHEMERALS
        if data is not None and len(data) > VALUE_BYTES_MAX:
            return ERR_BAD_ARGUMENTS
        owner = 0
        if container:
            owner = CONTAINER
        elif flags in (EPHEMERAL, SEQUENTIAL | EPHEMERAL):
            owner = session.id
        node = state.new_znode(path, data, state.share_acl(entries), self.zxid, self.wall_ms, owner)
        self._note(_CREATED, node, parent)
        state.touch(parent)
        parent.creates += 1
        parent.pzxid = self.zxid
        state.attach(node, parent)
        return node

    def delete(self, path: bytes, version: int) -> int:
        """Remove a childless znode."""
        state = self.state
        if SLASH not in path or 0 in path or path in SPECIAL:
            return ERR_BAD_ARGUMENTS
        parent = state.nodes.get(parent_path(path))
        if parent is None:
            return ERR_NO_NODE
        if not permits(parent.acl, PERM_DELETE, self.session.identities):
            return ERR_NO_AUTH
        node = state.nodes.get(path)
        if node is None:
            return ERR_NO_NODE
        if version not in (-1, node.version):
            return ERR_BAD_VERSION
        if node.children is not None:
            return ERR_NOT_EMPTY
        self.remove(node, parent)
        return OK

    def remove(self, node: Znode, parent: Znode) -> None:
        """Take a childless znode away, whoever asks."""
        self._note(_DELETED, node, parent)
        state = self.state
        state.touch(node)
        state.touch(parent)
        parent.pzxid = self.zxid
        state.detach(node, parent)

    def set_data(self, path: bytes, data: bytes | None, version: int) -> Znode | int:
        """Replace the value of a znode; returns it."""
        state = self.state
        node = state.nodes.get(path)
        if node is None:
            return ERR_NO_NODE if is_valid_path(path) else ERR_BAD_ARGUMENTS
        if not permits(node.acl, PERM_WRITE, self.session.identities):
            return ERR_NO_AUTH
        if data is not None and len(data) > VALUE_BYTES_MAX:
            return ERR_BAD_ARGUMENTS
        if version not in (-1, node.version):
            return ERR_BAD_VERSION
        self.replace(node, data)
        return node

    def replace(self, node: Znode, data: bytes | None) -> None:
        """Give a znode another value, whoever asks."""
        self._note(_CHANGED, node, None)
        self.assign(node, data)

    def assign(self, node: Znode, data: bytes | None) -> None:
        """The same without a note, for a caller that knows that it stays, and tells the watches itself."""
        state = self.state
        state.touch(node)
        old = node.data
        state.data_bytes += (0 if data is None else len(data)) - (0 if old is None else len(old))
        node.data = data
        node.version = next_version(node.version)
        node.mzxid = self.zxid
        node.mtime = self.wall_ms

    def configure(self, data: bytes) -> None:
        """Show who the members are now. No batch came with this, and so no wall stamp either."""
        state = self.state
        node = state.nodes[CONFIG]
        self._note(_CHANGED, node, None)
        state.touch(node)
        state.data_bytes += len(data) - len(node.data or b"")
        node.data = data
        node.version = next_version(node.version)
        node.mzxid = self.zxid

    def set_acl(self, path: bytes, acl: list[AclEntry] | None, version: int) -> Znode | int:
        """Replace the ACL of a znode; returns it. Not allowed inside a multi, and no watch hears of it: not noted."""
        state = self.state
        if not is_valid_path(path):
            return ERR_BAD_ARGUMENTS
        entries = resolve(acl, self.session.identities)
        if entries is None:
            return ERR_INVALID_ACL
        node = state.nodes.get(path)
        if node is None:
            return ERR_NO_NODE
        if not permits(node.acl, PERM_ADMIN, self.session.identities):
            return ERR_NO_AUTH
        if version not in (-1, node.aversion):
            return ERR_BAD_VERSION
        state.touch(node)
        node.acl = state.share_acl(entries)
        node.aversion = next_version(node.aversion)
        return node

    def check(self, path: bytes, version: int) -> int:
        """Demand a version of a znode, inside a multi."""
        node = self.state.nodes.get(path)
        if node is None:
            return ERR_NO_NODE if is_valid_path(path) else ERR_BAD_ARGUMENTS
        if not permits(node.acl, PERM_READ, self.session.identities):
            return ERR_NO_AUTH
        return OK if version in (-1, node.version) else ERR_BAD_VERSION

    # -- all or nothing --------------------------------------------------------------------------------

    def roll_back(self) -> None:
        """Undo every change of this request, the last first; nobody hears of them."""
        changes, self._changes = self._changes, []
        state = self.state
        for change in reversed(changes):
            node, parent = change.node, change.parent
            if parent is None:
                state.touch(node)
                state.data_bytes += len(change.data or b"") - len(node.data or b"")
                node.data = change.data
                node.mzxid = change.mzxid
                node.mtime = change.mtime
                node.version = change.version
                continue
            state.touch(parent)
            if change.kind == _CREATED:
                state.touch(node)
                state.detach(node, parent)
            else:
                state.reattach(node, parent)
            parent.creates = change.creates
            parent.pzxid = change.pzxid

    def settle(self, sink: Outputs) -> None:
        """The changes stay: tell the watches, in the order of the changes."""
        changes, self._changes = self._changes, []
        watches, zxid = self.watches, self.zxid
        if not watches.table:
            return
        for change in changes:
            node, parent = change.node, change.parent
            if parent is None:
                watches.changed(node.path, node.acl, zxid, sink)
            elif change.kind == _CREATED:
                watches.created(node.path, node.acl, parent.path, parent.acl, zxid, sink)
            else:
                watches.deleted(node.path, node.acl, parent.path, parent.acl, zxid, sink)

    def tell_changed(self, nodes: list[Znode], sink: Outputs) -> None:
        """Tell the watches of what was changed by `assign` alone."""
        if self.watches.table:
            for node in nodes:
                self.watches.changed(node.path, node.acl, self.zxid, sink)

    def _note(self, kind: int, node: Znode, parent: Znode | None) -> None:
        self._changes.append(_Change(kind, node, parent))
