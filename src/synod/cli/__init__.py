"""The `synod` command.

May import every room, and does so only in the command that needs it, so that `--help` is quick. Read `_app`
first; `_up` runs a local cell, `_locked` a command under a lock, `_serve` a replica.
"""

from __future__ import annotations

import sys

from ._serve import plain, serve

__all__ = ["main"]


def main() -> None:
    """The entry point of the command."""
    words = plain(sys.argv[1:])
    if words is not None:
        serve(*words)
    from ._app import main as any_command

    any_command()
