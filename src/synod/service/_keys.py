"""From any key to the path of its lock, without collisions, within the limits of a path.

    /locks/NAMESPACE/KEY

A key is bytes; a str is its UTF-8. So `"a"` and `b"a"` are the same key, on purpose: two programs that hold the
same key in different types must meet at one lock, since a lock too many only costs time, and one too few costs data.
"""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import quote_from_bytes

from synod.base import BadArguments

LOCKS: Final = "/locks"
NAMESPACE_DEFAULT: Final = "default"

KEY_TEXT_BYTES_MAX: Final = 200
"""Longer keys are cut and end in their digest: a name must stay readable in a listing, and a path far from 1 MiB."""

DIGEST_BYTES: Final = 32  # 256 bits: no two keys that anybody will ever find share one


def key_bytes(key: str | bytes) -> bytes:
    """The bytes that a key stands for.

    Raises:
        BadArguments: it is neither str nor bytes.
    """
    if isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return key.encode("utf-8", "surrogatepass")
    raise BadArguments(f"a key is a str or bytes, not {type(key).__name__}; nothing was locked")


def key_name(key: str | bytes) -> str:
    """The name of a key as one component of a path.

    Letters, digits and `_-~.` stand for themselves, everything else is %XX; the empty key is `%`, a leading dot
    is escaped (`.` and `..` are no names), and a long key is `%%`, its beginning, and its digest. Different keys
    have different names, since no escape begins with `%` and ends there or in another `%`.

    Raises:
        BadArguments: the key is neither str nor bytes.
    """
    raw = key_bytes(key)
    name = quote_from_bytes(raw, safe="~")
    if not name:
        return "%"
    if len(name) > KEY_TEXT_BYTES_MAX:
        digest = hashlib.blake2b(raw, digest_size=DIGEST_BYTES).hexdigest()
        return f"%%{name[: KEY_TEXT_BYTES_MAX // 2]}-{digest}"
    return f"%2E{name[1:]}" if name[0] == "." else name


def lock_path(key: str | bytes, namespace: str = NAMESPACE_DEFAULT) -> str:
    """The path of the lock on a key.

    Args:
        key: what is written.
        namespace: keys of different namespaces never meet; any text.

    Raises:
        BadArguments: the key is neither str nor bytes.
    """
    return f"{LOCKS}/{key_name(namespace)}/{key_name(key)}"
