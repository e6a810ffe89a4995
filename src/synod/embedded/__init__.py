"""`synod.local()`: a cell of one replica inside this process, for development, tests, and as the default.

The very same server and storage as everywhere, on a free loopback port and an event loop in a thread of its own,
in memory or on a directory. May import server, client and base.
"""

from __future__ import annotations

from ._local_cell import LocalCell, local

__all__ = ["LocalCell", "local"]
