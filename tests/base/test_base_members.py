"""How the members of a cell change: one at a time, nobody votes at once, nobody comes back as he was."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synod.base import Change, ConfigError, Configuration, Member, is_change

FIRST = Configuration("0123456789abcdef" * 2, tuple(Member(i, f"127.0.0.1:{7000 + i}") for i in (1, 2, 3)))
GROWN = FIRST.added(4, "127.0.0.1:7004")
DISK = 77


def value(before: Configuration, after: Configuration) -> bytes:
    return Change(after, before.digest(), b"i" * 16).encode()


def test_a_replica_comes_as_a_learner_and_votes_once_it_is_promoted() -> None:
    """A member that has not caught up must not count."""
    assert GROWN.voters == (1, 2, 3)
    assert GROWN.generation == 1
    promoted = GROWN.promoted(4, DISK)
    assert promoted.voters == (1, 2, 3, 4)
    assert promoted.votes(4, 1, DISK)
    assert not promoted.votes(4, 1, DISK + 1), "another disk has not promised what this one has"
    assert not GROWN.votes(4, 1, DISK)


def test_an_observer_stays_one() -> None:
    """It never votes, not even after it was replaced."""
    observed = FIRST.added(4, "127.0.0.1:7004", "observer")
    with pytest.raises(ConfigError, match="an observer, which never votes"):
        observed.promoted(4, DISK)
    assert observed.replaced(4, "127.0.0.1:7004").member(4) == Member(4, "127.0.0.1:7004", 2, "observer")


def test_who_is_replaced_is_another_incarnation_and_does_not_vote() -> None:
    """The old disk is a stranger from then on."""
    after = FIRST.replaced(2, "127.0.0.1:7102")
    assert after.member(2) == Member(2, "127.0.0.1:7102", 2, "learner")
    assert after.voters == (1, 3)
    assert after.has_left(2, 1)
    assert after.holds(2, 2)


def test_who_was_removed_comes_back_as_a_later_incarnation() -> None:
    """An id alone is not an identity."""
    after = GROWN.removed(4)
    assert after.has_left(4, 1)
    assert not after.holds(4, 1)
    again = after.added(4, "127.0.0.1:7004")
    assert again.holds(4, 2)
    assert again.has_left(4, 1)
    assert again.removed(4).has_left(4, 2)


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (lambda: FIRST.added(2, "127.0.0.1:7009"), "replica 2 is a member already"),
        (lambda: FIRST.added(9, "127.0.0.1:7002"), "two replicas cannot have one address"),
        (lambda: FIRST.added(9, "127.0.0.1:7009", "voter"), "cannot vote before it has caught up"),
        (lambda: FIRST.added(256, "127.0.0.1:7009"), "between 1 and 255"),
        (lambda: FIRST.promoted(2, 0), "a voter already"),
        (lambda: FIRST.promoted(9, 0), "no replica 9 in this cell; its members are 1, 2, 3"),
        (lambda: FIRST.removed(9), "no replica 9 in this cell"),
        (lambda: FIRST.replaced(9, "127.0.0.1:7009"), "no replica 9 in this cell"),
        (lambda: FIRST.replaced(2, "127.0.0.1:7003"), "two replicas cannot have one address"),
        (lambda: FIRST.removed(1).removed(2).removed(3), "the only voter"),
        (lambda: FIRST.removed(1).removed(2).replaced(3, "127.0.0.1:7003"), "the only voter"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(wish, sentence: str) -> None:
    """And nothing is changed: configurations are values."""
    with pytest.raises(ConfigError, match=sentence):
        wish()


def test_a_cell_has_seven_voters_at_most() -> None:
    """More would make every write slower, and the cell hardly safer."""
    grown = FIRST
    for id_ in range(4, 8):
        grown = grown.added(id_, f"127.0.0.1:{7000 + id_}").promoted(id_, DISK)
    with pytest.raises(ConfigError, match="7 voters already"):
        grown.added(8, "127.0.0.1:7008").promoted(8, DISK)


def test_a_change_is_told_from_every_batch() -> None:
    """By its first byte, which Paxos may look at."""
    assert is_change(value(FIRST, GROWN))
    assert not is_change(b"")
    assert not is_change(b"\x01\x00")
    assert Change.decode(value(FIRST, GROWN)) == Change(GROWN, FIRST.digest(), b"i" * 16)


def test_a_change_that_fits_is_made() -> None:
    """The same on every replica."""
    assert FIRST.after(value(FIRST, GROWN)) == GROWN
    assert GROWN.after(value(GROWN, GROWN.removed(1))) == GROWN.removed(1)
    assert GROWN.after(value(GROWN, GROWN.replaced(1, "127.0.0.1:7001"))).generation == 2


@pytest.mark.parametrize(
    "after",
    [
        FIRST,
        FIRST.removed(1).removed(2),
        GROWN.promoted(4, DISK),
        replace(GROWN, generation=2),
        replace(GROWN, cell_id="f" * 32),
        replace(GROWN, retired=((9, 1),)),
        Configuration(FIRST.cell_id, (*FIRST.members, Member(4, "127.0.0.1:7004")), 1),
        Configuration(FIRST.cell_id, (*FIRST.members, Member(4, "127.0.0.1:7004", 2, "learner")), 1),
        Configuration(FIRST.cell_id, FIRST.members[1:], 1),
        Configuration(FIRST.cell_id, (Member(1, "127.0.0.1:7001", 2), *FIRST.members[1:]), 1),
    ],
)
def test_what_is_no_single_step_changes_nothing(after: Configuration) -> None:
    """Two members at once, a voter from nowhere, a removed one that is not remembered: apply is total."""
    assert FIRST.after(value(FIRST, after)) is FIRST


def test_a_change_of_other_members_than_these_changes_nothing() -> None:
    """Two operators asked at once: the second change follows a configuration that was never in force."""
    one, two = FIRST.removed(1), FIRST.removed(2)
    assert FIRST.after(value(FIRST, one)) == one
    assert one.after(value(FIRST, two)) is one
    # One step from here as well, but it was meant to follow another one.
    other = FIRST.added(5, "127.0.0.1:7005")
    assert GROWN.after(value(other, other.added(4, "127.0.0.1:7004"))) is GROWN


def test_no_configuration_comes_twice() -> None:
    """There and back is not the same: a change that once fitted never fits again."""
    back = GROWN.removed(4)
    assert back.digest() != FIRST.digest()
    assert back.after(value(FIRST, GROWN)) is back


def test_who_cannot_read_a_change_stops() -> None:
    """It is of a later version: going on would be going another way than the others."""
    with pytest.raises(ConfigError, match="that this version knows"):
        FIRST.after(b"\xfe\x02" + bytes(40))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_change_or_are_refused(data: bytes) -> None:
    """Never anything but ConfigError."""
    try:
        Change.decode(data)
    except ConfigError:
        return
    raise AssertionError("random bytes are no change")
