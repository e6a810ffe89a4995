"""Every bound of the state machine, each with its reason.

These are part of `apply`'s behaviour: changing one changes what equal batches do, so it needs a new
feature level.
"""

from __future__ import annotations

from typing import Final

VALUE_BYTES_MAX: Final = 1_047_552
"""1 KiB less than 1 MiB: the reply that carries a value, its stat and headers stays below the frame limit
of 1,048,575 bytes that every client of the protocol checks."""

MULTI_OPS_MAX: Final = 8_192
"""Keeps one multi near 20 ms of apply; the batches of ZooKeeper's own tools hold a thousand operations."""

ACL_ENTRIES_MAX: Final = 256
"""An ACL is searched linearly at every request that is not open to the world."""

IDENTITIES_MAX: Final = 64
"""Identities that one session can prove; they are kept in the state and searched with every ACL."""

SESSIONS_MAX: Final = 131_072
"""Ten times the ten thousand sessions that one cell is built for; each costs about 600 bytes."""

SESSION_TIMEOUT_MS_MAX: Final = 86_400_000
"""One day. The replica's options bound it far below; this keeps any bytes from standing for years."""

ACLS_SHARED_MAX: Final = 4_096
"""Distinct ACLs that are shared between znodes; beyond it the table starts anew and only memory is lost."""

SEQUENCE_MAX: Final = 2_147_483_647
"""The last suffix of a sequential znode. A larger one would not sort behind the others: the lock that is
next would be given to the wrong contender."""

WATCHES_PER_CONNECTION_MAX: Final = 65_536
"""About 20 MB. Watches are local to a replica, so this bound may differ between replicas."""

WATCH_BYTES_PER_CONNECTION_MAX: Final = 16 << 20
"""The paths of one connection's watches together: a path may be as long as a frame."""

MULTI_READ_BYTES_MAX: Final = 1_048_575
"""The frame limit that clients check: a longer answer would only close the connection."""

CONTAINER_REAP_MS: Final = 60_000
"""Empty containers go when cell time passes a multiple of this; ZooKeeper's check interval."""

CONTAINERS_REAPED_MAX: Final = 1_000
"""So many at most at once, to bound one batch; the rest goes a minute later."""

DIGEST_SLOTS: Final = 1_024
"""The state is digested at every slot that is a multiple of this."""

ZXIDS_PER_MILLISECOND: Final = 128
"""A cell that begins with a past starts its zxids at wall milliseconds times this. More than 128 writes in every
millisecond of its life no cell has had, so that fencing tokens go on rising for a store that outlives it."""
