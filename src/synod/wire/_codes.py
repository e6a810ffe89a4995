"""The numbers of the ZooKeeper client protocol: one flat table.

Ref: Apache ZooKeeper 3.8, `zookeeper.jute`, `ZooDefs`, `KeeperException`, `Watcher`.
"""

from __future__ import annotations

from typing import Final

OP_NOTIFICATION: Final = 0
OP_CREATE: Final = 1
OP_DELETE: Final = 2
OP_EXISTS: Final = 3
OP_GET_DATA: Final = 4
OP_SET_DATA: Final = 5
OP_GET_ACL: Final = 6
OP_SET_ACL: Final = 7
OP_GET_CHILDREN: Final = 8
OP_SYNC: Final = 9
OP_PING: Final = 11
OP_GET_CHILDREN2: Final = 12
OP_CHECK: Final = 13
OP_MULTI: Final = 14
OP_CREATE2: Final = 15
OP_RECONFIG: Final = 16
OP_CHECK_WATCHES: Final = 17
OP_REMOVE_WATCHES: Final = 18
OP_CREATE_CONTAINER: Final = 19
OP_DELETE_CONTAINER: Final = 20  # the reaper's own; never from a client
OP_CREATE_TTL: Final = 21
OP_MULTI_READ: Final = 22
OP_AUTH: Final = 100
OP_SET_WATCHES: Final = 101
OP_SASL: Final = 102
OP_GET_EPHEMERALS: Final = 103
OP_GET_ALL_CHILDREN_NUMBER: Final = 104
OP_SET_WATCHES2: Final = 105
OP_ADD_WATCH: Final = 106
OP_WHO_AM_I: Final = 107
OP_CREATE_SESSION: Final = -10
OP_CLOSE_SESSION: Final = -11
OP_ERROR: Final = -1

OP_EXTENSION: Final = 900
"""synod's envelope around another operation, see `_extension`; operations of its own begin at 901."""
OP_KEEP_ALIVE: Final = 901  # reserved: a ping that is answered with the lease left
OP_ACQUIRE: Final = 902  # reserved: a lock, granted or queued at once
OP_CHECK_SEQUENCER: Final = 903  # reserved: a condition on a lock's holder; inside a multi too

XID_NOTIFICATION: Final = -1
XID_PING: Final = -2
XID_AUTH: Final = -4
XID_SET_WATCHES: Final = -8
XID_MIN: Final = 1
XID_MAX: Final = 0x7FFF_FFFF
"""A client numbers its requests from 1 and begins again at 1 after this; negative ones have meanings."""

OK: Final = 0
ERR_SYSTEM: Final = -1
ERR_RUNTIME_INCONSISTENCY: Final = -2
ERR_DATA_INCONSISTENCY: Final = -3
ERR_CONNECTION_LOSS: Final = -4
ERR_MARSHALLING: Final = -5
ERR_UNIMPLEMENTED: Final = -6
ERR_OPERATION_TIMEOUT: Final = -7
ERR_BAD_ARGUMENTS: Final = -8
ERR_UNKNOWN_SESSION: Final = -12
ERR_NEW_CONFIG_NO_QUORUM: Final = -13
ERR_RECONFIG_IN_PROGRESS: Final = -14
ERR_API: Final = -100
ERR_NO_NODE: Final = -101
ERR_NO_AUTH: Final = -102
ERR_BAD_VERSION: Final = -103
ERR_NO_CHILDREN_FOR_EPHEMERALS: Final = -108
ERR_NODE_EXISTS: Final = -110
ERR_NOT_EMPTY: Final = -111
ERR_SESSION_EXPIRED: Final = -112
ERR_INVALID_CALLBACK: Final = -113
ERR_INVALID_ACL: Final = -114
ERR_AUTH_FAILED: Final = -115
ERR_SESSION_MOVED: Final = -118
ERR_NOT_READ_ONLY: Final = -119
ERR_EPHEMERAL_ON_LOCAL_SESSION: Final = -120
ERR_NO_WATCHER: Final = -121
ERR_REQUEST_TIMEOUT: Final = -122
ERR_RECONFIG_DISABLED: Final = -123
ERR_SESSION_CLOSED_REQUIRES_SASL_AUTH: Final = -124
ERR_QUOTA_EXCEEDED: Final = -125
ERR_THROTTLED_OP: Final = -127

EVENT_NONE: Final = -1
EVENT_CREATED: Final = 1
EVENT_DELETED: Final = 2
EVENT_DATA_CHANGED: Final = 3
EVENT_CHILDREN_CHANGED: Final = 4
EVENT_DATA_WATCH_REMOVED: Final = 5
EVENT_CHILD_WATCH_REMOVED: Final = 6
EVENT_PERSISTENT_WATCH_REMOVED: Final = 7

STATE_DISCONNECTED: Final = 0
STATE_SYNC_CONNECTED: Final = 3
STATE_AUTH_FAILED: Final = 4
STATE_CONNECTED_READ_ONLY: Final = 5
STATE_SASL_AUTHENTICATED: Final = 6
STATE_CLOSED: Final = 7
STATE_EXPIRED: Final = -112

CREATE_PERSISTENT: Final = 0
CREATE_EPHEMERAL: Final = 1
CREATE_SEQUENTIAL: Final = 2
CREATE_EPHEMERAL_SEQUENTIAL: Final = 3
CREATE_CONTAINER: Final = 4
CREATE_TTL: Final = 5
CREATE_TTL_SEQUENTIAL: Final = 6

PERM_READ: Final = 1
PERM_WRITE: Final = 2
PERM_CREATE: Final = 4
PERM_DELETE: Final = 8
PERM_ADMIN: Final = 16
PERM_ALL: Final = 31

WATCH_PERSISTENT: Final = 0
WATCH_PERSISTENT_RECURSIVE: Final = 1

WATCHER_CHILDREN: Final = 1  # the types of removeWatches and checkWatches
WATCHER_DATA: Final = 2
WATCHER_ANY: Final = 3
WATCHER_PERSISTENT: Final = 4
WATCHER_PERSISTENT_RECURSIVE: Final = 5

SEQUENCE_DIGITS: Final = 10
"""A sequential create appends the parent's counter of creates as `%010d`."""
VERSION_ANY: Final = -1
""""Whatever the version is": delete, setData, setACL, check."""

FRAME_BYTES_MAX: Final = 1_048_575
"""ZooKeeper's default `jute.maxbuffer`, 0xfffff: what clients expect, and where they split."""

WRITE_OPS: Final = frozenset(
    {
        OP_CHECK,
        OP_CLOSE_SESSION,
        OP_CREATE,
        OP_CREATE2,
        OP_CREATE_CONTAINER,
        OP_CREATE_TTL,
        OP_DELETE,
        OP_MULTI,
        OP_RECONFIG,
        OP_SET_ACL,
        OP_SET_DATA,
    }
)
"""Operations that change the state, and so go through the log."""
