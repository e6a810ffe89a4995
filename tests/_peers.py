"""The systems that tests compare with, from `bench.peers`: Apache ZooKeeper as the oracle, etcd beside it."""

from __future__ import annotations

from bench._zookeeper import nudge
from bench.peers import (
    COMPILED_PYTHON,
    Etcd,
    Peer,
    Processes,
    SynodCell,
    ZooKeeper,
    four_letter_word,
    free_ports,
    zookeeper_command,
)

__all__ = [
    "COMPILED_PYTHON",
    "Etcd",
    "Peer",
    "Processes",
    "SynodCell",
    "ZooKeeper",
    "four_letter_word",
    "free_ports",
    "nudge",
    "zookeeper_command",
]
