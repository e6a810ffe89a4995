"""Ports for servers that somebody starts together."""

from __future__ import annotations

import socket

import pytest

from bench import peers
from synod.base import UserError
from synod.server import free_ports


def test_they_are_free_in_a_row_and_none_that_is_spoken_for() -> None:
    """Of twenty-four, the first six are another's and one in the middle is in use: what is left is the end."""
    begin = peers.free_ports(24)[0]
    places, spoken_for = range(begin, begin + 24), range(begin, begin + 6)
    with socket.create_server(("127.0.0.1", begin + 15)):
        for _ in range(20):
            assert free_ports(8, but=spoken_for, of=places) in (
                range(begin + 6, begin + 14),
                range(begin + 7, begin + 15),
                range(begin + 16, begin + 24),
            )
        with pytest.raises(UserError, match=f"no 10 free ports in a row on 127.0.0.1 from {begin} to {begin + 23}"):
            free_ports(10, but=spoken_for, of=places)
    with pytest.raises(UserError, match="no 25 free ports"):
        free_ports(25, of=places)
