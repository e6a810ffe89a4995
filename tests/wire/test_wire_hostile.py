"""Whatever the other side sends: a value, or RemoteProtocolError, and never a byte from beyond the frame."""

from __future__ import annotations

import contextlib

import hypothesis
import pytest
from hypothesis import strategies as st
from test_wire_golden import REPLIES, REQUESTS, h

from synod import wire
from synod.base import BadArguments, RemoteProtocolError

FRAMES = [wire.encode_request(7, request) for request, _, _ in REQUESTS]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_may_arrive_in_any_two_pieces(frame):
    """Split at every byte, with a neighbour on each side: the same three frames come out."""
    stream = b"\0\0\0\0" + frame + b"\0\0\0\1x"
    for cut in range(len(stream) + 1):
        splitter = wire.FrameSplitter()
        out = splitter.feed(stream[:cut]) + splitter.feed(stream[cut:])
        assert out == [b"", frame[4:], b"x"]
        assert splitter.held_bytes == 0


def test_a_frame_may_arrive_byte_by_byte():
    """One byte at a time, all frames in a row."""
    splitter = wire.FrameSplitter()
    out = [f for byte in b"".join(FRAMES) for f in splitter.feed(bytes([byte]))]
    assert out == [frame[4:] for frame in FRAMES]


@pytest.mark.parametrize("length", [-1, wire.FRAME_BYTES_MAX + 1, -(1 << 31), (1 << 31) - 1])
def test_a_length_is_checked_before_anything_is_gathered_for_it(length):
    """An impossible length is refused at its fourth byte, however it arrives."""
    data = length.to_bytes(4, "big", signed=True)
    splitter = wire.FrameSplitter()
    splitter.feed(data[:3])
    with pytest.raises(RemoteProtocolError, match="limit"):
        splitter.feed(data[3:])


def test_the_largest_frame_is_taken():
    """The limit itself is within the limit."""
    splitter = wire.FrameSplitter(bytes_max=5)
    assert splitter.feed(b"\0\0\0\5hello") == [b"hello"]
    with pytest.raises(RemoteProtocolError):
        splitter.feed(b"\0\0\0\6")


@pytest.mark.parametrize("frame", FRAMES)
def test_a_request_cut_short_is_malformed(frame):
    """No prefix of a request reads anything that is not there; optional tails may be left out."""
    for cut in range(len(frame) - 4):
        try:
            header, request = wire.decode_request(frame[4 : 4 + cut])
        except RemoteProtocolError:
            continue
        assert header.op == wire.OP_EXTENSION, "only an envelope's inner record has no end of its own"
        assert isinstance(request, wire.Envelope)


@pytest.mark.parametrize(("op", "body", "value"), REPLIES)
def test_a_reply_cut_short_is_malformed(op, body, value):
    """No prefix of a reply's body is a reply."""
    data = h(body)
    for cut in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            wire.decode_reply_body(op, wire.Reader(data[:cut]))


@hypothesis.given(st.sampled_from(FRAMES), st.data())
def test_a_damaged_request_is_a_request_or_malformed(frame, data):
    """Any byte changed: a value or RemoteProtocolError, nothing else."""
    body = bytearray(frame[4:])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        wire.decode_request(bytes(body))


@hypothesis.given(st.sampled_from([op for op, _, _ in REPLIES]), st.binary(max_size=120))
def test_garbage_in_a_reply_is_a_value_or_malformed(op, data):
    """Any bytes: a value or RemoteProtocolError, nothing else."""
    with contextlib.suppress(RemoteProtocolError):
        wire.decode_reply_body(op, wire.Reader(data))
    for decode in (wire.decode_reply, wire.decode_connect_request, wire.decode_connect_response, wire.decode_request):
        with contextlib.suppress(RemoteProtocolError):
            decode(data)


def test_a_vector_cannot_claim_more_members_than_its_frame_has_room_for():
    """A count is checked before anything is allocated for it."""
    with pytest.raises(RemoteProtocolError, match="claims"):
        wire.take_children(wire.Reader(h("7fffffff 00000001 61")))


def test_an_unknown_operation_and_an_unknown_result_are_malformed():
    """A server answers unknown operations by itself; the codec does not guess."""
    with pytest.raises(RemoteProtocolError, match="unknown"):
        wire.decode_request(h("00000001 00003039"))
    with pytest.raises(RemoteProtocolError, match="unknown"):
        wire.take_multi(wire.Reader(h("00003039 00 00000000")))
    with pytest.raises(RemoteProtocolError, match="no change"):
        wire.decode_request(h("00000001 0000000e 00000004 00 ffffffff"))
    with pytest.raises(RemoteProtocolError, match="unknown"):
        wire.take_event(wire.Reader(h("00000063 00000003 00000002 2f61")))


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@hypothesis.given(names, st.binary(max_size=50), st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, 6))
def test_requests_come_back_as_they_were(path, data, number, flags):
    """decode(encode(x)) == x for any content."""
    for request in (
        wire.Create(path, data, (wire.ACL(number, path, path),), flags, with_stat=False),
        wire.SetData(path, data, number),
        wire.SetWatches(number, (path,), (path, path), ()),
        wire.Multi((wire.Create(path, data, (), flags), wire.Check(path, number), wire.SetData(path, data))),
    ):
        assert wire.decode_request(wire.encode_request(1, request)[4:])[1] == request


GOOD = ["/", "/a", "/a/b", "/.a", "/a..b", "/...", "/ä", "/a b", "/\u00a0"]
BAD = ["", "a", "/a/", "//", "/a//b", "/.", "/..", "/a/./b", "/a/..", "/\0", "/\x1f", "/\x7f", "/\x9f", "/\ue000", "/\ufff0", "/😀"]  # fmt: skip


@pytest.mark.parametrize("path", GOOD)
def test_paths_that_name_znodes(path):
    """PathUtils.validatePath lets these pass."""
    wire.validate_path(path)


@pytest.mark.parametrize("path", BAD)
def test_paths_that_name_nothing(path):
    """PathUtils.validatePath refuses these; the sentence says that nothing was sent."""
    with pytest.raises(BadArguments, match="nothing was sent"):
        wire.validate_path(path)


def test_a_sequential_create_may_end_with_a_slash():
    """The server appends its number first."""
    wire.validate_path("/a/", sequential=True)
    with pytest.raises(BadArguments):
        wire.validate_path("/a//", sequential=True)
