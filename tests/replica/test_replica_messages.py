"""The peer messages of the replica room: round trips, and nothing but a protocol error from garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synod.base import Ballot, RemoteProtocolError
from synod.replica import (
    DigestAsk,
    DigestReport,
    Forward,
    Hello,
    SnapshotAsk,
    SnapshotChunk,
    Touch,
    TouchAck,
    decode_message,
    encode_message,
)

u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
messages = st.one_of(
    st.builds(
        Hello,
        oldest=st.just(1),
        newest=st.integers(1, 2**16 - 1),
        cell_id=st.binary(min_size=16, max_size=16),
        configuration=st.binary(min_size=16, max_size=16),
        id=st.integers(1, 255),
        incarnation=st.integers(1, 2**32 - 1),
        boot=u64,
        feature_level=st.integers(0, 2**16 - 1),
        cell_level=st.integers(0, 2**16 - 1),
        promised=st.builds(Ballot, u64, st.integers(0, 255)),
        last_slot=u64,
        disk=u64,
        changes=st.integers(0, 2**32 - 1),
    ),
    st.builds(Forward, st.lists(st.binary(max_size=50), max_size=5).map(tuple)),
    st.builds(Touch, u64, st.lists(i64, max_size=5).map(tuple)),
    st.builds(TouchAck, u64, st.lists(i64, max_size=5).map(tuple)),
    st.builds(DigestAsk),
    st.builds(DigestReport, u64, st.binary(min_size=16, max_size=16)),
    st.builds(SnapshotAsk, u64, u64),
    st.builds(SnapshotChunk, u64, u64, u64, st.binary(max_size=100)),
)


@given(messages)
def test_every_message_survives_the_wire(message):
    """Encoding and decoding are inverse."""
    assert decode_message(encode_message(message)) == message


@given(messages.filter(lambda m: not isinstance(m, SnapshotChunk)), st.data())
def test_a_cut_message_is_refused(message, data):
    """A prefix of a message is never taken for another message."""
    whole = encode_message(message)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(RemoteProtocolError):
        decode_message(whole[:cut])


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_read_but_never_crashes(data):
    """Whatever a peer sends, the only error is RemoteProtocolError."""
    try:
        decode_message(data)
    except RemoteProtocolError:
        return


def hello(oldest, newest):
    return Hello(oldest, newest, bytes(16), bytes(16), 1, 1, 1, 1, 1, Ballot(0, 0), 0)


def test_a_hello_of_a_version_that_still_speaks_ours_is_read():
    """A later version speaks ours too, and says more at the end of its hello."""
    later = hello(1, 2)
    assert decode_message(encode_message(later) + b"more") == later


def test_a_hello_without_a_common_version_says_so():
    """Two versions that are too far apart have nothing to say to each other."""
    with pytest.raises(RemoteProtocolError, match=r"speaks the versions 2 to 3 .* and this replica 1 to 1"):
        decode_message(encode_message(hello(2, 3)) + b"more")
