"""One client's session as the state knows it."""

from __future__ import annotations

import struct
from typing import Final

from ._acl import Identity

_RECORD: Final = struct.Struct(">qiI16sqBI")
_LENGTHS: Final = struct.Struct(">II")


class Session:
    """A session outlives its connections; whoever is attached last may speak for it.

    Invariant: `ephemerals` has exactly the paths of the znodes that this session owns.
    Invariant: `attach_epoch` rises with every attachment; slices of an earlier one are refused.

    `era`, `snap` and `hash` are as in `Znode`.
    """

    __slots__ = (
        "attach_epoch",
        "ephemerals",
        "era",
        "hash",
        "id",
        "identities",
        "password_hash",
        "silent_since_ms",
        "snap",
        "timeout_ms",
    )

    def __init__(self, id_: int, timeout_ms: int, password_hash: bytes, era: int, snap: int) -> None:
        self.id = id_
        self.timeout_ms = timeout_ms
        self.attach_epoch = 1
        self.password_hash = password_hash
        self.identities: list[Identity] = []
        self.ephemerals: dict[bytes, None] = {}
        self.silent_since_ms: int | None = None
        self.era = era
        self.snap = snap
        self.hash = 0

    def record(self) -> bytes:
        """All that is replicated of this session, in one canonical form. Its ephemerals say it themselves."""
        silent = self.silent_since_ms
        parts = [
            _RECORD.pack(
                self.id,
                self.timeout_ms,
                self.attach_epoch,
                self.password_hash,
                0 if silent is None else silent,
                silent is not None,
                len(self.identities),
            )
        ]
        for scheme, identity in self.identities:
            parts.append(_LENGTHS.pack(len(scheme), len(identity)))
            parts.append(scheme)
            parts.append(identity)
        return b"".join(parts)


def session_of_record(record: bytes, era: int, snap: int) -> Session | None:
    """The session that a record describes, or None when its lengths do not fit."""
    if len(record) < _RECORD.size:
        return None
    id_, timeout_ms, attach_epoch, password_hash, silent, is_silent, count = _RECORD.unpack_from(record)
    session = Session(id_, timeout_ms, password_hash, era, snap)
    session.attach_epoch = attach_epoch
    session.silent_since_ms = silent if is_silent else None
    at = _RECORD.size
    for _ in range(count):
        if at + _LENGTHS.size > len(record):
            return None
        scheme_bytes, identity_bytes = _LENGTHS.unpack_from(record, at)
        at += _LENGTHS.size
        middle, end = at + scheme_bytes, at + scheme_bytes + identity_bytes
        if end > len(record):
            return None
        session.identities.append((record[at:middle], record[middle:end]))
        at = end
    return session if at == len(record) else None
