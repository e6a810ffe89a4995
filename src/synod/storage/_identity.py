"""Whose directory this is: made once by `format`, checked at every start.

Ref: Chandra et al. 2007 s6.2 (a misspelled configuration silently lowered the fault tolerance of a cell).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Final

from synod.base import ConfigError, Configuration, DataDirError, ReplicaId

from ._files import FileSystem, join, read_all, write_atomically

FORMAT_VERSION: Final = 1
IDENTITY: Final = "identity.json"
BOOT: Final = "boot.json"
LOCK: Final = "lock"
FORGETFUL: Final = "forgetful.json"


class DamagedIdentity(DataDirError):
    """A file that says whose directory it is reads back wrong."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which replica of which cell a directory belongs to.

    Args:
        configuration: the first one of the cell; what became of it is in the log.
        disk: drawn anew for each directory that is formatted: below 2**63, so that no two are the same.
    """

    replica_id: ReplicaId
    incarnation: int
    configuration: Configuration
    disk: int = 0

    @property
    def cell_id(self) -> str:
        """The cell's id, 32 hexadecimal digits."""
        return self.configuration.cell_id

    @property
    def needs_snapshot(self) -> bool:
        """Whether it began with the state of a backup: who joined the cell later has that state from its peers."""
        first = self.configuration
        return first.begins_at > 0 and first.holds(self.replica_id, self.incarnation)


def format_directory(fs: FileSystem, directory: str, identity: Identity) -> None:
    """Give a directory its identity, once.

    Raises:
        DataDirError: the directory has one already, or holds something else; nothing was changed.
    """
    demand_empty(fs, directory)
    write_identity(fs, directory, identity)


def demand_empty(fs: FileSystem, directory: str) -> None:
    """Make a directory that is to be formatted; what an interrupted attempt left in it is no obstacle.

    Raises:
        DataDirError: it holds something.
    """
    fs.make_dir(directory)
    names = [name for name in fs.list_dir(directory) if name != "synod.toml"]
    if IDENTITY in names:
        raise DataDirError(f"{directory} is formatted already; delete it first if its data is not needed")
    if any(not name.endswith(".tmp") for name in names):
        raise DataDirError(f"{directory} is not empty ({names[0]} is in it); format an empty directory")


def write_identity(fs: FileSystem, directory: str, identity: Identity) -> None:
    """The last step of formatting: from here on the directory is a replica's."""
    document = {
        "format": FORMAT_VERSION,
        "replica_id": identity.replica_id,
        "incarnation": identity.incarnation,
        "disk": identity.disk,
        "configuration": identity.configuration.encode().decode(),
    }
    write_atomically(fs, directory, IDENTITY, _sealed(document))


def load_identity(fs: FileSystem, directory: str) -> Identity:
    """Read a directory's identity.

    Raises:
        DataDirError: it has none, of a newer version, or a damaged one.
    """
    path = join(directory, IDENTITY)
    if not fs.exists(path):
        raise DataDirError(f"{directory} is not formatted; `synod format CONFIG` gives it its identity, once")
    document = _unsealed(read_all(fs, path), path)
    version = document.get("format")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise DataDirError(
            f"{directory} was written by a newer synod (format {version}, this one knows {FORMAT_VERSION}); "
            f"start the newer version"
        )
    try:
        configuration = Configuration.decode(str(document["configuration"]).encode())
        numbers = (int(str(document[key])) for key in ("replica_id", "incarnation", "disk"))
        replica_id, incarnation, disk = numbers
        return Identity(replica_id, incarnation, configuration, disk)
    except (KeyError, ValueError, ConfigError) as broken:
        raise DamagedIdentity(f"{path} is damaged: {broken}") from broken


def mark_forgetful(fs: FileSystem, directory: str, why: str) -> None:
    """An older state of the directory was put back: it must not be started again, whoever is there to notice."""
    write_atomically(fs, directory, FORGETFUL, _sealed({"why": why}))


def demand_memory(fs: FileSystem, directory: str) -> None:
    """See `mark_forgetful`.

    Raises:
        DataDirError: the directory is marked.
    """
    path = join(directory, FORGETFUL)
    if fs.exists(path):
        raise DataDirError(f"{directory} may have forgotten a vote: {_unsealed(read_all(fs, path), path).get('why')}")


def raise_boot_count(fs: FileSystem, directory: str) -> int:
    """Count this start, durably, before anything else happens."""
    boot = read_boot_count(fs, directory) + 1
    write_atomically(fs, directory, BOOT, _sealed({"boot": boot}))
    return boot


def read_boot_count(fs: FileSystem, directory: str) -> int:
    """How often the replica was started.

    Raises:
        DamagedIdentity: the count cannot be read.
    """
    path = join(directory, BOOT)
    return int(str(_unsealed(read_all(fs, path), path).get("boot", 0))) if fs.exists(path) else 0


def _sealed(document: dict[str, object]) -> bytes:
    text = json.dumps(document, sort_keys=True)
    return f"{text}\n{zlib.crc32(text.encode()):08x}\n".encode()


def _unsealed(data: bytes, path: str) -> dict[str, object]:
    text, _, rest = data.partition(b"\n")
    if rest.strip() != f"{zlib.crc32(text):08x}".encode():
        raise DamagedIdentity(f"{path} is damaged: its checksum does not fit; replace the replica from its peers")
    document = json.loads(text)
    if not isinstance(document, dict):
        raise DamagedIdentity(f"{path} is damaged: it holds no object")
    return document
