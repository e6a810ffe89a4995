"""Multi-Paxos of opaque values, sans-IO.

Knows nothing of trees, sessions, sockets or disks; imports only base. Read `_paxos.Paxos.step` first, with
the table of messages in `_messages` beside it.

Ref: Lamport 1998, 2001; van Renesse & Altinbuken 2015; Chandra, Griesemer & Redstone 2007.
"""

from __future__ import annotations

from ._codec import decode, encode
from ._messages import (
    Accept,
    Accepted,
    Chosen,
    Fetch,
    Heartbeat,
    HeartbeatAck,
    PaxosMessage,
    Preempted,
    Prepare,
    Probe,
    ProbeAnswer,
    Promise,
    ReadAsk,
    ReadGrant,
    Slots,
    TakeOver,
)
from ._options import Durable, LogRead, Note, PaxosOptions, PaxosReady, Write
from ._paxos import Paxos
from ._quorum import is_quorum, quorum_mark, quorum_size

__all__ = [
    "Accept",
    "Accepted",
    "Chosen",
    "Durable",
    "Fetch",
    "Heartbeat",
    "HeartbeatAck",
    "LogRead",
    "Note",
    "Paxos",
    "PaxosMessage",
    "PaxosOptions",
    "PaxosReady",
    "Preempted",
    "Prepare",
    "Probe",
    "ProbeAnswer",
    "Promise",
    "ReadAsk",
    "ReadGrant",
    "Slots",
    "TakeOver",
    "Write",
    "decode",
    "encode",
    "is_quorum",
    "quorum_mark",
    "quorum_size",
]
