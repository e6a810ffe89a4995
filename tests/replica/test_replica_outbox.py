"""What an origin has sent and what it has not, and what waits at a leader: each told in one look, and always rightly."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from synod.replica._batcher import Batcher
from synod.replica._outbox import Outbox
from synod.tree import encode_group, group_header

STEPS = st.lists(st.sampled_from(("seal", "send", "doubt", "apply", "skip")), max_size=40)


@given(STEPS)
def test_what_was_not_sent_to_the_present_leader_is_sent_and_nothing_else(steps: list[str]) -> None:
    """And whether there is such a group is known before it is asked for."""
    outbox = Outbox(1, 1)
    sealed, applied, sent = 0, 0, 0
    for step in steps:
        if step == "seal":
            outbox.seal([b"item"], 0)
            sealed += 1
        elif step == "send":
            assert [group_header(group)[2] for group in outbox.unsent()] == list(
                range(max(sent, applied) + 1, sealed + 1)
            )
            sent = sealed
        elif step == "doubt":
            outbox.send_again()
            sent = min(sent, applied)
        elif step == "apply" and applied < sealed:
            applied += 1
            outbox.applied(applied, 0)
        elif step == "skip":
            applied = min(applied + 2, sealed)
            outbox.skip_to((1, applied))
        assert outbox.has_unsent == (max(sent, applied) < sealed)
        assert len(outbox) == sealed - applied


@given(st.lists(st.sampled_from(("group", "again", "command", "take", "clear")), max_size=40), st.integers(1, 80))
def test_a_batcher_holds_what_was_put_in_until_it_is_taken(steps: list[str], bytes_max: int) -> None:
    """It is as good as empty exactly when nothing waits."""
    batcher = Batcher(bytes_max)
    origin, seq, waiting = 2, 0, 0
    for step in steps:
        if step == "group":
            seq += 1
            assert batcher.add_group(encode_group(origin, 1, seq, [b"item"]), {})
            waiting += 1
        elif step == "again" and seq:
            assert batcher.add_group(encode_group(origin, 1, seq, [b"item"]), {})
        elif step == "command":
            batcher.add_command(b"command")
            waiting += 1
        elif step == "take" and batcher:
            before = batcher.bytes
            batch = batcher.take(feature_level=1, cell_time_ms=0, wall_ms=0)
            assert before > batcher.bytes
            waiting -= struct.unpack_from(">BHqqI", batch)[4]  # its number of commands
        elif step == "clear":
            batcher.clear()
            origin, seq, waiting = origin + 1, 0, 0
        assert bool(batcher) == (waiting > 0)
