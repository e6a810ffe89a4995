"""`synod backup` and `synod verify`: fetch the state of a cell as one file; say whether a file or directory is sound."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from synod.base import Corruption, NotApplied, OutcomeUnknown, UserError

from ._operator import RefusedByCell, find_replicas
from ._output import DONE, REFUSED, complain, print_json

if TYPE_CHECKING:
    from synod.storage import BackupReader
    from synod.tree import Summary

PART_BYTES: Final = 1 << 20


class Damaged(NotApplied):
    """A backup that is not as it was written. Definite: nothing was changed."""

    code = -9_001  # no code of the protocol: anything but -1, which says that nobody was reached


def make_backup(hosts: str, target: str, *, force: bool, timeout: float, as_json: bool) -> None:
    """Fetch a backup, check it, and give it its name only then.

    Raises:
        UserError: the file cannot be written, or is there already and `force` does not say that it may go.
        NotApplied: the cell refused.
        OutcomeUnknown: it broke off; there is no file.
        Damaged: what came is not what was sent.
    """
    path = Path(target)
    if path.is_dir():
        raise UserError(f"{path} is a directory; name the file that is to be written")
    if path.exists() and not force:
        raise UserError(f"{path} exists already, and was left as it is: give another name, or --force to replace it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    found = find_replicas(hosts, min(timeout, 10.0))
    replica = next((one for one in found if not one.leads), found[0])  # who leads has enough to do
    try:
        with _written(temporary) as fd:
            size = _fetch(replica.http, fd, timeout)
        with opened_backup(str(temporary), called=f"what replica {replica.id} sent") as (reader, summary):
            header = reader.header
        os.replace(temporary, path)  # noqa: PTH105 -- as everywhere in storage
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    done = {
        "file": str(path),
        "replica": replica.id,
        "cell_id": header.cell_id.hex(),
        "slot": header.slot,
        "zxid": header.zxid,
        "znodes": header.znodes,
        "sessions": summary.sessions,
        "bytes": size,
        "digest": header.digest.hex(),
    }
    if as_json:
        print_json(done)
    else:
        print(
            f"{path}: {header.znodes:,} znodes at slot {header.slot} of the cell {header.cell_id.hex()}, {size:,} bytes, "
            f"digest {header.digest.hex()}"
        )


def _fetch(address: str, fd: int, timeout: float) -> int:
    """Ask for the backup and write it down as it comes; how long it is."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request("POST", "/operator/backup", "{}", {"Content-Type": "application/json"})
        with _told("the replica writes a snapshot ..."):
            answer = connection.getresponse()
        if answer.status != 200:
            text = str(json.loads(answer.read()).get("error", f"HTTP status {answer.status}"))
            raise RefusedByCell(text) if answer.status == 409 else OutcomeUnknown(f"{text}; there is no backup")
        promised, size, told_at = int(answer.headers["Content-Length"]), 0, 0.0
        while part := answer.read(PART_BYTES):
            os.write(fd, part)
            # Perhaps a replica's log is on this disk too: hundreds of megabytes at once would hold up every write of it.
            os.fdatasync(fd)
            size += len(part)
            if sys.stderr.isatty() and time.monotonic() - told_at > 0.1:
                told_at = time.monotonic()
                sys.stderr.write(f"\r\x1b[K{size / 1e6:,.0f} of {promised / 1e6:,.0f} MB")
    except (ValueError, http.client.HTTPException, ConnectionError, TimeoutError) as failure:
        raise OutcomeUnknown(f"the replica at {address} broke off ({failure!r}); there is no backup") from failure
    finally:
        connection.close()
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
    if size != promised:
        raise OutcomeUnknown(f"the replica at {address} broke off after {size:,} of {promised:,} bytes; no backup")
    return size


