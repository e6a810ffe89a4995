"""Paths as bytes: which are valid, and who is whose parent."""

from __future__ import annotations

import re
from typing import Final

ROOT: Final = b"/"
SLASH: Final = ROOT[0]
"""What separates names, as a number: to look for that is quicker than to look for bytes."""

_PLAIN: Final = re.compile(rb"(?:/(?!\.{1,2}(?:/|\Z))[ -.0-~]+)+\Z")
"""Printable ASCII names, none of them `.` or `..`: valid without a closer look."""

_BARRED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\U0010ffff]")
"""ZooKeeper bars these. It sees UTF-16 units, so that everything past U+FFFF counts as surrogates."""

_NO_NAME: Final = ("", ".", "..")


def is_valid_path(path: bytes) -> bool:
    """Whether this may be the path of a znode. Ref: ZooKeeper's PathUtils.validatePath."""
    if path == ROOT or _PLAIN.match(path) is not None:
        return True
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return False
    first, *names = text.split("/")
    return not first and bool(names) and all(name not in _NO_NAME for name in names) and _BARRED.search(text) is None


def parent_path(path: bytes) -> bytes:
    """The path of the parent; of the root, the root."""
    return path[: path.rfind(b"/")] or ROOT
