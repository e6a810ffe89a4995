"""The flight recorder: every input of a replica, written down, so that `synod replay` can do it all again.

A `Replica` is deterministic: what it does follows from what it was started with and from its inputs, in order. So a
recording is the start, and the calls, with a running hash of what came out. It begins with the process, as nothing but
a start from the disk can be repeated exactly, and ends when its share of the configured bytes is used up.

A recording holds what clients sent: values, passwords of sessions, credentials. It is readable for its owner only, as
the data directory is.

The file: `MAGIC`, the format's number, and frames of (length, CRC, payload). The first frame is the start. Every other
one holds the calls since the last frame, each a list of (index in `INPUTS`, arguments...), and at its end the hash of
all outputs so far. A frame is written before its outputs leave, so that a killed process has recorded what others saw.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import random
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from struct import Struct
from typing import Any, Final
from zlib import crc32

from synod import __version__
from synod.base import Ballot, Change, Entry, RemoteProtocolError
from synod.replica import Hello, Ready, Recovered, Replica, decode_message, encode_message

logger = logging.getLogger("synod.server")

MAGIC: Final = b"SYNODREC"
FORMAT: Final = 1
SUFFIX: Final = ".synodrec"
FRAME: Final = Struct(">II")
HASH_BYTES: Final = 8

INPUTS: Final = (
    "secret",  # no call: what was drawn for the session whose bytes come next
    "check_hello",
    "peer_connected",
    "peer_closed",
    "step",
    "client_opened",
    "client_data",
    "client_closed",
    "persisted",
    "log_read",
    "snapshot_saved",
    "snapshot_read",
    "transfer_written",
    "snapshot_installed",
    "snapshot_refused",
    "tick",
    "hand_over",
    "abstain",
    "change_members",
    "begin_backup",
    "end_backup",
    "forgotten",
    "ready",  # the last one: with the hash of everything that came out so far
)

_INT: Final = Struct(">cq")
_LENGTH: Final = Struct(">cI")
_WRITE: Final = Struct(">QQBQI")
_ENTRY: Final = Struct(">QQBI")
_PIECE: Final = Struct(">BqqI")


# -- values ------------------------------------------------------------------------------------------------------


def put(out: list[bytes], value: object) -> None:
    """Append the encoding of a value that a replica is called with."""
    if type(value) is int:
        if -(1 << 63) <= value < 1 << 63:
            out.append(_INT.pack(b"i", value))
        else:
            put(out, [b"int", str(value)])
    elif type(value) is bytes:
        out.append(_LENGTH.pack(b"b", len(value)))
        out.append(value)
    elif type(value) is str:
        data = value.encode()
        out.append(_LENGTH.pack(b"s", len(data)))
        out.append(data)
    elif value is None or type(value) is bool:
        out.append(b"N" if value is None else b"T" if value else b"F")
    elif isinstance(value, Hello):
        put(out, [b"hello", encode_message(value)])
    elif isinstance(value, Change):
        put(out, [b"change", value.encode()])
    elif isinstance(value, list | tuple):
        out.append(_LENGTH.pack(b"l", len(value)))
        for item in value:
            put(out, item)
    elif isinstance(value, bytearray | memoryview):
        put(out, bytes(value))
    else:
        raise TypeError(f"the recorder has no encoding for {type(value).__name__}")


def take(data: bytes, at: int) -> tuple[Any, int]:
    """Read a value; returns it and where the next one begins.

    Raises:
        RemoteProtocolError: there is none there.
    """
    kind = data[at : at + 1]
    if kind == b"i":
        return _INT.unpack_from(data, at)[1], at + _INT.size
    if kind in (b"N", b"T", b"F"):
        return {b"N": None, b"T": True, b"F": False}[kind], at + 1
    if kind not in (b"b", b"s", b"l"):
        raise RemoteProtocolError(f"byte {at} of a record begins no value")
    length = _LENGTH.unpack_from(data, at)[1]
    at += _LENGTH.size
    if kind == b"l":
        items = []
        for _ in range(length):
            item, at = take(data, at)
            items.append(item)
        return _special(items), at
    chunk = data[at : at + length]
    return chunk if kind == b"b" else chunk.decode(), at + length


def _special(items: list[Any]) -> object:
    if len(items) == 2:
        match items[0]:
            case b"hello":
                return decode_message(items[1])
            case b"change":
                return Change.decode(items[1])
            case b"int":
                return int(items[1])
    return items


def entries_of(rows: Iterable[Iterable[Any]]) -> tuple[Entry, ...]:
    """Entries of the log, as they come out of a recording."""
    return tuple(Entry(slot, Ballot(*ballot), value) for slot, ballot, value in rows)


class OutputHash:
    """A running hash of everything that a replica asks its host to do."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=HASH_BYTES)

    def add(self, ready: Ready) -> bytes:
        """The hash, with this."""
        update = self._hash.update
        for write in ready.writes:
            promised = write.promised
            update(_WRITE.pack(write.id, promised.round, promised.replica, write.chosen_mark, len(write.entries)))
            for entry in write.entries:
                update(_ENTRY.pack(entry.slot, entry.ballot.round, entry.ballot.replica, len(entry.value)))
                update(entry.value)
            update(write.peers)
        for peer, message, bulk in ready.messages:
            update(_PIECE.pack(1, peer, bulk, len(message)))
            update(message)
        for conn, data in ready.client_output:
            update(_PIECE.pack(2, conn, 0, len(data)))
            update(data)
        for conn, reason in ready.client_closes:
            update(_PIECE.pack(3, conn, 0, len(reason)))
        for conn, pause in ready.client_pauses:
            update(_PIECE.pack(4, conn, pause, 0))
        for log_read in ready.log_reads:
            update(_PIECE.pack(5, log_read.id, log_read.from_slot, log_read.bytes_max))
        for chunk in ready.snapshot_writes:
            update(_PIECE.pack(6, chunk.slot, chunk.first | chunk.last << 1, len(chunk.chunk)))
            update(chunk.chunk)
        for snapshot_read in ready.snapshot_reads:
            update(_PIECE.pack(7, snapshot_read.slot, snapshot_read.offset, snapshot_read.bytes_max))
        for transfer in ready.transfer_writes:
            update(_PIECE.pack(10, transfer.slot, transfer.offset, len(transfer.data)))
        if ready.snapshot_install is not None:
            update(_PIECE.pack(8, ready.snapshot_install.slot, 0, 0))
        for note in ready.notes:
            update(note.text.encode())
        for peer in ready.peer_closes:
            update(_PIECE.pack(9, peer, 0, 0))
        update(b"M" if ready.more else b"." if ready.stop is None else b"S")
        return self._hash.digest()


