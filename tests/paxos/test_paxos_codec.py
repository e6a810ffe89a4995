"""Bytes and messages: what is encoded comes back, and nothing malformed is taken for a message."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synod.base import BALLOT_ZERO, Ballot, Entry, LocalProtocolError, RemoteProtocolError
from synod.paxos import (
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
    decode,
    encode,
)

NUMBERS = st.integers(0, 2**64 - 1)
SLOTS = st.integers(1, 2**48)
BALLOTS = st.builds(Ballot, st.integers(1, 2**64 - 1), st.integers(1, 255))
ANY_BALLOT = st.one_of(st.just(BALLOT_ZERO), BALLOTS)
VALUES = st.binary(max_size=40)


@st.composite
def promises(draw: st.DrawFn) -> Promise:
    from_slot, mark = draw(SLOTS), draw(st.integers(0, 2**48))
    first = max(from_slot, mark + 1)
    steps = draw(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=6))
    slot, held, unknown = first - 1, [], []
    for step, readable in steps:
        slot += step
        if readable:
            held.append(Entry(slot, draw(BALLOTS), draw(VALUES)))
        else:
            unknown.append(slot)
    next_slot = draw(st.sampled_from([0, max(slot, first) + 1]))
    return Promise(draw(BALLOTS), from_slot, mark, next_slot, tuple(held), tuple(unknown))


@st.composite
def slots(draw: st.DrawFn) -> Slots:
    first = draw(SLOTS)
    snapshot = draw(st.booleans())
    found = [] if snapshot else draw(st.lists(st.tuples(BALLOTS, VALUES), max_size=5))
    held = tuple(Entry(first + at, ballot, value) for at, (ballot, value) in enumerate(found))
    mark = draw(st.integers(first + len(held), 2**49))
    return Slots(first, mark, snapshot, held)


@st.composite
def accepts(draw: st.DrawFn) -> Accept:
    slot = draw(SLOTS)
    return Accept(draw(BALLOTS), slot, draw(st.integers(0, slot - 1)), draw(NUMBERS), draw(VALUES))


MESSAGES: dict[type, st.SearchStrategy[PaxosMessage]] = {
    Probe: st.builds(Probe, NUMBERS),
    ProbeAnswer: st.builds(ProbeAnswer, NUMBERS, st.booleans(), ANY_BALLOT, NUMBERS),
    Prepare: st.builds(Prepare, BALLOTS, SLOTS),
    Promise: promises(),
    Accept: accepts(),
    Accepted: st.builds(Accepted, BALLOTS, SLOTS, NUMBERS, NUMBERS),
    Preempted: st.builds(Preempted, ANY_BALLOT),
    Chosen: st.builds(Chosen, BALLOTS, NUMBERS),
    Heartbeat: st.builds(Heartbeat, BALLOTS, NUMBERS, NUMBERS, st.booleans()),
    HeartbeatAck: st.builds(HeartbeatAck, ANY_BALLOT, NUMBERS, NUMBERS, st.booleans()),
    Fetch: st.builds(Fetch, SLOTS),
    Slots: slots(),
    ReadAsk: st.builds(ReadAsk, ANY_BALLOT, NUMBERS, st.booleans()),
    ReadGrant: st.builds(ReadGrant, NUMBERS, NUMBERS),
    TakeOver: st.builds(TakeOver, ANY_BALLOT),
}
ANY = st.one_of(list(MESSAGES.values()))


def test_every_message_is_tested_here() -> None:
    """A message added to the table must be added to this file."""
    assert set(get_args(PaxosMessage)) == set(MESSAGES)


@pytest.mark.parametrize("kind", sorted(MESSAGES, key=lambda kind: kind.__name__))
def test_kinds_keep_to_their_range(kind: type) -> None:
    """First bytes from 64 on belong to the replica's own messages."""
    assert 1 <= encode(_example(kind))[0] <= 63


