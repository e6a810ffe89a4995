"""What torment takes for the end of a replica that nobody made end."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from synod.torment._nemesis import EXIT_LEFT, EXIT_UNAVAILABLE, Nemesis


@pytest.mark.parametrize(
    ("code", "removed", "noted"),
    [
        # Started again by another fault, it knows from its disk that it was removed, though it is wanted again.
        (EXIT_LEFT, True, False),
        (EXIT_LEFT, False, True),
        (EXIT_UNAVAILABLE, True, True),
        (EXIT_UNAVAILABLE, False, True),
    ],
)
def test_only_a_replica_that_is_to_go_may_end_because_it_was_removed(code: int, removed: bool, noted: bool) -> None:
    """Any other end is noted, to be judged, and the replica is started again."""
    replicas = Mock(ids=[1, 2, 3])
    replicas.ended.return_value = {3: code}
    history = Mock()
    nemesis = Nemesis(replicas, Mock(), history, (), Path())
    if removed:
        nemesis._operator.gone.add(3)
    nemesis._note_ends()
    assert [call.args[0] for call in history.event.call_args_list] == (["ended", "started"] if noted else [])
    assert replicas.start.called == noted
    assert replicas.expect_end.called != noted
