"""Who may do what with a znode.

Nearly every znode has the open ACL, so the common question is one `and` of two small integers
(`acl.world & PERM_...`); `permits` is for the others. Equal ACLs share one object.
"""

from __future__ import annotations

import struct
from typing import Final

from synod.wire import PERM_ALL, PERM_READ

from ._limits import ACL_ENTRIES_MAX, ACLS_SHARED_MAX
from ._scan import INT, Scanner

Identity = tuple[bytes, bytes]
"""(scheme, identity) as a session has proved it, or as its origin has stated it."""

AclEntry = tuple[int, bytes, bytes]
"""(permissions, scheme, identity)."""

WORLD: Final = b"world"
ANYONE: Final = b"anyone"
AUTH: Final = b"auth"
DIGEST: Final = b"digest"
IP: Final = b"ip"
SUPER: Final = b"super"

_FIELD: Final = struct.Struct(">i")


class Acl:
    """An access control list. Immutable; shared by the znodes that have it.

    Invariant: `wire` is its encoding, and `world` the permissions that it gives to anyone.
    """

    __slots__ = ("entries", "wire", "world")

    def __init__(self, entries: tuple[AclEntry, ...]) -> None:
        self.entries = entries
        self.wire = encode_entries(entries)
        world = 0
        for perms, scheme, _ in entries:
            if scheme == WORLD:
                world |= perms & PERM_ALL
        self.world = world


def encode_entries(entries: tuple[AclEntry, ...]) -> bytes:
    """The vector as the protocol writes it."""
    parts = [INT.pack(len(entries))]
    for perms, scheme, identity in entries:
        parts.append(INT.pack(perms))
        parts.append(_FIELD.pack(len(scheme)))
        parts.append(scheme)
        parts.append(_FIELD.pack(len(identity)))
        parts.append(identity)
    return b"".join(parts)


OPEN_ACL: Final = Acl(((PERM_ALL, WORLD, ANYONE),))
READ_ONLY_ACL: Final = Acl(((PERM_READ, WORLD, ANYONE),))
OPEN_WIRE: Final = OPEN_ACL.wire
_OPEN_AS_SENT: Final = list(OPEN_ACL.entries)


class Acls:
    """The ACLs in use, so that equal ones are one object."""

    __slots__ = ("_shared",)

    def __init__(self) -> None:
        self._shared: dict[bytes, Acl] = {}

    def share(self, entries: tuple[AclEntry, ...]) -> Acl:
        """The one object for these entries. Forgetting some costs only memory, never correctness."""
        if entries == OPEN_ACL.entries:
            return OPEN_ACL
        acl = Acl(entries)
        known = self._shared.get(acl.wire)
        if known is not None:
            return known
        if len(self._shared) >= ACLS_SHARED_MAX:
            self._shared.clear()
        self._shared[acl.wire] = acl
        return acl


def scan_entries(scanner: Scanner) -> list[AclEntry] | None:
    """The ACL vector of a request as it was sent; None when an entry lacks its scheme or identity.

    A null vector is an empty one. Too many entries count as malformed.
    """
    count = scanner.int32()
    if count > ACL_ENTRIES_MAX:
        scanner.bad = True
    entries: list[AclEntry] = []
    complete = True
    for _ in range(count):
        if scanner.bad:
            break
        perms, scheme, identity = scanner.int32(), scanner.field(), scanner.field()
        if scheme == AUTH and identity is None:
            identity = b""  # kazoo writes an empty string as null; nobody reads what stands here
        if scheme is None or identity is None:
            complete = False
        else:
            entries.append((perms, scheme, identity))
    return entries if complete else None


def resolve(entries: list[AclEntry] | None, identities: list[Identity]) -> tuple[AclEntry, ...] | None:
    """What is stored for an ACL as it was sent: without duplicates, `auth` replaced by the caller's identities.

    Returns:
        None when it is invalid: empty, of an unknown scheme, or with an identity of the wrong form.
    """
    if not entries:
        return None
    if entries == _OPEN_AS_SENT:
        return OPEN_ACL.entries
    stored: list[AclEntry] = []
    for entry in dict.fromkeys(entries):
        perms, scheme, identity = entry
        if scheme == AUTH:
            proved = [(perms, s, i) for s, i in identities if s not in (IP, SUPER)]
            if not proved:
                return None
            stored.extend(proved)
        elif (scheme == WORLD and identity == ANYONE) or _valid(scheme, identity):
            stored.append(entry)
        else:
            return None
    return tuple(stored)


def permits(acl: Acl, perm: int, identities: list[Identity]) -> bool:
    """Whether a session with these identities has at least one of the permissions `perm`."""
    if acl.world & perm:
        return True
    for scheme, _ in identities:
        if scheme == SUPER:
            return True
    for perms, scheme, identity in acl.entries:
        if perms & perm:
            for proved in identities:
                if proved[0] == scheme and _matches(scheme, proved[1], identity):
                    return True
    return False


def masked_entries(acl: Acl) -> tuple[AclEntry, ...]:
    """The entries without the digests' hashes, for callers that may not administer the znode."""
    return tuple(
        (perms, scheme, identity.partition(b":")[0] + b":x" if scheme == DIGEST and b":" in identity else identity)
        for perms, scheme, identity in acl.entries
    )


def _valid(scheme: bytes, identity: bytes) -> bool:
    if scheme == DIGEST:
        # `user:hash`, where trailing colons do not count: Java's split drops empty parts at the end.
        return len(identity.rstrip(b":").split(b":")) == 2 and _is_text(identity)
    if scheme == IP:
        return _network(identity) is not None
    return False


def _matches(scheme: bytes, proved: bytes, wanted: bytes) -> bool:
    if scheme != IP:
        return proved == wanted
    network = _network(wanted)
    address = _network(proved)
    if network is None or address is None:
        return False
    shift = 32 - network[1]
    return address[0] >> shift == network[0] >> shift


def _network(text: bytes) -> tuple[int, int] | None:
    """An IPv4 address with an optional `/bits` as two integers. ZooKeeper's `ip` scheme knows no IPv6."""
    address, slash, bits_text = text.partition(b"/")
    parts = address.split(b".")
    if len(parts) != 4:
        return None
    value = 0
    for part in parts:
        number = _small(part)
        if number is None or number > 255:
            return None
        value = value << 8 | number
    if not slash:
        return value, 32
    bits = _small(bits_text)
    if bits is None or bits > 32:
        return None
    return value, bits


def _small(digits: bytes) -> int | None:
    if not 1 <= len(digits) <= 3 or not digits.isdigit():
        return None
    return int(digits)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
