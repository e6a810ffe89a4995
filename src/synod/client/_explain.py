"""Turns an error number into an error whose sentence says: did it happen, whose fault is it, what next."""

from __future__ import annotations

from typing import Final

from synod.base import SynodError, error_for_code
from synod.wire import (
    ERR_AUTH_FAILED,
    ERR_BAD_ARGUMENTS,
    ERR_BAD_VERSION,
    ERR_INVALID_ACL,
    ERR_MARSHALLING,
    ERR_NO_AUTH,
    ERR_NO_CHILDREN_FOR_EPHEMERALS,
    ERR_NO_NODE,
    ERR_NO_WATCHER,
    ERR_NODE_EXISTS,
    ERR_NOT_EMPTY,
    ERR_NOT_READ_ONLY,
    ERR_QUOTA_EXCEEDED,
    ERR_RUNTIME_INCONSISTENCY,
    ERR_SESSION_EXPIRED,
    ERR_SESSION_MOVED,
    ERR_UNIMPLEMENTED,
    OP_CREATE,
    OP_CREATE2,
    OP_CREATE_CONTAINER,
    OP_CREATE_TTL,
    OP_DELETE,
    OP_EXISTS,
    OP_GET_ACL,
    OP_GET_CHILDREN,
    OP_GET_CHILDREN2,
    OP_GET_DATA,
    OP_MULTI,
    OP_SET_ACL,
    OP_SET_DATA,
    OP_SYNC,
)

_NAMES: Final = {
    OP_CREATE: "create",
    OP_CREATE2: "create",
    OP_CREATE_CONTAINER: "create",
    OP_CREATE_TTL: "create",
    OP_DELETE: "delete",
    OP_EXISTS: "exists",
    OP_GET_ACL: "get_acl",
    OP_GET_CHILDREN: "children",
    OP_GET_CHILDREN2: "children",
    OP_GET_DATA: "get",
    OP_MULTI: "multi",
    OP_SET_ACL: "set_acl",
    OP_SET_DATA: "set",
    OP_SYNC: "sync",
}

_SENTENCES: Final = {
    ERR_RUNTIME_INCONSISTENCY: "not tried, because an earlier operation of the same multi was refused",
    ERR_MARSHALLING: "the replica could not parse the request; nothing was changed: report this as a bug",
    ERR_UNIMPLEMENTED: "this server does not know the operation; nothing was changed: use another, or a newer server",
    ERR_BAD_ARGUMENTS: "the cell refused the arguments; nothing was changed: correct the path, flags or value",
    ERR_NO_NODE: "there is no such znode; nothing was changed: create it first",
    ERR_NO_AUTH: "the ACL does not permit it; nothing was changed: add_auth with an identity that may",
    ERR_BAD_VERSION: "the znode has another version by now; nothing was changed: read it again, then decide",
    ERR_NO_CHILDREN_FOR_EPHEMERALS: "an ephemeral znode cannot have children; nothing was changed: choose another parent",
    ERR_NODE_EXISTS: "there is such a znode already; nothing was changed: set it, or choose another path",
    ERR_NOT_EMPTY: "the znode has children; nothing was changed: delete them first, or delete recursively",
    ERR_SESSION_EXPIRED: "the session is over and its ephemerals are gone; this was not done: begin again in a new one",
    ERR_INVALID_ACL: "the ACL is empty or names nobody; nothing was changed: correct the ACL",
    ERR_AUTH_FAILED: "the credentials were refused; nothing was changed: correct scheme and credentials",
    ERR_SESSION_MOVED: "the session is attached elsewhere now; this was not done: one process may use a session",
    ERR_NOT_READ_ONLY: "the replica can only read at the moment; nothing was changed: try again later",
    ERR_NO_WATCHER: "there is no such watch on this connection",
    ERR_QUOTA_EXCEEDED: "a limit of the cell would be crossed; nothing was changed: store less, or raise the limit",
}


def describe(op: int, path: str) -> str:
    """A request as its caller knows it: the method's name and the path."""
    name = _NAMES.get(op, f"operation {op}")
    return f"{name} {path}" if path else name


def refused(op: int, path: str, code: int) -> SynodError:
    """The error that a reply's number stands for."""
    sentence = _SENTENCES.get(code, f"the server answered with error {code}")
    return error_for_code(code, f"{describe(op, path)}: {sentence}")
