"""Random but plausible load, for the property tests: the same seed gives the same frames."""

from __future__ import annotations

import random
import struct

from tree_world import (
    OPEN,
    PASSWORD,
    add_watch,
    check_watches,
    children,
    children2,
    close,
    create,
    delete,
    exists,
    frame,
    get_acl,
    get_data,
    multi,
    op_check,
    op_create,
    op_delete,
    op_set,
    read,
    remove_watches,
    set_acl,
    set_data,
    set_watches,
    text,
)

from synod.base import Ballot
from synod.tree import (
    Tree,
    encode_attach,
    encode_auth,
    encode_awake,
    encode_batch,
    encode_create_session,
    encode_digest_now,
    encode_expire,
    encode_group,
    encode_opening,
    encode_silent,
    encode_slice,
)

NAMES = [b"a", b"b", b"n-0000000001", "ä".encode(), b"x y", b".", b"..", b"\x01", b"", b"e"]
ACLS = [
    OPEN,
    OPEN,
    OPEN,
    OPEN,
    [(31, b"auth", b"")],
    [(1, b"world", b"anyone")],
    [(31, b"digest", b"u0:h"), (5, b"world", b"anyone")],
    [(31, b"ip", b"10.0.0.0/8")],
    [],
    [(31, b"bad", b"x")],
]


