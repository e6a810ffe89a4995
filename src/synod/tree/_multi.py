"""Several operations as one: all of them happen, with one zxid, or none does.

The whole request is parsed before anything is tried: a malformed one fails as a whole.
Ref: section "Multi" of ZooKeeper's protocol; a failed multi answers with an error result per operation: 0 for
those before the one that failed, its code, and RUNTIMEINCONSISTENCY for those after it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from synod.wire import (
    ERR_MARSHALLING,
    ERR_QUOTA_EXCEEDED,
    ERR_RUNTIME_INCONSISTENCY,
    ERR_UNIMPLEMENTED,
    OK,
    OP_CHECK,
    OP_CREATE,
    OP_CREATE2,
    OP_CREATE_CONTAINER,
    OP_CREATE_TTL,
    OP_DELETE,
    OP_ERROR,
    OP_SET_DATA,
    PERM_WRITE,
    VERSION_ANY,
)

from ._acl import AclEntry, scan_entries
from ._limits import MULTI_OPS_MAX, VALUE_BYTES_MAX
from ._scan import Scanner, int32_at, int32_bytes
from ._watches import Outputs
from ._writes import Writer
from ._znode import Znode, birth, stat_bytes

if TYPE_CHECKING:
    from mypy_extensions import i64

HEADER: Final = struct.Struct(">i?i")
_HEADER_BYTES: Final[int] = HEADER.size
END: Final = HEADER.pack(-1, True, -1)
_CREATE_OK: Final = HEADER.pack(OP_CREATE, False, OK)
_CREATE2_OK: Final = HEADER.pack(OP_CREATE2, False, OK)
_DELETE_OK: Final = HEADER.pack(OP_DELETE, False, OK)
_SET_DATA_OK: Final = HEADER.pack(OP_SET_DATA, False, OK)
_CHECK_OK: Final = HEADER.pack(OP_CHECK, False, OK)
_ERROR_RESULT: Final = struct.Struct(">i?ii")
_ZEROS: Final = bytes(16)  # cversion, aversion, ephemeralOwner
_NO_CHILDREN: Final = bytes(4)

CREATES: Final = (OP_CREATE, OP_CREATE2, OP_CREATE_CONTAINER, OP_CREATE_TTL)


class Operation:
    """One operation of a multi as it was sent; what its kind does not have is empty."""

    __slots__ = ("acl", "data", "flags", "op", "path", "version")

    def __init__(self, op: int) -> None:
        self.op = op
        self.path = b""
        self.data: bytes | None = None
        self.acl: list[AclEntry] | None = None
        self.flags = 0
        self.version = 0


def parse(scanner: Scanner) -> list[Operation] | int:
    """The operations of a request, or why it cannot be tried."""
    operations: list[Operation] = []
    data, end = scanner.data, scanner.end
    while True:
        at = scanner.at
        if at + _HEADER_BYTES > end:
            return ERR_MARSHALLING
        scanner.at = at + _HEADER_BYTES
        if data[at + 4]:  # the header's "done"
            return operations
        if len(operations) >= MULTI_OPS_MAX:
            return ERR_QUOTA_EXCEEDED
        operation = _parse_one(int32_at(data, at), scanner)
        if operation is None or scanner.bad:
            return ERR_MARSHALLING
        operations.append(operation)


def _parse_one(op: int, scanner: Scanner) -> Operation | None:
    operation = Operation(op)
    path = scanner.field()
    if path is None:
        return None
    operation.path = path
    if op in CREATES:
        operation.data = scanner.field()
        operation.acl = scan_entries(scanner)
        operation.flags = scanner.int32()
        if op == OP_CREATE_TTL:
            scanner.int64()
    elif op == OP_SET_DATA:
        operation.data = scanner.field()
        operation.version = scanner.int32()
    elif op in (OP_DELETE, OP_CHECK):
        operation.version = scanner.int32()
    else:
        return None
    return operation


def run(operations: list[Operation], writer: Writer, sink: Outputs, *, answered: bool) -> bytes:
    """Try the operations; the body of the reply. The watches have heard of it when this returns.

    Where nobody waits for an answer the results are left out: two of three replicas have no use for them.
    """
    parts: list[bytes] = []
    for done, operation in enumerate(operations):
        result = _run_one(operation, writer)
        if isinstance(result, Znode):
            if answered:
                _add_result(operation.op, result, parts)
        elif result != OK:
            writer.roll_back()
            return _failure(result, done, len(operations))
        elif answered:
            parts.append(_DELETE_OK if operation.op == OP_DELETE else _CHECK_OK)
    writer.settle(sink)
    if not answered:
        return b""
    parts.append(END)
    return b"".join(parts)


def _run_one(operation: Operation, writer: Writer) -> Znode | int:
    """The znode that an operation made or changed; OK of one that only deletes or checks; or its error code."""
    op = operation.op
    if op == OP_SET_DATA:
        return writer.set_data(operation.path, operation.data, operation.version)
    if op == OP_DELETE:
        return writer.delete(operation.path, operation.version)
    if op == OP_CHECK:
        return writer.check(operation.path, operation.version)
    if op == OP_CREATE_TTL:
        return ERR_UNIMPLEMENTED
    container = op == OP_CREATE_CONTAINER
    return writer.create(operation.path, operation.data, operation.acl, operation.flags, container=container)


def _add_result(op: int, node: Znode, parts: list[bytes]) -> None:
    """What is answered to an operation that made or changed a znode: now, for a later one may change it again."""
    if op == OP_SET_DATA:
        parts.append(_SET_DATA_OK)
        parts.append(stat_bytes(node))
        return
    parts.append(_CREATE_OK if op == OP_CREATE else _CREATE2_OK)
    parts.append(len(node.path).to_bytes(4, "big"))
    parts.append(node.path)
    if op != OP_CREATE:
        parts.append(stat_bytes(node))


def set_all(scanner: Scanner, writer: Writer, sink: Outputs, *, answered: bool) -> bytes | None:
    """The fast path for a request that does nothing but give values to znodes, whatever versions they have.

    Where the znodes are there and open to the world nothing of it can fail, and so nothing is noted to be taken back.

    Returns:
        What `run` would give; None, with nothing changed, when the request is any other.
    """
    data, at, end = scanner.data, scanner.at, scanner.end
    path_begin: i64
    path_end: i64
    value_begin: i64
    size: i64
    znodes = writer.state.nodes
    nodes: list[Znode] = []
    values: list[bytes] = []
    while True:
        path_begin = at + _HEADER_BYTES + 4
        if path_begin > end or data[at + 4]:
            break
        path_end = path_begin + int32_at(data, path_begin - 4)
        value_begin = path_end + 4
        if int32_at(data, at) != OP_SET_DATA or path_end < path_begin or value_begin > end:
            return None
        size = int32_at(data, path_end)
        at = value_begin + size + 4
        if not 0 <= size <= VALUE_BYTES_MAX or at > end or int32_at(data, at - 4) != VERSION_ANY:
            return None
        node = znodes.get(data[path_begin:path_end])
        if node is None or not node.acl.world & PERM_WRITE:
            return None
        nodes.append(node)
        values.append(data[value_begin : at - 4])
    if data[at:end] != END or len(nodes) > MULTI_OPS_MAX:
        return None
    parts: list[bytes] = []
    zxid = writer.zxid.to_bytes(8, "big") if answered else b""
    mtime = writer.wall_ms.to_bytes(8, "big", signed=True) if answered else b""
    for number, node in enumerate(nodes):
        value = values[number]
        writer.assign(node, value)
        if not answered:
            continue
        if node.is_plain():
            # As below, from what the results share, what the znode keeps, and what is zero of a plain one: to pack
            # eleven integers costs four times as much.
            czxid, ctime = birth(node)
            version, length = int32_bytes(node.version), int32_bytes(len(value))
            parts.append(
                b"%b%b%b%b%b%b%b%b%b%b"
                % (_SET_DATA_OK, czxid, zxid, ctime, mtime, version, _ZEROS, length, _NO_CHILDREN, czxid)
            )
        else:
            _add_result(OP_SET_DATA, node, parts)
    writer.tell_changed(nodes, sink)
    parts.append(END)
    return b"".join(parts)


def _failure(err: int, failed: int, count: int) -> bytes:
    parts: list[bytes] = []
    for at in range(count):
        code = OK if at < failed else err if at == failed else ERR_RUNTIME_INCONSISTENCY
        parts.append(_ERROR_RESULT.pack(OP_ERROR, False, code, code))
    parts.append(END)
    return b"".join(parts)
