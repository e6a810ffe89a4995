"""Paxos and the tree, joined to one deterministic replica of a cell.

May import paxos, tree, wire and base; knows no sockets, no disks, no clocks. Read `_replica.Replica.ready`
first, then `_front` (clients) and `_liveness` (sessions).
"""

from __future__ import annotations

from synod.paxos import PaxosOptions
from synod.tree import Tree, UnknownCommand

from ._acquaintance import Forgetful
from ._backup import Backup
from ._clock import CellClock
from ._liveness import Deadlines, Touches
from ._messages import (
    KIND_FIRST,
    PEER_PROTOCOL_VERSION,
    DigestAsk,
    DigestReport,
    Forward,
    Hello,
    ReplicaMessage,
    SnapshotAsk,
    SnapshotChunk,
    Touch,
    TouchAck,
    decode_message,
    encode_message,
)
from ._options import FRAME_BYTES_MAX, GROUP_BYTES_MAX, ReadMode, ReplicaOptions
from ._ready import DiskWrite, LogRead, Note, Ready, SnapshotInstall, SnapshotRead, SnapshotWrite, TransferWrite
from ._replica import Fate, Recovered, Replica

__all__ = [
    "FRAME_BYTES_MAX",
    "GROUP_BYTES_MAX",
    "KIND_FIRST",
    "PEER_PROTOCOL_VERSION",
    "Backup",
    "CellClock",
    "Deadlines",
    "DigestAsk",
    "DigestReport",
    "DiskWrite",
    "Fate",
    "Forgetful",
    "Forward",
    "Hello",
    "LogRead",
    "Note",
    "PaxosOptions",
    "ReadMode",
    "Ready",
    "Recovered",
    "Replica",
    "ReplicaMessage",
    "ReplicaOptions",
    "SnapshotAsk",
    "SnapshotChunk",
    "SnapshotInstall",
    "SnapshotRead",
    "SnapshotWrite",
    "Touch",
    "TouchAck",
    "Touches",
    "TransferWrite",
    "Tree",
    "UnknownCommand",
    "decode_message",
    "encode_message",
]
