"""The replicated state machine: znodes, sessions, watches, ACLs, and the layout of a batch.

Pure, deterministic and total: no I/O, no clock, no chance; equal batches in equal order give equal states
and equal replies on every replica, whatever bytes a client sent.

Read `_batch` first (what a slot of the log says), then `_tree` (how it is applied and read) and `_state`
(the one choke point through which everything changes).
"""

from __future__ import annotations

from ._batch import (
    FEATURE_LEVEL,
    UnknownCommand,
    encode_attach,
    encode_auth,
    encode_awake,
    encode_batch,
    encode_create_session,
    encode_digest_now,
    encode_expire,
    encode_group,
    encode_opening,
    encode_raise,
    encode_silent,
    encode_slice,
    encode_slice_of,
    group_header,
    slice_owner,
)
from ._limits import VALUE_BYTES_MAX
from ._scan import int32_at
from ._session import Session
from ._snapshot import Summary, summarize
from ._tree import Sink, Tree

__all__ = [
    "FEATURE_LEVEL",
    "VALUE_BYTES_MAX",
    "Session",
    "Sink",
    "Summary",
    "Tree",
    "UnknownCommand",
    "encode_attach",
    "encode_auth",
    "encode_awake",
    "encode_batch",
    "encode_create_session",
    "encode_digest_now",
    "encode_expire",
    "encode_group",
    "encode_opening",
    "encode_raise",
    "encode_silent",
    "encode_slice",
    "encode_slice_of",
    "group_header",
    "int32_at",
    "slice_owner",
    "summarize",
]
