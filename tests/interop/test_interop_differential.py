"""The same random frames to a cell and to Apache ZooKeeper: every field of every reply, and the order of every event."""

from __future__ import annotations

import contextlib

import pytest
from interop_walk import Line, Player, Walk
from interop_wire import CREATE, Wire, create

from _peers import Peer

pytestmark = [pytest.mark.slow, pytest.mark.requires("zookeeper")]

OPERATIONS = 1_500


@pytest.mark.parametrize("seed", range(4))
def test_a_cell_answers_as_zookeeper_does(zookeeper: Peer, synod_cell: Peer, root: str, seed: int) -> None:
    """Replies in full, errors included, multi and watches; zxids, sessions and times by their order."""
    players = []
    with contextlib.ExitStack() as stack:
        for system in (zookeeper, synod_cell):
            first = Wire(system.ports[0])
            stack.callback(first.drop)
            assert first.ask(CREATE, create(root)).err == 0
            players.append(Player(system))
            stack.callback(players[-1].end)
        done = 0
        for step in Walk(seed, root, OPERATIONS).steps():
            for player in players:
                player.play(step)
            oracle, cell = (player.lines for player in players)
            for at in range(done, max(len(oracle), len(cell))):
                pair = [lines[at] if at < len(lines) else Line(-1, "", ("nothing",)) for lines in (oracle, cell)]
                assert pair[0] == pair[1], "\n".join(
                    [
                        f"ZooKeeper {pair[0]}",
                        f"synod     {pair[1]}",
                        "before:",
                        *(str(line) for line in oracle[max(0, at - 25) : at]),
                    ]
                )
            done = len(oracle)
        kinds = {line.told[0] for line in oracle if "event" in line.cause}
        assert {1, 2, 3, 4} <= kinds
