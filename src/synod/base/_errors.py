"""Every error that synod raises, and what it says about the operation.

    SynodError
    |-- NotApplied                 definite: the operation did not happen and never will
    |   |-- NoNode  NodeExists  BadVersion  NotEmpty  NoAuth  BadArguments  ...   (the cell refused)
    |   |-- SessionExpired         the cell refused because the session is over
    |   |-- LockNotAcquired        the lock was not got in the time given
    |   `-- UserError              the caller's configuration, address or arguments (exit code 2)
    |       |-- ConfigError
    |       `-- DataDirError
    |-- OutcomeUnknown             indefinite: it may or may not have happened
    |   |-- ConnectionLoss
    |   |-- OperationTimeout
    |   `-- LockLost               the lock's lease could not be kept; somebody else may hold it now
    |-- StorageError               a disk or a file failed; the replica stops or abstains
    |   |-- Corruption             bytes that were once synced read back wrong
    |   `-- NoSpace                no room to prepare the next segment
    |-- ProtocolError
    |   |-- LocalProtocolError     we broke the protocol
    |   `-- RemoteProtocolError    the other side did
    InvariantViolation             stands apart: a fact that must hold does not; the replica stops

An error answers three questions: did it happen, whose fault is it, what next.
The numbers are ZooKeeper's, so that every client of that protocol understands them.
"""

from __future__ import annotations

from typing import ClassVar, Final


class SynodError(Exception):
    """The root of everything that synod raises on purpose."""


class NotApplied(SynodError):
    """Definite: the operation did not happen and never will."""

    code: ClassVar[int] = -1


class OutcomeUnknown(SynodError):
    """Indefinite: the operation may have happened, or may still happen."""

    code: ClassVar[int] = -4


class UserError(NotApplied):
    """The caller's mistake: the message says which and what to do; nothing was changed."""


class ConfigError(UserError):
    """A configuration file or option that cannot be used."""


class DataDirError(UserError):
    """A data directory that this replica must not or cannot use."""


class StorageError(SynodError):
    """A disk or a file failed."""


class Corruption(StorageError):
    """Bytes that were once written and synced read back wrong."""


class NoSpace(StorageError):
    """There is no room to prepare the next segment; what is acknowledged is safe."""


class ProtocolError(SynodError):
    """Somebody broke a protocol; abstract."""


class LocalProtocolError(ProtocolError):
    """This side broke the protocol: nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The other side broke the protocol: its connection is to be closed."""


class InvariantViolation(AssertionError):
    """A fact that must hold does not hold: the replica stops rather than go on wrongly."""


class SystemFailure(NotApplied):
    """The server failed in a way that it has no better number for."""

    code = -1


class RuntimeInconsistency(NotApplied):
    """Inside a failed multi: an operation after the one that failed; it was not tried."""

    code = -2


class MarshallingError(NotApplied):
    """The server could not parse the request."""

    code = -5


class Unimplemented(NotApplied):
    """The server does not know this operation."""

    code = -6


class BadArguments(NotApplied):
    """A path, flag or value that the server does not accept."""

    code = -8


class NoNode(NotApplied):
    """There is no znode at that path."""

    code = -101


class NoAuth(NotApplied):
    """The znode's ACL does not permit this to the session."""

    code = -102


class BadVersion(NotApplied):
    """The znode's version is not the one that the request demands."""

    code = -103


class NoChildrenForEphemerals(NotApplied):
    """An ephemeral znode cannot have children."""

    code = -108


class NodeExists(NotApplied):
    """There is a znode at that path already."""

    code = -110


class NotEmpty(NotApplied):
    """The znode has children."""

    code = -111


class SessionExpired(NotApplied):
    """The session is over: its ephemerals and locks are gone. Definite for the refused request."""

    code = -112


class InvalidACL(NotApplied):
    """The ACL is empty or names an unknown scheme."""

    code = -114


class AuthFailed(NotApplied):
    """The credentials were refused."""

    code = -115


class SessionMoved(NotApplied):
    """The session is attached elsewhere now."""

    code = -118


class NotReadOnly(NotApplied):
    """A write was sent to a replica that can only read at the moment."""

    code = -119


class NoWatcher(NotApplied):
    """There is no such watch on this connection."""

    code = -121


class QuotaExceeded(NotApplied):
    """A limit of the cell would be crossed."""

    code = -125


class LockNotAcquired(NotApplied):
    """The lock was not got in the time given; the caller holds nothing."""


class ConnectionLoss(OutcomeUnknown):
    """The connection went while the request was under way."""

    code = -4


class OperationTimeout(OutcomeUnknown):
    """No answer came in time."""

    code = -7


class LockLost(OutcomeUnknown):
    """The lease could not be kept: somebody else may hold the lock now.

    What was done under it is fenced by its token, where the resource checks tokens.
    """


def _leaves(root: type[NotApplied | OutcomeUnknown]) -> dict[int, type[SynodError]]:
    found: dict[int, type[SynodError]] = {}
    for leaf in root.__subclasses__():
        if "code" in leaf.__dict__:
            found[leaf.code] = leaf
    return found


_BY_CODE: Final = {**_leaves(NotApplied), **_leaves(OutcomeUnknown)}


def error_for_code(code: int, detail: str = "") -> SynodError:
    """The exception that stands for one of the protocol's error numbers.

    An unknown number is an `OutcomeUnknown`: when in doubt, indefinite.
    """
    kind = _BY_CODE.get(code)
    if kind is None:
        return OutcomeUnknown(f"the server answered with the unknown error {code}: {detail}")
    return kind(detail or (kind.__doc__ or "").partition("\n")[0])


def refuse_without_checks() -> None:
    """Called before a replica is made, or a simulated one: its invariants are assertions.

    Raises:
        UserError: this Python runs without them.
    """
    if not __debug__:
        raise UserError(
            "python -O drops the checks that keep a replica from going on wrongly; nothing was started: run without it"
        )
