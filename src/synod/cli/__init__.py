"""The `synod` command.

May import every room, and does so only in the command that needs it, so that `--help` is quick. Read `_app`
first; `_up` runs a local cell, `_locked` a command under a lock.
"""

from __future__ import annotations

from ._app import main

__all__ = ["main"]
