"""Several operations as one: all of them happen, with one zxid, or none does.

The whole request is parsed before anything is tried: a malformed one fails as a whole.
Ref: section "Multi" of ZooKeeper's protocol; a failed multi answers with an error result per operation: 0 for
those before the one that failed, its code, and RUNTIMEINCONSISTENCY for those after it.
"""

from __future__ import annotations

import struct
from typing import Final

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
)

from ._acl import AclEntry, scan_entries
from ._limits import MULTI_OPS_MAX
from ._scan import INT, Scanner
from ._watches import Outputs
from ._writes import Writer
from ._znode import Znode, stat_bytes

HEADER: Final = struct.Struct(">i?i")
_HEADER_BYTES: Final[int] = HEADER.size
END: Final = HEADER.pack(-1, True, -1)
_ERROR_RESULT: Final = struct.Struct(">i?ii")

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
    op: int
    done: bool
    while True:
        at = scanner.at
        if scanner.bad or at + _HEADER_BYTES > scanner.end:
            return ERR_MARSHALLING
        scanner.at = at + _HEADER_BYTES
        op, done, _ = HEADER.unpack_from(scanner.data, at)
        if done:
            return operations
        if len(operations) >= MULTI_OPS_MAX:
            return ERR_QUOTA_EXCEEDED
        operation = _parse_one(op, scanner)
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
    writer.begin()
    parts: list[bytes] = []
    for done, operation in enumerate(operations):
        result = _run_one(operation, writer, answered=answered)
        if isinstance(result, int):
            writer.roll_back()
            return _failure(result, done, len(operations))
        parts.append(result)
    writer.settle(sink)
    parts.append(END)
    return b"".join(parts)


def _run_one(operation: Operation, writer: Writer, *, answered: bool) -> bytes | int:
    """The encoded result of one operation, or its error code."""
    op = operation.op
    if op in CREATES:
        if op == OP_CREATE_TTL:
            return ERR_UNIMPLEMENTED
        container = op == OP_CREATE_CONTAINER
        made = writer.create(operation.path, operation.data, operation.acl, operation.flags, container=container)
        if isinstance(made, int):
            return made
        if not answered:
            return b""
        body = INT.pack(len(made.path)) + made.path
        if op == OP_CREATE:
            return HEADER.pack(OP_CREATE, False, OK) + body
        return HEADER.pack(OP_CREATE2, False, OK) + body + stat_bytes(made)
    if op == OP_SET_DATA:
        changed: Znode | int = writer.set_data(operation.path, operation.data, operation.version)
        if isinstance(changed, int):
            return changed
        if not answered:
            return b""
        return HEADER.pack(OP_SET_DATA, False, OK) + stat_bytes(changed)
    if op == OP_DELETE:
        err = writer.delete(operation.path, operation.version)
    else:
        err = writer.check(operation.path, operation.version)
    return HEADER.pack(op, False, OK) if err == OK else err


def _failure(err: int, failed: int, count: int) -> bytes:
    parts: list[bytes] = []
    for at in range(count):
        code = OK if at < failed else err if at == failed else ERR_RUNTIME_INCONSISTENCY
        parts.append(_ERROR_RESULT.pack(OP_ERROR, False, code, code))
    parts.append(END)
    return b"".join(parts)
