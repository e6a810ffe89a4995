"""The store of the demo refuses repeats and stale tokens by itself, whatever its callers believe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from synod.demo._ledger import IdTaken, Ledger
from synod.recipes import StaleToken


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "store.sqlite", "a")
    yield opened
    opened.close()


def test_a_write_is_applied_once(ledger: Ledger) -> None:
    """A repeat, under whatever token and by whichever instance, is answered as the first was."""
    first = ledger.apply("r-1", "sku", "restock", 5, 10)
    repeat = ledger.apply("r-1", "sku", "restock", 5, 12)
    assert (first.stock, first.version, first.token, first.replayed) == (5, 1, 10, False)
    assert (repeat.stock, repeat.version, repeat.token, repeat.replayed) == (5, 1, 10, True)
    assert ledger.read("sku") == (5, 1)


def test_a_stale_token_changes_nothing(ledger: Ledger) -> None:
    """Who was paused while the lock passed on comes too late."""
    ledger.apply("r-1", "sku", "restock", 5, 20)
    with pytest.raises(StaleToken):
        ledger.apply("r-2", "sku", "reserve", 1, 19)
    assert ledger.read("sku") == (5, 1)
    assert ledger.apply("r-2", "sku", "reserve", 1, 20).stock == 4, "the same holder may write again"


def test_an_id_belongs_to_one_write(ledger: Ledger) -> None:
    """The id of another write is refused, not answered with that one's result."""
    ledger.apply("r-1", "sku", "restock", 5, 20)
    with pytest.raises(IdTaken):
        ledger.apply("r-1", "sku", "restock", 6, 21)
    assert ledger.read("sku") == (5, 1)


def test_a_reservation_beyond_the_stock_is_refused_for_good(ledger: Ledger) -> None:
    """A refusal is a result like any other: a repeat after a restock is refused as well."""
    refused = ledger.apply("r-1", "sku", "reserve", 3, 1)
    ledger.apply("r-2", "sku", "restock", 5, 2)
    assert not refused.accepted
    assert not ledger.apply("r-1", "sku", "reserve", 3, 3).accepted
    assert ledger.read("sku") == (5, 2)


def test_both_safeguards_can_be_taken_out(tmp_path: Path) -> None:
    """Which is what the audit is tried on."""
    bare = Ledger(tmp_path / "store.sqlite", "a", guard=False, duplicate_check=False)
    bare.apply("r-1", "sku", "restock", 5, 20)
    bare.apply("r-1", "sku", "restock", 5, 19)
    assert bare.read("sku") == (10, 2)
    bare.close()
