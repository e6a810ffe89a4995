"""What must outlive a crash: the log, snapshots, and the identity of a directory, over a small file system.

Knows (slot, ballot, bytes) and nothing of Paxos; imports only base. Read `_store` first, then `_segment` for
the bytes and for how torn is told from rotten; docs/FORMATS.md has the layouts.
"""

from __future__ import annotations

from ._backup import BackupHeader, BackupReader, begin_directory, open_snapshot
from ._files import File, FileSystem, RealFileSystem
from ._identity import IDENTITY, Identity, format_directory, load_identity, mark_forgetful
from ._log import Composed
from ._memory import MemoryFile, MemoryFileSystem
from ._ring import Ring
from ._snapshots import parse_snapshot
from ._store import Recovered, Store, StoreOptions
from ._verify import Found, verify_directory

__all__ = [
    "IDENTITY",
    "BackupHeader",
    "BackupReader",
    "Composed",
    "File",
    "FileSystem",
    "Found",
    "Identity",
    "MemoryFile",
    "MemoryFileSystem",
    "RealFileSystem",
    "Recovered",
    "Ring",
    "Store",
    "StoreOptions",
    "begin_directory",
    "format_directory",
    "load_identity",
    "mark_forgetful",
    "open_snapshot",
    "parse_snapshot",
    "verify_directory",
]
