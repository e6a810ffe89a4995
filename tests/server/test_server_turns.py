"""A turn of the host: what there is to do, and when others on the machine go first."""

from __future__ import annotations

import os

import pytest

from _cells import config_document
from synod.replica import Ready
from synod.server import parse_config
from synod.server._host import Host
from synod.storage import Identity, RealFileSystem, format_directory

pytestmark = pytest.mark.requires("pure")  # what is compiled cannot be told what to say


def ready(*, more: bool) -> Ready:
    """Nothing to do, and perhaps more of it."""
    made = Ready()
    made.more = more
    return made


@pytest.mark.parametrize(("pieces", "yields"), [(1, 0), (2, 0), (3, 1), (6, 4)])
async def test_a_backlog_lets_others_go_first_and_a_write_does_not(tmp_path, monkeypatch, pieces, yields) -> None:
    """A slot takes two pieces, when it is chosen and when it is applied; what takes more can wait a moment."""
    config = parse_config(config_document(tmp_path), str(tmp_path / "replica.toml"))
    format_directory(RealFileSystem(), config.data_dir, Identity(1, 1, config.configuration, 1))
    host = Host(config, on_stop=print)
    try:
        left = iter([ready(more=True) for _ in range(pieces - 1)] + [ready(more=False)])
        monkeypatch.setattr(host.told, "ready", lambda: next(left))
        yielded: list[int] = []
        monkeypatch.setattr(os, "sched_yield", lambda: yielded.append(1))
        monkeypatch.setattr("synod.server._host.FLUSH_S", 60.0)
        host._turn()
        assert len(yielded) == yields
        assert next(left, None) is None
    finally:
        host.close()
