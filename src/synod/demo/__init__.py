"""The main job: a cell, three instances of a small service, real requests, two kills, and an audit.

`synod demo` runs it. Read `_app` first: it is the service, as a user of the framework writes one. `_run` starts
everything as processes, `_load` sends the stream, `_history` is what the load client writes down, and `audit`, a
process of its own, holds that against the store.
"""

from __future__ import annotations

from ._run import run

__all__ = ["run"]
