"""The protocol's bytes, written out by hand from the checklist: what other clients and servers put on the wire."""

from __future__ import annotations

import pytest

from synod import wire
from synod.base import LocalProtocolError

STAT = wire.Stat(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
STAT_HEX = (
    "0000000000000001 0000000000000002 0000000000000003 0000000000000004"
    "00000005 00000006 00000007 0000000000000008 00000009 0000000a 000000000000000b"
)


def h(text: str) -> bytes:
    return bytes.fromhex(text)


REQUESTS = [
    (wire.Create("/a", b"x", wire.OPEN_ACL, 1), 1,
     "00000002 2f61 00000001 78 00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65 00000001"),
    (wire.Create("/a", b"", (), 0, with_stat=True), 15, "00000002 2f61 00000000 00000000 00000000"),
    (wire.Create("/a", b"", (), 4, with_stat=True), 19, "00000002 2f61 00000000 00000000 00000004"),
    (wire.Create("/a", b"", (), 5, with_stat=True, ttl_ms=9), 21,
     "00000002 2f61 00000000 00000000 00000005 0000000000000009"),
    (wire.Delete("/a", -1), 2, "00000002 2f61 ffffffff"),
    (wire.Exists("/a", True), 3, "00000002 2f61 01"),
    (wire.GetData("/a"), 4, "00000002 2f61 00"),
    (wire.SetData("/a", b"xy", 3), 5, "00000002 2f61 00000002 7879 00000003"),
    (wire.GetACL("/a"), 6, "00000002 2f61"),
    (wire.SetACL("/a", (wire.ACL(1, "ip", "::1"),), 2), 7,
     "00000002 2f61 00000001 00000001 00000002 6970 00000003 3a3a31 00000002"),
    (wire.GetChildren("/a", True), 8, "00000002 2f61 01"),
    (wire.Sync("/"), 9, "00000001 2f"),
    (wire.Bare(wire.OP_PING), 11, ""),
    (wire.GetChildren("/a", False, with_stat=True), 12, "00000002 2f61 00"),
    (wire.Check("/a", 4), 13, "00000002 2f61 00000004"),
    (wire.Multi((wire.Check("/a", 4), wire.Delete("/b"))), 14,
     "0000000d 00 ffffffff 00000002 2f61 00000004 00000002 00 ffffffff 00000002 2f62 ffffffff ffffffff 01 ffffffff"),
    (wire.Reconfig("server.1=h:1:2;3", None, None, 7), 16,
     "00000010 7365727665722e313d683a313a323b33 ffffffff ffffffff 0000000000000007"),
    (wire.CheckWatches("/a", 3), 17, "00000002 2f61 00000003"),
    (wire.RemoveWatches("/a", 1), 18, "00000002 2f61 00000001"),
    (wire.MultiRead((wire.GetData("/a"), wire.GetChildren("/b"))), 22,
     "00000004 00 ffffffff 00000002 2f61 00 00000008 00 ffffffff 00000002 2f62 00 ffffffff 01 ffffffff"),
    (wire.AuthRequest("digest", b"u:p"), 100, "00000000 00000006 646967657374 00000003 753a70"),
    (wire.SetWatches(5, ("/d",), (), ("/c", "/e")), 101,
     "0000000000000005 00000001 00000002 2f64 00000000 00000002 00000002 2f63 00000002 2f65"),
    (wire.Sasl(b"tok"), 102, "00000003 746f6b"),
    (wire.GetEphemerals("/"), 103, "00000001 2f"),
    (wire.GetAllChildrenNumber("/"), 104, "00000001 2f"),
    (wire.SetWatches(5, (), (), (), ("/p",), ()), 105,
     "0000000000000005 00000000 00000000 00000000 00000001 00000002 2f70 00000000"),
    (wire.AddWatch("/a", 1), 106, "00000002 2f61 00000001"),
    (wire.Bare(wire.OP_WHO_AM_I), 107, ""),
    (wire.Bare(wire.OP_CLOSE_SESSION), -11, ""),
    (wire.Envelope(4, h("00000002 2f61 00"), ((1, b"t"), (128, b""))), 900,
     "01 02 01 0001 74 80 0000 00000004 00000002 2f61 00"),
]  # fmt: skip

REPLIES = [
    (1, "00000002 2f61", "/a"),
    (15, "00000002 2f61" + STAT_HEX, ("/a", STAT)),
    (19, "00000002 2f61" + STAT_HEX, ("/a", STAT)),
    (21, "00000002 2f61" + STAT_HEX, ("/a", STAT)),
    (2, "", None),
    (3, STAT_HEX, STAT),
    (4, "00000001 78" + STAT_HEX, (b"x", STAT)),
    (5, STAT_HEX, STAT),
    (6, "00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65" + STAT_HEX, (wire.OPEN_ACL, STAT)),
    (7, STAT_HEX, STAT),
    (8, "00000002 00000001 61 00000001 62", ("a", "b")),
    (9, "00000001 2f", "/"),
    (11, "", None),
    (12, "00000000" + STAT_HEX, ((), STAT)),
    (
        14,
        "00000001 00 00000000 00000002 2f61 00000002 00 00000000 ffffffff 01 ffffffff",
        (wire.MultiResult(1, 0, "/a"), wire.MultiResult(2)),
    ),
    (
        14,
        "ffffffff 00 00000000 00000000 ffffffff 00 ffffff9b ffffff9b ffffffff 00 fffffffe fffffffe ffffffff 01 ffffffff",
        (wire.MultiResult(-1, 0), wire.MultiResult(-1, -101), wire.MultiResult(-1, -2)),
    ),
    (16, "00000001 78" + STAT_HEX, (b"x", STAT)),
    (18, "", None),
    (101, "", None),
    (102, "00000001 78", b"x"),
    (103, "00000001 00000002 2f61", ("/a",)),
    (104, "00000007", 7),
    (106, "00000000", 0),
    (107, "00000001 00000002 6970 00000003 3a3a31", (wire.Id("ip", "::1"),)),
    (0, "00000003 00000003 00000002 2f61", wire.WatcherEvent(3, 3, "/a")),
]


@pytest.mark.parametrize(("request_", "op", "record"), REQUESTS, ids=lambda v: type(v).__name__)
def test_requests_have_the_protocols_bytes(request_, op, record):
    """Each request is encoded to, and decoded from, exactly the bytes of the checklist."""
    body = h(record)
    expected = (8 + len(body)).to_bytes(4, "big") + h("00000007") + op.to_bytes(4, "big", signed=True) + body
    assert wire.encode_request(7, request_) == expected
    assert wire.decode_request(expected[4:]) == (wire.RequestHeader(7, op), request_)


@pytest.mark.parametrize(("op", "body", "value"), REPLIES)
def test_replies_have_the_protocols_meaning(op, body, value):
    """Each reply's bytes mean what the checklist says."""
    header, reader = wire.decode_reply(h("00000007 0000000000000009 00000000" + body))
    assert header == wire.ReplyHeader(7, 9, 0)
    assert wire.decode_reply_body(op, reader) == value
    assert reader.left == 0


def test_reply_bodies_are_packed_as_they_are_read():
    """Servers and clients agree: every body that has a packer comes back as it was."""
    stat, acl = STAT, (wire.ACL(31, "digest", "u:h"),)
    assert wire.decode_reply_body(15, wire.Reader(wire.pack_path_stat("/a", stat))) == ("/a", stat)
    assert wire.decode_reply_body(4, wire.Reader(wire.pack_data(b"v", stat))) == (b"v", stat)
    assert wire.decode_reply_body(12, wire.Reader(wire.pack_children_stat(["a"], stat))) == (("a",), stat)
    assert wire.decode_reply_body(6, wire.Reader(wire.pack_acl(acl, stat))) == (acl, stat)
    assert wire.decode_reply_body(107, wire.Reader(wire.pack_ids([wire.Id("ip", "x")]))) == (wire.Id("ip", "x"),)
    packed = wire.pack_multi([(1, 0, wire.pack_string("/a")), (5, 0, stat.encode()), (-1, -103, b"")])
    assert wire.take_multi(wire.Reader(packed)) == (
        wire.MultiResult(1, 0, "/a"),
        wire.MultiResult(5, 0, stat),
        wire.MultiResult(-1, -103),
    )
    assert wire.encode_event(wire.WatcherEvent(1, 3, "/a"), 5) == h(
        "0000001e ffffffff 0000000000000005 00000000 00000001 00000003 00000002 2f61"
    )


def test_the_connect_packets_read_only_byte_is_optional():
    """Clients up to 3.3 leave the byte out, and expect a reply without it."""
    record = h("00000000 0000000000000009 00002710 0000000000000005 00000002 abcd")
    old = wire.ConnectRequest(9, 10_000, 5, h("abcd"), None)
    new = old._replace(read_only=True)
    assert wire.encode_connect_request(old) == record
    assert wire.encode_connect_request(new) == record + b"\x01"
    assert wire.decode_connect_request(record) == old
    assert wire.decode_connect_request(record + b"\x01") == new
    reply = h("00000000 00002710 0000000000000005 00000002 abcd")
    assert wire.encode_connect_response(10_000, 5, h("abcd"), None) == reply
    assert wire.decode_connect_response(reply) == wire.ConnectResponse(10_000, 5, h("abcd"), None)
    assert wire.decode_connect_response(reply + b"\x00").read_only is False


def test_null_strings_buffers_and_vectors_are_read_as_empty():
    """Java writes null where Python would write nothing."""
    assert wire.decode_request(h("00000001 00000001 00000002 2f61 ffffffff ffffffff 00000000"))[1] == wire.Create(
        "/a", b"", ()
    )
    assert wire.take_children(wire.Reader(h("ffffffff"))) == ()
    assert wire.Reader(h("ffffffff")).take_string() == ""


def test_what_does_not_fit_the_protocol_is_our_own_mistake():
    """A number, string or frame that cannot be sent is refused before anything is sent."""
    with pytest.raises(LocalProtocolError):
        wire.encode_request(1, wire.Delete("/a", 1 << 31))
    with pytest.raises(LocalProtocolError):
        wire.pack_long(1 << 63)
    with pytest.raises(LocalProtocolError):
        wire.pack_string("\ud800")
    with pytest.raises(LocalProtocolError, match="nothing was sent"):
        wire.encode_request(1, wire.SetData("/a", bytes(wire.FRAME_BYTES_MAX)))
    with pytest.raises(LocalProtocolError):
        wire.framed(bytes(wire.FRAME_BYTES_MAX + 1))
    with pytest.raises(LocalProtocolError):
        wire.Envelope(4, b"", ((2, b""), (1, b""))).encode()
