"""docs/PROTOCOL.md names every message between replicas, with the number, the fields and the sizes of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from synod.base import Ballot
from synod.paxos import (
    Accept,
    Accepted,
    Chosen,
    Fetch,
    Heartbeat,
    HeartbeatAck,
    PaxosMessage,
    PaxosOptions,
    Preempted,
    Prepare,
    Probe,
    ProbeAnswer,
    Promise,
    ReadAsk,
    ReadGrant,
    Slots,
    TakeOver,
    encode,
)
from synod.replica import _messages as own
from synod.replica._options import ReplicaOptions
from synod.server import _peers

TEXT = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text()
B = Ballot(1, 1)
SMALLEST = [
    Probe(1),
    ProbeAnswer(1, True, B, 1),
    Prepare(B, 1),
    Promise(B, 1, 0, 0, (), ()),
    Accept(B, 1, 0, 0, b""),
    Accepted(B, 1, 0, 0),
    Preempted(B),
    Chosen(B, 1),
    Heartbeat(B, 0, 0, True, False),
    HeartbeatAck(B, 0, 0, True),
    Fetch(1),
    Slots(1, 0, False, ()),
    ReadAsk(B, 1, True),
    ReadGrant(1, 1),
    TakeOver(B),
    own.Hello(1, 1, bytes(16), bytes(16), 1, 1, 1, 1, 1, B, 1),
    own.Forward(()),
    own.Touch(1, ()),
    own.TouchAck(1, ()),
    own.DigestReport(1, bytes(16)),
    own.DigestAsk(),
    own.SnapshotAsk(1, 0),
    own.SnapshotChunk(1, 0, 0, b""),
]


def section(name: str) -> str:
    found = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/PROTOCOL.md does not describe {name}"
    return found.group(1)


def test_every_message_is_looked_at_here() -> None:
    """A new message is described before it is sent."""
    known = {type(message) for message in SMALLEST}
    assert known == {*get_args(PaxosMessage), *get_args(own.ReplicaMessage)}
    assert set(re.findall(r"^### (\w+)$", TEXT, re.MULTILINE)) == {kind.__name__ for kind in known}


@pytest.mark.parametrize("message", SMALLEST, ids=lambda message: type(message).__name__)
def test_a_message_is_described_as_it_is_encoded(message: object) -> None:
    """Kind, fields and sizes; who sends it to whom and when, what is durable first, and what comes of it."""
    text = section(type(message).__name__)
    data = encode(message) if isinstance(message, get_args(PaxosMessage)) else own.encode_message(message)
    described = re.search(r"^Kind (\d+)\. Bytes: `([^`]*)`$", text, re.MULTILINE)
    assert described is not None
    assert int(described.group(1)) == data[0]
    parts = [part.split() for part in described.group(2).split(", ")]
    assert sum(int(size) for *_, size in parts if size != "rest") == len(data)
    assert list(dict.fromkeys(part[0] for part in parts)) == ["kind", *(field.name for field in fields(message))]
    for row in ("from, to", "when", "durable first", "the receiver"):
        assert re.search(rf"^\| {row} \| \S.* \|$", text, re.MULTILINE), f"no row: {row}"


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    """A changed bound or period changes the document."""
    options, outer = PaxosOptions(), ReplicaOptions()
    for fact in (
        f"nothing in common with {own.PEER_PROTOCOL_OLDEST} to {own.PEER_PROTOCOL_VERSION}.",
        f"**Peer protocol {own.PEER_PROTOCOL_VERSION}**",
        f"at most {_peers.FRAME_BYTES_MAX >> 20} MiB",
        f"at most {_peers.HELLO_BYTES_MAX:,} bytes",
        f"while {_peers.WRITE_BUFFER_BYTES_MAX >> 20} MiB",
        f"after {_peers.REDIAL_FIRST_S * 1_000:.0f} ms",
        f"| main | `{_peers.MAIN.decode()}` |",
        f"| bulk | `{_peers.BULK.decode()}` |",
        f"or with `{_peers.REFUSED.decode()}` and the reason,",
        f"at most {_peers.REASON_BYTES_MAX} bytes of UTF-8",
        f"every {options.heartbeat // 1_000} ms",
        f"again after {options.probe_timeout // 1_000} ms",
        f"more than {options.candidate_lag_slots_max} slots",
        f"window ({options.send_window_bytes >> 20} MiB)",
        f"at least {outer.touch_interval // 1_000} ms apart",
        f"not applied for {outer.resend_after // 1_000_000} s",
        f"{outer.transfer_chunk_bytes >> 10} KiB at most",
    ):
        assert fact in TEXT, fact


def test_the_links_of_the_document_lead_somewhere() -> None:
    """Anchors within it, and files beside it."""
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^##+ (.*)$", TEXT, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (Path(__file__).parents[2] / "docs" / target).exists(), target