# -- writing -----------------------------------------------------------------------------------------------------


class Recorder:
    """Writes one life of a replica down; `record` puts it between the replica and its host.

    Args:
        directory: the replica's data directory.
        bytes_max: for all recordings in it: half for this one, half for those of earlier lives.
        boot: which life this is.
    """

    def __init__(self, directory: str, bytes_max: int, boot: int) -> None:
        self.seed = secrets.randbits(64)
        self.path = Path(directory) / f"recording-{boot:08d}{SUFFIX}"
        self._left = bytes_max // 2
        self._file: int | None = None
        self._parts: list[bytes] = []
        self._outputs = OutputHash()
        self._make_room(Path(directory), bytes_max // 2)

    def _make_room(self, directory: Path, bytes_max: int) -> None:
        """Delete the oldest recordings of earlier lives."""
        earlier = sorted(directory.glob(f"recording-*{SUFFIX}"))
        sizes = {path: path.stat().st_size for path in earlier}
        while earlier and sum(sizes[path] for path in earlier) > bytes_max:
            earlier.pop(0).unlink()

    def rng(self) -> random.Random:
        """Chance that a replay can draw again."""
        return random.Random(self.seed)

    def draw_secret(self, count: int) -> bytes:
        """Unpredictable bytes, written down."""
        drawn = secrets.token_bytes(count)
        self.call(0, (drawn,))
        return drawn

    def begin(self, start: dict[str, object]) -> None:
        """Write the start: what `Replica` was made from."""
        parts: list[bytes] = []
        put(parts, [item for pair in start.items() for item in pair])
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            self._write(MAGIC + FORMAT.to_bytes(2, "big"))
        except OSError as failure:
            self._end(f"cannot be written: {failure.strerror}")
            return
        self._frame(parts)

    def record(self, replica: Replica) -> _Recorded:
        """What is to be told instead of the replica: it has a method for each of its inputs, and `ready`."""
        return _Recorded(self, replica)

    def call(self, index: int, arguments: tuple[object, ...]) -> None:
        """A call is about to be made."""
        if self._file is not None:
            put(self._parts, (index, *arguments))

    def done(self, ready: Ready) -> None:
        """This is about to leave."""
        if self._file is not None:
            put(self._parts, (len(INPUTS) - 1, self._outputs.add(ready)))
            parts, self._parts = self._parts, []
            self._frame(parts)

    def close(self) -> None:
        """The replica's life is over."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _frame(self, parts: list[bytes]) -> None:
        payload = b"".join(parts)
        if len(payload) + FRAME.size > self._left:
            self._end("has used up its bytes: what happens from now on is not recorded ([recorder] bytes)")
            return
        try:
            self._write(FRAME.pack(len(payload), crc32(payload)) + payload)
        except OSError as failure:
            self._end(f"cannot be written: {failure.strerror}")

    def _write(self, data: bytes) -> None:
        if self._file is not None:
            self._left -= len(data)
            while data:
                data = data[os.write(self._file, data) :]

    def _end(self, why: str) -> None:
        """A recording is a convenience: without it the replica goes on."""
        logger.warning("the recording %s %s", self.path, why)
        self.close()
        self._parts.clear()


class _Recorded:
    """A replica whose inputs are written down before it has them, and its outputs before anybody else has them."""

    def __init__(self, recorder: Recorder, replica: Replica) -> None:
        self._recorder = recorder
        self._replica = replica
        for index, name in enumerate(INPUTS[1:-1], 1):
            setattr(self, name, self._writing(index, getattr(replica, name)))

    def _writing(self, index: int, call: Callable[..., object]) -> Callable[..., object]:
        write = self._recorder.call

        def written(*arguments: object) -> object:
            write(index, arguments)
            return call(*arguments)

        return written

    def ready(self) -> Ready:
        ready = self._replica.ready()
        self._recorder.done(ready)
        return ready


def start_of(
    *, replica: dict[str, Any], recovered: Recovered, seed: int, chunks: Iterable[bytes] | None, fresh_zxid: int
) -> dict[str, object]:
    """Everything that a replay needs to make the replica again, and to know whether it can.

    Args:
        replica: the arguments of `Replica`, of which those that are written otherwise are left out.
        recovered: what the log gave back.
        seed: of the replica's chance.
        chunks: of the snapshot that its tree was restored from; None when there was none.
        fresh_zxid: where the zxid of its tree began if it was a new one.
    """
    return {
        "version": __version__,
        "id": replica["id"],
        "configuration": replica["configuration"].encode(),
        "incarnation": replica["incarnation"],
        "disk": replica["disk"],
        "options": json.dumps(dataclasses.asdict(replica["options"])),
        "boot": replica["boot"],
        "now": replica["now"],
        "wall_ms": replica["wall_ms"],
        "seed": seed,
        "fresh_zxid": fresh_zxid,
        "snapshot": None if chunks is None else list(chunks),
        "promised": recovered.promised,
        "entries": recovered.entries,
        "chosen_mark": recovered.chosen_mark,
        "log_start": recovered.log_start,
        "unknown": sorted(recovered.unknown),
        "snapshot_slot": recovered.snapshot_slot,
        "peers": recovered.peers,
        "lost_upto": recovered.lost_upto,
    }
