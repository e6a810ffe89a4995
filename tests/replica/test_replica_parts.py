"""The small parts of a replica: digests compared, forgetful disks noticed, snapshots fetched."""

from __future__ import annotations

import pytest

from synod.base import Ballot
from synod.replica import Forgetful, Hello, SnapshotAsk, SnapshotChunk
from synod.replica._acquaintance import Acquaintance
from synod.replica._digests import DigestBoard
from synod.replica._transfer import ASK_AGAIN_AFTER, Download

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def hello(promised: Ballot, slot: int, incarnation: int = 1) -> Hello:
    return Hello(1, 1, bytes(16), bytes(16), 2, incarnation, 1, 1, 1, promised, slot)


def test_a_replica_that_a_quorum_contradicts_stops():
    """A diverged minority stops with a report; the majority goes on."""
    odd = DigestBoard(1, (1, 2, 3))
    assert odd.report(1, 1024, A) is None
    assert odd.report(2, 1024, B) is None
    assert "must be replaced" in (odd.report(3, 1024, B) or "")
    even = DigestBoard(2, (1, 2, 3))
    assert even.report(1, 1024, A) is None
    assert even.report(2, 1024, B) is None
    assert even.report(3, 1024, B) is None


def test_without_a_quorum_for_any_digest_all_stop():
    """Nobody knows who is right: going on would spread the damage."""
    board = DigestBoard(1, (1, 2, 3))
    assert board.report(1, 1024, A) is None
    assert board.report(2, 1024, B) is None
    assert "restore" in (board.report(3, 1024, C) or "")


def test_digests_of_different_slots_are_not_compared():
    """A replica that lags has another digest and is no less right."""
    board = DigestBoard(1, (1, 2, 3))
    assert board.report(1, 1024, A) is None
    assert board.report(2, 2048, B) is None
    assert board.report(3, 2048, B) is None


def test_a_disk_that_shows_less_than_it_has_shown_is_refused():
    """A wiped or rolled-back disk may have forgotten a promise: it must not vote again."""
    seen = Acquaintance()
    seen.showed(2, Ballot(5, 1), 40)
    assert seen.changed
    assert seen.refusal(hello(Ballot(5, 1), 40)) is None
    assert seen.refusal(hello(Ballot(6, 3), 90)) is None
    for less in (hello(Ballot(4, 1), 40), hello(Ballot(5, 1), 39)):
        with pytest.raises(Forgetful, match="forgotten"):
            seen.refusal(less)


def test_a_hello_that_comes_late_is_no_sign_of_a_forgetful_disk():
    """The second connection of a pair may be slow: its hello shows less than what came on the first one meanwhile."""
    seen = Acquaintance()
    early = hello(Ballot(5, 1), 40)
    assert seen.refusal(early) is None
    seen.showed(2, Ballot(6, 3), 90)
    assert seen.refusal(early, main=False) is None
    # The same where the peer that hears it was started again meanwhile, and remembers by its disk alone.
    again = Acquaintance(seen.encode())
    assert again.refusal(hello(Ballot(6, 3), 95)) is None
    assert again.refusal(early, main=False) is None
    assert again.refusal(early, 7, main=False) is None
    assert "incarnation" in (again.refusal(hello(Ballot(7, 1), 99, incarnation=0), main=False) or "")


def test_a_machine_that_is_put_back_with_its_memory_is_noticed():
    """It goes on where it ran: the very process calls again, and its first hello was welcome."""
    seen = Acquaintance()
    assert seen.refusal(hello(Ballot(5, 1), 40)) is None
    seen.showed(2, Ballot(6, 3), 90)
    with pytest.raises(Forgetful):
        seen.refusal(hello(Ballot(5, 1), 50))


def test_the_memory_of_a_peer_survives_the_log():
    """It is written with the sync groups, and read back at the next start."""
    seen = Acquaintance()
    seen.showed(2, Ballot(5, 1), 40)
    again = Acquaintance(seen.encode())
    with pytest.raises(Forgetful):
        again.refusal(hello(Ballot(0, 0), 0))


def test_a_higher_incarnation_begins_anew_and_a_lower_one_is_refused():
    """Re-admission goes by a new incarnation."""
    seen = Acquaintance()
    seen.showed(2, Ballot(5, 1), 40)
    assert seen.refusal(hello(Ballot(0, 0), 0, incarnation=2)) is None
    assert "incarnation" in (seen.refusal(hello(Ballot(9, 1), 99, incarnation=1)) or "")


def test_a_download_takes_chunks_in_order_and_ignores_repeats():
    """A chunk that was asked for twice comes twice."""
    download = Download(2, 0)
    assert download.ask(0) == SnapshotAsk(0, 0)
    assert download.take(SnapshotChunk(9, 0, 6, b"abc"), 5)
    assert download.take(SnapshotChunk(9, 0, 6, b"abc"), 5)
    assert not download.complete
    assert download.ask(5) == SnapshotAsk(9, 3)
    assert download.ask_again_at() == 5 + ASK_AGAIN_AFTER
    assert download.take(SnapshotChunk(9, 3, 6, b"def"), 5)
    assert download.complete
    assert download.received == 6


def test_a_download_is_given_up_when_the_snapshot_is_gone_or_another():
    """The holder may have replaced its snapshot meanwhile: begin anew."""
    download = Download(2, 0)
    assert not download.take(SnapshotChunk(9, 0, 0, b""), 5)
    download = Download(2, 0)
    assert download.take(SnapshotChunk(9, 0, 6, b"abc"), 5)
    assert not download.take(SnapshotChunk(10, 3, 6, b"def"), 5)
