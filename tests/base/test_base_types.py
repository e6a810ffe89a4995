"""What every room builds on: ballots are ordered, configurations have one encoding, errors say what happened."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import synod.base
from synod.base import (
    BALLOT_ZERO,
    REPLICA_ID_MAX,
    Ballot,
    ConfigError,
    Configuration,
    ConnectionLoss,
    InvariantViolation,
    LockLost,
    Member,
    NoNode,
    NotApplied,
    OutcomeUnknown,
    SessionExpired,
    SynodError,
    UserError,
    error_for_code,
    invariant,
)

CELL = "0123456789abcdef" * 2

ballots = st.builds(Ballot, st.integers(1, 50), st.integers(1, 7))


@given(ballots, ballots)
def test_ballots_are_ordered_by_round_then_by_replica(a: Ballot, b: Ballot) -> None:
    """Lamport 2001 s2.2: proposal numbers are totally ordered, and two proposers never use the same one."""
    slow = a.round > b.round or (a.round == b.round and a.replica > b.replica)
    assert (a > b) == slow
    assert a > BALLOT_ZERO


def members(ids: list[int]) -> tuple[Member, ...]:
    return tuple(Member(i, f"127.0.0.1:{7000 + i}") for i in ids)


configurations = st.lists(st.integers(1, REPLICA_ID_MAX), min_size=1, max_size=7, unique=True).map(
    lambda ids: Configuration(CELL, members(sorted(ids)))
)


@given(configurations)
def test_a_configuration_reads_back_as_it_was(configuration: Configuration) -> None:
    """Its bytes are what replicas compare, so they must hold everything."""
    again = Configuration.decode(configuration.encode())
    assert again == configuration
    assert again.digest() == configuration.digest()


@given(configurations, configurations)
def test_equal_configurations_and_only_those_have_equal_digests(a: Configuration, b: Configuration) -> None:
    """A peer with another idea of the cell is refused by this digest."""
    assert (a.digest() == b.digest()) == (a == b)


def test_every_part_of_a_configuration_counts() -> None:
    """Another cell, address, incarnation or role is another configuration."""
    plain = Member(1, "127.0.0.1:7001")
    other = (plain, Member(2, "127.0.0.1:7002"))
    variants = [
        Configuration(CELL, other),
        Configuration(CELL[::-1], other),
        Configuration(CELL, (plain, Member(2, "127.0.0.1:7003"))),
        Configuration(CELL, (plain, Member(2, "127.0.0.1:7002", incarnation=2))),
        Configuration(CELL, (plain, Member(2, "127.0.0.1:7002", role="learner"))),
    ]
    for a, b in itertools.combinations(variants, 2):
        assert a.digest() != b.digest()


def test_the_encoding_of_a_configuration_stays_as_it_is() -> None:
    """The digest lies on disks: a change of these bytes would lock every existing cell out."""
    configuration = Configuration(CELL, members([1, 2]))
    assert configuration.encode() == (
        b'{"cell_id":"0123456789abcdef0123456789abcdef",'
        b'"generation":0,"members":[[1,"127.0.0.1:7001",1,"voter",0],[2,"127.0.0.1:7002",1,"voter",0]],"retired":[]}'
    )


@pytest.mark.parametrize(
    ("cell_id", "ids"),
    [
        (CELL, []),
        (CELL, [2, 1]),
        (CELL, [1, 1]),
        (CELL, [0]),
        (CELL, [REPLICA_ID_MAX + 1]),
        (CELL[1:], [1]),
        (CELL.upper(), [1]),
        ("x" * 32, [1]),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(cell_id: str, ids: list[int]) -> None:
    """Nobody, out of order, twice, out of range, or a cell id that is none."""
    with pytest.raises(ConfigError):
        Configuration(cell_id, members(ids))


def test_a_cell_of_learners_alone_is_refused() -> None:
    """Somebody must count in quorums."""
    with pytest.raises(ConfigError, match="voting"):
        Configuration(CELL, (Member(1, "127.0.0.1:7001", role="learner"),))


def test_only_voters_count() -> None:
    """A learner is a member that does not yet count."""
    learner = Member(2, "127.0.0.1:7002", role="learner")
    configuration = Configuration(CELL, (*members([1]), learner))
    assert configuration.voters == (1,)
    assert configuration.member(2) == learner
    assert configuration.member(3) is None


@given(st.binary(max_size=200))
def test_bytes_that_are_no_configuration_are_refused(data: bytes) -> None:
    """They come from a disk: damage gives one clear error, never another exception."""
    with contextlib.suppress(ConfigError):
        Configuration.decode(data)


@given(configurations, st.data())
def test_a_damaged_configuration_never_reads_as_the_same(configuration: Configuration, data: st.DataObject) -> None:
    """One changed byte is an error or a configuration with another digest."""
    raw = bytearray(configuration.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        damaged = Configuration.decode(bytes(raw))
    except ConfigError:
        return
    assert damaged.digest() != configuration.digest()


def leaves(root: type[BaseException]) -> list[type[BaseException]]:
    below = [leaf for child in root.__subclasses__() for leaf in leaves(child)]
    return below or [root]


def test_every_error_is_definite_or_indefinite_but_never_both() -> None:
    """An error of an operation says whether it happened."""
    for leaf in leaves(SynodError):
        assert not (issubclass(leaf, NotApplied) and issubclass(leaf, OutcomeUnknown))
    assert issubclass(UserError, NotApplied)
    assert issubclass(LockLost, OutcomeUnknown)
    assert not issubclass(InvariantViolation, SynodError)


def test_an_error_number_finds_its_class() -> None:
    """The numbers are ZooKeeper's; each class has its own."""
    assert isinstance(error_for_code(-101, "/a"), NoNode)
    assert str(error_for_code(-101, "/a")) == "/a"
    assert isinstance(error_for_code(-112), SessionExpired)
    assert isinstance(error_for_code(-4), ConnectionLoss)
    assert str(error_for_code(-101)) == "There is no znode at that path."


def test_an_unknown_error_number_is_indefinite() -> None:
    """When in doubt, indefinite: nobody may conclude that it did not happen."""
    assert isinstance(error_for_code(-4711), OutcomeUnknown)


def test_every_public_error_stands_in_the_drawn_tree() -> None:
    """The tree in the docstring of `_errors` is what a reader trusts."""
    drawn = synod.base._errors.__doc__ or ""
    for branch in (SynodError, NotApplied, OutcomeUnknown, UserError, InvariantViolation, LockLost, ConnectionLoss):
        assert branch.__name__ in drawn


def test_an_invariant_speaks_only_when_it_does_not_hold() -> None:
    """A replica that is wrong stops rather than go on."""
    invariant(True, "never said")
    with pytest.raises(InvariantViolation, match="two leaders"):
        invariant(False, "two leaders in one ballot")