def _example(kind: type) -> PaxosMessage:
    one = Ballot(1, 1)
    return {
        Probe: Probe(1),
        ProbeAnswer: ProbeAnswer(1, True, one, 1),
        Prepare: Prepare(one, 1),
        Promise: Promise(one, 1, 0, 0, (), ()),
        Accept: Accept(one, 1, 0, 0, b""),
        Accepted: Accepted(one, 1, 0, 0),
        Preempted: Preempted(one),
        Chosen: Chosen(one, 1),
        Heartbeat: Heartbeat(one, 0, 0, True, False),
        HeartbeatAck: HeartbeatAck(one, 0, 0, True),
        Fetch: Fetch(1),
        Slots: Slots(1, 0, False, ()),
        ReadAsk: ReadAsk(one, 1, True),
        ReadGrant: ReadGrant(1, 1),
        TakeOver: TakeOver(one),
    }[kind]


def test_kinds_are_distinct() -> None:
    """Two kinds with one first byte would be read as each other."""
    assert len({encode(_example(kind))[0] for kind in MESSAGES}) == len(MESSAGES)


@given(ANY)
def test_what_is_encoded_comes_back(message: PaxosMessage) -> None:
    """decode(encode(m)) == m, and it is of the same class."""
    again = decode(encode(message))
    assert type(again) is type(message)
    assert again == message


@given(ANY)
def test_every_truncation_is_refused_or_means_less_bytes_of_a_value(message: PaxosMessage) -> None:
    """Cut anywhere, a message is refused; only an Accept's value has no length of its own: the frame gives it."""
    data = encode(message)
    for end in range(len(data)):
        try:
            cut = decode(data[:end])
        except RemoteProtocolError:
            continue
        assert isinstance(cut, Accept)
        assert isinstance(message, Accept)
        assert message.value.startswith(cut.value)


@given(ANY.filter(lambda message: not isinstance(message, Accept)))
def test_trailing_bytes_are_refused(message: PaxosMessage) -> None:
    """What does not fill its frame exactly is no message."""
    with pytest.raises(RemoteProtocolError):
        decode(encode(message) + b"\0")


@given(st.binary(max_size=120))
def test_garbage_is_refused_and_nothing_else_is_raised(data: bytes) -> None:
    """Any bytes give a message or RemoteProtocolError."""
    try:
        message = decode(data)
    except RemoteProtocolError:
        return
    assert encode(message) == data


@given(ANY, st.data())
def test_flipped_bytes_give_a_message_or_a_refusal(message: PaxosMessage, data: st.DataObject) -> None:
    """One wrong byte somewhere: no other exception, no endless loop, no large allocation; and one encoding each."""
    raw = bytearray(encode(message))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(bytes(raw))
    except RemoteProtocolError:
        return
    assert encode(read) == bytes(raw)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prepare(BALLOT_ZERO, 1),
        lambda: Prepare(Ballot(1, 1), 0),
        lambda: Accept(Ballot(1, 1), 4, 4, 0, b""),
        lambda: Accept(BALLOT_ZERO, 4, 3, 0, b""),
        lambda: Fetch(0),
        lambda: Slots(3, 3, True, (Entry(3, Ballot(1, 1), b""),)),
        lambda: Slots(3, 9, False, (Entry(4, Ballot(1, 1), b""),)),
        lambda: Slots(3, 2, False, (Entry(3, Ballot(1, 1), b""),)),
        lambda: Promise(Ballot(1, 1), 1, 5, 0, (Entry(5, Ballot(1, 1), b""),), ()),
        lambda: Promise(Ballot(1, 1), 7, 5, 0, (Entry(6, Ballot(1, 1), b""),), ()),
        lambda: Promise(Ballot(1, 1), 1, 0, 0, (Entry(2, Ballot(1, 1), b""), Entry(1, Ballot(1, 1), b"")), ()),
        lambda: Promise(Ballot(1, 1), 1, 0, 2, (Entry(2, Ballot(1, 1), b""),), ()),
        lambda: Promise(Ballot(1, 1), 1, 0, 1, (), ()),
        lambda: Promise(Ballot(1, 1), 1, 0, 0, (), (3, 3)),
        lambda: Promise(BALLOT_ZERO, 1, 0, 0, (), ()),
    ],
)
def test_a_message_that_cannot_mean_anything_cannot_be_made(make: object) -> None:
    """Valid from birth: here it is our mistake, from a peer's bytes it is the peer's."""
    with pytest.raises(LocalProtocolError):
        make()  # type: ignore[operator]