class Load:
    """Draws batches for a cell of three origins, and reads, from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.seqs = {1: 0, 2: 0, 3: 0}
        self.cell_time_ms = 0
        self.wall_ms = 1_700_000_000_000
        self.ballot = Ballot(1, 1)
        self.xid = 0

    def path(self, tree: Tree) -> bytes:
        rng = self.rng
        if rng.random() < 0.6:
            base = rng.choice(sorted(tree.nodes))
            if rng.random() < 0.5:
                return base
            return (base if base != b"/" else b"") + b"/" + rng.choice(NAMES[:4])
        return b"".join(b"/" + rng.choice(NAMES) for _ in range(rng.randrange(1, 3)))

    def value(self) -> bytes | None:
        size = self.rng.choice([0, 1, 5, 100, -1])
        return None if size < 0 else self.rng.randbytes(size)

    def version(self) -> int:
        return self.rng.choice([-1, -1, -1, 0, 1, 2, -2])

    def write(self, tree: Tree) -> bytes:
        self.xid += 1
        xid, rng, path = self.xid, self.rng, self.path(tree)
        kind = rng.randrange(12)
        if kind < 4:
            flags = rng.choice([0, 0, 0, 1, 1, 2, 3, 4, 5, 7])
            return create(xid, path, self.value(), flags, acl=rng.choice(ACLS), op=rng.choice([1, 1, 15, 19]))
        if kind < 6:
            return set_data(xid, path, self.value(), self.version())
        if kind < 8:
            return delete(xid, path, self.version())
        if kind == 8:
            return set_acl(xid, path, rng.choice(ACLS), self.version())
        if kind == 9:
            if rng.random() < 0.02:
                return close(xid)
            return frame(xid, rng.choice([13, 16, 21, 4, 99, 900, -3]), text(path) + b"\0\0\0\0")
        operations = []
        for _ in range(rng.randrange(5)):
            inner = self.path(tree)
            operations.append(
                rng.choice(
                    [
                        op_create(inner, self.value(), rng.choice([0, 1, 2, 3, 4]), op=rng.choice([1, 15, 19])),
                        op_delete(inner, self.version()),
                        op_set(inner, self.value(), self.version()),
                        op_check(inner, self.version()),
                    ]
                )
            )
        return multi(xid, *operations)

    def read(self, tree: Tree) -> bytes:
        self.xid += 1
        xid, rng, path = self.xid, self.rng, self.path(tree)
        watch = rng.random() < 0.4
        return rng.choice(
            [
                lambda: exists(xid, path, watch),
                lambda: get_data(xid, path, watch),
                lambda: children(xid, path, watch),
                lambda: children2(xid, path, watch),
                lambda: get_acl(xid, path),
                lambda: read(xid, 104, path, None),
                lambda: read(xid, 103, path, None),
                lambda: read(xid, 9, path, None),
                lambda: frame(xid, 107),
                lambda: add_watch(xid, path, rng.randrange(3)),
                lambda: check_watches(xid, path, rng.randrange(7)),
                lambda: remove_watches(xid, path, rng.randrange(7)),
                lambda: set_watches(xid, rng.randrange(tree.zxid + 1), [path], [path], [path], [path], [path]),
                lambda: frame(
                    xid,
                    22,
                    struct.pack(">i?i", rng.choice([4, 8]), False, -1)
                    + text(path)
                    + b"\0"
                    + b"\xff" * 4
                    + b"\1"
                    + b"\0" * 4,
                ),
            ]
        )()

    def damaged(self, data: bytes) -> bytes:
        """The same frame with a few bytes changed, its length kept true."""
        body = bytearray(data[4:])
        for _ in range(self.rng.randrange(1, 4)):
            if self.rng.random() < 0.3:
                del body[self.rng.randrange(8, len(body) + 1) :]
            if len(body) > 8:
                at = self.rng.randrange(4, len(body))
                body[at] = self.rng.choice([0, 0xFF, 0x7F, 0x80, 1, body[at] ^ 1])
        return struct.pack(">i", len(body)) + bytes(body)

    def batch(self, tree: Tree) -> bytes:
        """One slot's value; what it does depends on the state, so that much of it succeeds."""
        rng = self.rng
        if rng.random() < 0.03:
            return b""
        self.cell_time_ms += rng.randrange(3_000)
        self.wall_ms += rng.randrange(-5, 50)
        commands = []
        if rng.random() < 0.05 or tree.opening_ballot == (0, 0):
            self.ballot = Ballot(self.ballot.round + 1, rng.randrange(1, 4))
            commands.append(encode_opening(self.ballot))
        if rng.random() < 0.02:
            commands.append(encode_digest_now())
        if tree.sessions and rng.random() < 0.2:
            commands.append(self._liveness(tree))
        for _ in range(rng.randrange(3)):
            commands.append(self._group(tree))
        return encode_batch(feature_level=1, cell_time_ms=self.cell_time_ms, wall_ms=self.wall_ms, commands=commands)

    def _liveness(self, tree: Tree) -> bytes:
        rng = self.rng
        session = tree.sessions[rng.choice(sorted(tree.sessions))]
        epoch = session.attach_epoch - (rng.random() < 0.2)
        ballot = self.ballot if rng.random() < 0.8 else Ballot(self.ballot.round - 1, 1)
        kind = rng.randrange(8)
        if kind == 0:
            return encode_expire(session.id, epoch, ballot)
        if kind < 5:
            return encode_silent(session.id, epoch, ballot, self.cell_time_ms - 5)
        return encode_awake(session.id, epoch, ballot)

    def _group(self, tree: Tree) -> bytes:
        rng = self.rng
        origin = rng.choice([1, 2, 3])
        seq = self.seqs[origin] + 1
        if rng.random() < 0.1:
            seq += rng.choice([-1, 1])
        else:
            self.seqs[origin] = seq
        return encode_group(origin, 1, seq, [self._item(tree, origin) for _ in range(rng.randrange(1, 4))])

    def _item(self, tree: Tree, origin: int) -> bytes:
        rng = self.rng
        if not tree.sessions or rng.random() < 0.1:
            return encode_create_session(rng.randrange(100), rng.randrange(1, 60_000), PASSWORD)
        session = tree.sessions[rng.choice(sorted(tree.sessions))]
        if rng.random() < 0.1:
            password = PASSWORD if rng.random() < 0.9 else bytes(16)
            return encode_attach(rng.randrange(100), session.id, password, rng.randrange(60_000))
        epoch = session.attach_epoch - (rng.random() < 0.05)
        if rng.random() < 0.1:
            scheme, identity = rng.choice(
                [(b"digest", b"u%d:h" % rng.randrange(3)), (b"ip", b"10.0.0.%d" % rng.randrange(3))]
            )
            return encode_auth(session.id, epoch, -4, scheme, identity)
        frames = [self.write(tree) for _ in range(rng.randrange(1, 6))]
        frames = [self.damaged(one) if rng.random() < 0.1 else one for one in frames]
        return encode_slice(session.id, epoch, len(frames), b"".join(frames))
