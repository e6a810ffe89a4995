"""What each read answers, one obvious function each: the slow twin of the fast path in `Tree.read`.

A read that asks for a watch registers it in the same step. Every function gives the body of the reply, or an
error code (a negative int).

Read `Reader.answer`, which is the table of the operations.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from synod.wire import (
    ERR_BAD_ARGUMENTS,
    ERR_MARSHALLING,
    ERR_NO_AUTH,
    ERR_NO_NODE,
    ERR_NO_WATCHER,
    ERR_QUOTA_EXCEEDED,
    ERR_UNIMPLEMENTED,
    EVENT_CHILDREN_CHANGED,
    EVENT_CREATED,
    EVENT_DATA_CHANGED,
    EVENT_DELETED,
    OK,
    OP_ADD_WATCH,
    OP_CHECK_WATCHES,
    OP_ERROR,
    OP_EXISTS,
    OP_GET_ACL,
    OP_GET_ALL_CHILDREN_NUMBER,
    OP_GET_CHILDREN,
    OP_GET_CHILDREN2,
    OP_GET_DATA,
    OP_GET_EPHEMERALS,
    OP_MULTI_READ,
    OP_REMOVE_WATCHES,
    OP_SET_WATCHES,
    OP_SET_WATCHES2,
    OP_SYNC,
    OP_WHO_AM_I,
    PERM_ADMIN,
    PERM_READ,
)

from ._acl import DIGEST, encode_entries, masked_entries, permits
from ._limits import MULTI_OPS_MAX, MULTI_READ_BYTES_MAX
from ._multi import END, HEADER
from ._paths import ROOT
from ._scan import INT, Scanner
from ._state import State
from ._watches import CHILD, DATA, PERSISTENT, RECURSIVE, Outputs, Watches, event_frame
from ._znode import Znode, data_bytes, names_bytes, stat_bytes

REPLY: Final = struct.Struct(">iiqi")
REPLY_BYTES: Final = 16

_NO_XID: Final = 0
_NO_ZXID: Final = -1
_KINDS_OF_TYPE: Final = {1: CHILD, 2: DATA, 3: CHILD | DATA | PERSISTENT | RECURSIVE, 4: PERSISTENT, 5: RECURSIVE}
_KIND_OF_MODE: Final = {0: PERSISTENT, 1: RECURSIVE}


class Reader:
    """Answers reads from the state, and registers watches."""

    __slots__ = ("_handlers", "_state", "_watches")

    def __init__(self, state: State, watches: Watches) -> None:
        self._state = state
        self._watches = watches

    def answer(self, frame: bytes, session: int, conn: int, sink: Outputs) -> bytes:
        """The whole reply frame for any bytes that a client sent as one frame."""
        scanner = Scanner(frame, 0, len(frame))
        scanner.int32()
        xid, op = scanner.int32(), scanner.int32()
        if scanner.bad:
            return reply(_NO_XID, self._state.zxid, ERR_MARSHALLING)
        body = self._body(op, scanner, session, conn, sink)
        if isinstance(body, int):
            return reply(xid, self._state.zxid, body)
        return REPLY.pack(REPLY_BYTES + len(body), xid, self._state.zxid, OK) + body

    def _body(self, op: int, scanner: Scanner, session: int, conn: int, sink: Outputs) -> bytes | int:
        if op == OP_EXISTS:
            return self._exists(scanner, session, conn)
        if op == OP_GET_DATA:
            return self._get(scanner, session, conn, DATA, _data_and_stat)
        if op == OP_GET_CHILDREN:
            return self._get(scanner, session, conn, CHILD, names_bytes)
        if op == OP_GET_CHILDREN2:
            return self._get(scanner, session, conn, CHILD, _names_and_stat)
        if op == OP_GET_ACL:
            return self._get_acl(scanner, session)
        if op == OP_SYNC:
            return self._sync(scanner)
        if op in (OP_SET_WATCHES, OP_SET_WATCHES2):
            return self._set_watches(scanner, op, session, conn, sink)
        if op == OP_ADD_WATCH:
            return self._add_watch(scanner, session, conn)
        if op in (OP_CHECK_WATCHES, OP_REMOVE_WATCHES):
            return self._check_or_remove(scanner, op, conn)
        if op == OP_GET_EPHEMERALS:
            return self._get_ephemerals(scanner, session)
        if op == OP_GET_ALL_CHILDREN_NUMBER:
            return self._count(scanner, session)
        if op == OP_WHO_AM_I:
            return self._who_am_i(session)
        if op == OP_MULTI_READ:
            return self._multi_read(scanner, session, conn)
        return ERR_UNIMPLEMENTED

    # -- one znode -------------------------------------------------------------------------------------

    def _exists(self, scanner: Scanner, session: int, conn: int) -> bytes | int:
        path, watch = scanner.field(), scanner.boolean()
        if scanner.bad or path is None:
            return ERR_MARSHALLING
        if b"\0" in path:
            return ERR_BAD_ARGUMENTS
        node = self._state.nodes.get(path)
        if node is not None and not self._may(node, PERM_READ, session):
            return ERR_NO_AUTH
        if watch and not self._watches.add(conn, session, path, DATA):
            return ERR_QUOTA_EXCEEDED
        return ERR_NO_NODE if node is None else stat_bytes(node)

    def _get(
        self, scanner: Scanner, session: int, conn: int, kind: int, encode: Callable[[Znode], bytes]
    ) -> bytes | int:
        path, watch = scanner.field(), scanner.boolean()
        if scanner.bad or path is None:
            return ERR_MARSHALLING
        return self._get_one(path, watch, session, conn, kind, encode)

    def _get_one(
        self, path: bytes, watch: bool, session: int, conn: int, kind: int, encode: Callable[[Znode], bytes]
    ) -> bytes | int:
        node = self._state.nodes.get(path)
        if node is None:
            return ERR_NO_NODE
        if not self._may(node, PERM_READ, session):
            return ERR_NO_AUTH
        if watch and not self._watches.add(conn, session, node.path, kind):
            return ERR_QUOTA_EXCEEDED
        return encode(node)

    def _get_acl(self, scanner: Scanner, session: int) -> bytes | int:
        path = scanner.field()
        if scanner.bad or path is None:
            return ERR_MARSHALLING
        node = self._state.nodes.get(path)
        if node is None:
            return ERR_NO_NODE
        if not self._may(node, PERM_READ | PERM_ADMIN, session):
            return ERR_NO_AUTH
        acl = node.acl
        if self._may(node, PERM_ADMIN, session) or all(scheme != DIGEST for _, scheme, _ in acl.entries):
            return acl.wire + stat_bytes(node)
        return encode_entries(masked_entries(acl)) + stat_bytes(node)

    def _sync(self, scanner: Scanner) -> bytes | int:
        path = scanner.field()
        if scanner.bad or path is None:
            return ERR_MARSHALLING
        return INT.pack(len(path)) + path

    def _count(self, scanner: Scanner, session: int) -> bytes | int:
        path = scanner.field()
        if scanner.bad or path is None:
            return ERR_MARSHALLING
        state = self._state
        node = state.nodes.get(path)
        if node is None:
            return ERR_NO_NODE
        if not self._may(node, PERM_READ, session):
            return ERR_NO_AUTH
        if path == ROOT:
            return INT.pack(len(state.nodes) - 2)  # without itself and the feature level
        count = 0
        below = list(node.children or ())
        while below:
            child = state.nodes[below.pop()]
            count += 1
            below.extend(child.children or ())
        return INT.pack(count)

    # -- one session -----------------------------------------------------------------------------------

    def _get_ephemerals(self, scanner: Scanner, session: int) -> bytes | int:
        prefix = scanner.field()
        if scanner.bad:
            return ERR_MARSHALLING
        known = self._state.sessions.get(session)
        paths = sorted(known.ephemerals) if known is not None else []
        wanted = prefix or b""
        if wanted.strip() not in (b"", b"/"):
            paths = [path for path in paths if path.startswith(wanted)]
        parts = [INT.pack(len(paths))]
        for path in paths:
            parts.append(INT.pack(len(path)))
            parts.append(path)
        return b"".join(parts)

    def _who_am_i(self, session: int) -> bytes:
        identities = self._state.identities(session)
        parts = [INT.pack(len(identities))]
        for scheme, identity in identities:
            user = identity.partition(b":")[0] if scheme == DIGEST else identity
            parts.append(INT.pack(len(scheme)))
            parts.append(scheme)
            parts.append(INT.pack(len(user)))
            parts.append(user)
        return b"".join(parts)

    # -- watches ---------------------------------------------------------------------------------------

    def _add_watch(self, scanner: Scanner, session: int, conn: int) -> bytes | int:
        path, mode = scanner.field(), scanner.int32()
        if scanner.bad or path is None:
            return ERR_MARSHALLING
        kind = _KIND_OF_MODE.get(mode)
        if kind is None:
            return ERR_BAD_ARGUMENTS
        if not self._watches.add(conn, session, path, kind):
            return ERR_QUOTA_EXCEEDED
        return INT.pack(OK)

    def _check_or_remove(self, scanner: Scanner, op: int, conn: int) -> bytes | int:
        path, type_ = scanner.field(), scanner.int32()
        if scanner.bad or path is None:
            return ERR_MARSHALLING
        kinds = _KINDS_OF_TYPE.get(type_)
        if kinds is None:
            return ERR_BAD_ARGUMENTS
        find = self._watches.remove if op == OP_REMOVE_WATCHES else self._watches.has
        return b"" if find(conn, path, kinds) else ERR_NO_WATCHER

    def _set_watches(self, scanner: Scanner, op: int, session: int, conn: int, sink: Outputs) -> bytes | int:
        """Register a reconnected client's watches anew; those that missed something fire at once."""
        since = scanner.int64()
        data, exist, child = scanner.fields(), scanner.fields(), scanner.fields()
        persistent: list[bytes] = []
        recursive: list[bytes] = []
        if op == OP_SET_WATCHES2:
            persistent, recursive = scanner.fields(), scanner.fields()
        if scanner.bad:
            return ERR_MARSHALLING
        nodes = self._state.nodes
        missed: list[tuple[int, bytes, Znode | None]] = []
        armed: list[tuple[bytes, int]] = []
        for path in data:
            node = nodes.get(path)
            if node is None:
                missed.append((EVENT_DELETED, path, None))
            elif node.mzxid > since:
                missed.append((EVENT_DATA_CHANGED, path, node))
            else:
                armed.append((path, DATA))
        for path in exist:
            node = nodes.get(path)
            if node is None:
                armed.append((path, DATA))
            else:
                missed.append((EVENT_CREATED, path, node))
        for path in child:
            node = nodes.get(path)
            if node is None:
                missed.append((EVENT_DELETED, path, None))
            elif node.pzxid > since:
                missed.append((EVENT_CHILDREN_CHANGED, path, node))
            else:
                armed.append((path, CHILD))
        armed.extend((path, PERSISTENT) for path in persistent)
        armed.extend((path, RECURSIVE) for path in recursive)
        self._fire_missed(missed, session, conn, sink)
        for path, kind in armed:
            if not self._watches.add(conn, session, path, kind):
                return ERR_QUOTA_EXCEEDED
        return b""

    def _fire_missed(
        self, missed: list[tuple[int, bytes, Znode | None]], session: int, conn: int, sink: Outputs
    ) -> None:
        """Tell what happened meanwhile, each thing once. When it happened is not known: no zxid."""
        out = sink.watcher(conn)
        if out is None:
            return
        for event, path in dict.fromkeys((event, path) for event, path, _ in missed):
            node = self._state.nodes.get(path)
            if node is None or self._may(node, PERM_READ, session):
                out.append(event_frame(event, path, _NO_ZXID))

    # -- several reads ---------------------------------------------------------------------------------

    def _multi_read(self, scanner: Scanner, session: int, conn: int) -> bytes | int:
        wanted: list[tuple[int, bytes, bool]] = []
        while True:
            op, done, _ = scanner.int32(), scanner.boolean(), scanner.int32()
            if scanner.bad:
                return ERR_MARSHALLING
            if done:
                break
            path, watch = scanner.field(), scanner.boolean()
            if scanner.bad or path is None or op not in (OP_GET_DATA, OP_GET_CHILDREN):
                return ERR_MARSHALLING
            if len(wanted) >= MULTI_OPS_MAX:
                return ERR_QUOTA_EXCEEDED
            wanted.append((op, path, watch))
        parts: list[bytes] = []
        size = 0
        for op, path, watch in wanted:
            if op == OP_GET_DATA:
                body = self._get_one(path, watch, session, conn, DATA, _data_and_stat)
            else:
                body = self._get_one(path, watch, session, conn, CHILD, names_bytes)
            if isinstance(body, int):
                part = HEADER.pack(OP_ERROR, False, body) + INT.pack(body)
            else:
                part = HEADER.pack(op, False, OK) + body
            size += len(part)
            if size > MULTI_READ_BYTES_MAX:
                return ERR_QUOTA_EXCEEDED
            parts.append(part)
        parts.append(END)
        return b"".join(parts)

    def _may(self, node: Znode, perm: int, session: int) -> bool:
        return permits(node.acl, perm, self._state.identities(session))


def reply(xid: int, zxid: int, err: int) -> bytes:
    """A reply that is only a header."""
    return REPLY.pack(REPLY_BYTES, xid, zxid, err)


def _data_and_stat(node: Znode) -> bytes:
    return data_bytes(node) + stat_bytes(node)


def _names_and_stat(node: Znode) -> bytes:
    return names_bytes(node) + stat_bytes(node)