@contextlib.contextmanager
def _written(path: Path) -> Iterator[int]:
    """A new file that is durable at the end."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as failure:
        raise UserError(f"{path.parent} cannot be written to: {failure.strerror}") from failure
    try:
        yield fd
        os.fsync(fd)
    except OSError as failure:
        raise UserError(f"{path.parent} cannot hold the backup: {failure.strerror}") from failure
    finally:
        os.close(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _told(text: str) -> Iterator[None]:
    """A line on a terminal while something lasts."""
    if sys.stderr.isatty():
        sys.stderr.write(text)
    yield
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


@contextlib.contextmanager
def opened_backup(path: str, *, called: str | None = None) -> Iterator[tuple[BackupReader, Summary]]:
    """A backup file that was read to its end and is sound; its chunks can be read again.

    Args:
        path: of the file.
        called: what messages call it, when the path says nothing to the user.

    Raises:
        UserError: it cannot be read, is no backup, or is of a newer version.
        Damaged: it is not as it was written.
    """
    from synod.storage import BackupReader
    from synod.tree import UnknownCommand, summarize

    called = called or path
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as failure:
        raise UserError(f"{called} cannot be read: {failure.strerror}") from failure
    try:
        try:
            reader = BackupReader(lambda at, size: os.pread(fd, size, at), os.fstat(fd).st_size, called)
            summary = summarize(reader.chunks())
        except UnknownCommand as newer:
            raise UserError(f"{called} was written by a newer synod: {newer}") from newer
        except Corruption as damage:
            text = str(damage)
            raise Damaged(text if called in text else f"{called}: {text}") from damage
        except OSError as failure:
            raise UserError(f"{called} cannot be read: {failure.strerror}") from failure
        if summary.digest != int.from_bytes(reader.header.digest, "big"):
            raise Damaged(f"{called}: the digest of its state is not the one that the cell agreed on")
        yield reader, summary
    finally:
        os.close(fd)


# -- looking --------------------------------------------------------------------------------------------------


def verify(path: str, *, as_json: bool) -> int:
    """Check a backup or a data directory, and change nothing; the exit code.

    Raises:
        UserError: it is neither, or is in use.
    """
    if Path(path).is_dir():
        return _verify_directory(path, as_json=as_json)
    damage: list[str] = []
    facts: dict[str, object] = {"file": path}
    try:
        with opened_backup(path) as (reader, summary):
            header = reader.header
            facts |= {
                "cell_id": header.cell_id.hex(),
                "slot": header.slot,
                "zxid": header.zxid,
                "znodes": header.znodes,
                "sessions": summary.sessions,
                "bytes": Path(path).stat().st_size,
                "digest": header.digest.hex(),
            }
            text = f"{header.znodes:,} znodes at slot {header.slot} of the cell {header.cell_id.hex()}"
    except Damaged as found:
        damage.append(str(found))
        text = ""
    return _verdict(path, facts, text, damage, as_json=as_json)


def _verify_directory(path: str, *, as_json: bool) -> int:
    from synod.storage import RealFileSystem, verify_directory
    from synod.tree import Summary, UnknownCommand, summarize

    directory = str(Path(path) / "data") if (Path(path) / "synod.toml").exists() else path
    try:
        found = verify_directory(RealFileSystem(read_only=True), directory, summarize)
    except UnknownCommand as newer:
        raise UserError(f"{directory} was written by a newer synod: {newer}") from newer
    facts: dict[str, object] = {"directory": directory}
    text = ""
    if found.identity is not None:
        snapshots = {
            slot: {"znodes": one.znodes - 1, "digest": one.digest.to_bytes(16, "big").hex()}
            for slot, one in found.snapshots.items()
            if isinstance(one, Summary)
        }
        facts |= {
            "cell_id": found.identity.cell_id,
            "id": found.identity.replica_id,
            "segments": found.segments,
            "records": found.records,
            "slots": found.slots,
            "snapshots": snapshots,
        }
        text = (
            f"replica {found.identity.replica_id} of the cell {found.identity.cell_id}, {found.records:,} records in "
            f"{found.segments} log segments, snapshots of the slots {', '.join(map(str, snapshots)) or '(none)'}"
        )
    return _verdict(directory, facts, text, found.damage, as_json=as_json)


def _verdict(path: str, facts: dict[str, object], text: str, damage: list[str], *, as_json: bool) -> int:
    if as_json:
        print_json(facts | {"sound": not damage, "damage": damage})
    elif not damage:
        print(f"sound: {path}: {text}")
    for sentence in damage:
        complain(sentence)
    return REFUSED if damage else DONE
