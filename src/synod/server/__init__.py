"""The asyncio host of one replica: sockets, the disk, timers, configuration, admin HTTP.

May import replica, storage, wire, base; third-party packages lazily. Read `_host.Host._flush` first.
"""

from __future__ import annotations

from ._config import Address, Config, Limits, apply_override, load_config, parse_config
from ._host import Host, is_compiled
from ._parent import dying_with_parent
from ._ports import free_ports
from ._replay import Replayed, replay, replay_command
from ._run import Server, event_loop, serve

__all__ = [
    "Address",
    "Config",
    "Host",
    "Limits",
    "Replayed",
    "Server",
    "apply_override",
    "dying_with_parent",
    "event_loop",
    "free_ports",
    "is_compiled",
    "load_config",
    "parse_config",
    "replay",
    "replay_command",
    "serve",
]
