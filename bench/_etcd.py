"""etcd's own protocol, gRPC over HTTP/2, just enough of it to load a server.

Requests are HTTP/2 frames that were built before, but for their stream id; of the answers only frame headers are
looked at. A general HTTP/2 or gRPC library in Python would cost more than etcd itself, and measure the client.

Ref: RFC 9113 (frames), RFC 7541 appendix A (static header table), gRPC over HTTP2; rpc.proto of etcd 3.4.
"""

from __future__ import annotations

import contextlib
import random
import struct
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Final

from ._load import RECEIVE_BYTES, connect

KEYS: Final = 16
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INITIAL_WINDOW: Final = 4  # of SETTINGS
WINDOW: Final = 2**31 - 1
LEASE_S: Final = 60

Script = Iterator[tuple[str, bytes, bool]]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(kind, flags, payload) of the whole frames in what was received."""
    at = 0
    while len(data) - at >= 9:
        length = int.from_bytes(data[at : at + 3], "big")
        if len(data) - at - 9 < length:
            return
        yield data[at + 3], data[at + 4], data[at + 9 : at + 9 + length]
        at += 9 + length


def field(number: int, value: bytes | int) -> bytes:
    """A protobuf field."""
    if isinstance(value, int):
        return bytes([number << 3]) + _varint(value)
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data: bytes) -> dict[int, bytes | int]:
    """The fields of a protobuf message; of repeated ones the last."""
    found: dict[int, bytes | int] = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        if tag & 7 == 0:
            found[tag >> 3], at = _read_varint(data, at)
        else:
            size, at = _read_varint(data, at)
            found[tag >> 3] = data[at : at + size]
            at += size
    return found


def header_block(path: str) -> bytes:
    """The request headers, all literal: no state is shared between requests."""

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    encoded = path.encode()
    return (
        b"\x83\x86\x04" + bytes([len(encoded)]) + encoded + b"\x01\x09127.0.0.1"
        + literal(b"content-type", b"application/grpc") + literal(b"te", b"trailers")
    )  # fmt: skip


class EtcdClient:
    """One HTTP/2 connection; each request is a stream of its own.

    Args:
        port: of the server.
        index: of this client; its keys are its own.
        value: what it writes.
        mode: a key of `MODES`, or what to do.
    """

    def __init__(self, port: int, index: int, value: bytes, mode: str | Callable[[EtcdClient], Script]) -> None:
        self.sock = connect(port)
        self._index = index
        self.value = value
        self._stream = -1
        self._sent: dict[int, tuple[float, bool]] = {}
        self._answered: set[int] = set()
        self._buffer = b""
        self._headers: dict[str, bytes] = {}
        self.answer = b""
        self.lease = 0
        self._script = MODES[mode](self) if isinstance(mode, str) else mode(self)
        self.sock.sendall(
            PREFACE
            + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, WINDOW))
            + frame(8, 0, 0, struct.pack(">I", WINDOW - 65_535))
        )

    def key(self, number: int) -> bytes:
        """One of this client's keys."""
        return b"bench/c%04d-%02d" % (self._index, number % KEYS)

    def request(self, path: str, message: bytes, *, stays_open: bool = False) -> bytes:
        """The frames of one request on a stream of its own; one that stays open is for a stream of answers."""
        self._stream += 2
        block = self._headers.get(path)
        if block is None:
            block = self._headers[path] = header_block(path)
        body = b"\0" + struct.pack(">I", len(message)) + message
        flags = 0 if stays_open else END_STREAM
        return frame(HEADERS, END_HEADERS, self._stream, block) + frame(DATA, flags, self._stream, body)

    def _request(self, path: str, message: bytes, *, ends: bool) -> bytes:
        frames = self.request(path, message)
        self._sent[self._stream] = (time.perf_counter(), ends)
        return frames

    def next(self) -> bytes:
        """See `Client`."""
        path, message, ends = next(self._script)
        return self._request(path, message, ends=ends)

    def take(self, data: bytes, now: float, latencies: array[float]) -> int:
        """See `Client`."""
        buffer = self._buffer + data if self._buffer else data
        at, size, done = 0, len(buffer), 0
        while size - at >= 9:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if size - at - 9 < length:
                break
            kind, flags, stream = struct.unpack_from(">BBI", buffer, at + 3)
            at += 9 + length
            if kind == DATA:
                self._answered.add(stream)
                if not self._sent[stream][1]:
                    self.answer = buffer[at - length + 5 : at]
            elif kind == HEADERS and flags & END_STREAM:
                if stream not in self._answered:
                    raise RuntimeError("the server answered an error")
                self._answered.discard(stream)
                began, ends = self._sent.pop(stream)
                if ends:
                    latencies.append(now - began)
                    done += 1
                else:
                    self.sock.sendall(self.next())
            elif kind in (SETTINGS, PING) and not flags & ACK:
                payload = buffer[at - length : at] if kind == PING else b""
                self.sock.sendall(frame(kind, ACK, 0, payload))
            elif kind in (RST_STREAM, GOAWAY):
                raise RuntimeError("the server ended a stream or the connection")
        self._buffer = buffer[at:]
        return done

    def ask(self, path: str, message: bytes) -> bytes:
        """One request, before the load; its answer."""
        self.sock.sendall(self._request(path, message, ends=True))
        found = b""
        while self._sent:
            data = self.sock.recv(RECEIVE_BYTES)
            if not data:
                raise RuntimeError("the server closed the connection")
            found = self._message(self._buffer + data) or found
            self.take(data, 0.0, array("d"))
        return found

    def _message(self, data: bytes) -> bytes:
        """The message in the first whole DATA frame."""
        return next((payload[5:] for kind, _, payload in frames(data) if kind == DATA), b"")

    def prepare(self) -> None:
        """Write the keys that the load needs, and take a lease."""
        for number in range(KEYS):
            self.ask(PUT, put(self.key(number), self.value))
        granted = fields(self.ask("/etcdserverpb.Lease/LeaseGrant", field(1, LEASE_S)))
        lease = granted[2]
        assert isinstance(lease, int)
        self.lease = lease

    def waiting(self) -> bool:
        """See `Client`."""
        return bool(self._sent)

    def nudge(self) -> None:
        """See `Client`: etcd forgets nobody."""

    def close(self) -> None:
        """See `Client`; the lease takes its keys along."""
        with contextlib.suppress(OSError, RuntimeError):
            self.sock.settimeout(1.0)
            if self.lease and not self._sent:
                self.ask("/etcdserverpb.Lease/LeaseRevoke", field(1, self.lease))
        self.sock.close()


PUT: Final = "/etcdserverpb.KV/Put"
RANGE: Final = "/etcdserverpb.KV/Range"
DELETE_RANGE: Final = "/etcdserverpb.KV/DeleteRange"
TXN: Final = "/etcdserverpb.KV/Txn"


def put(key: bytes, value: bytes) -> bytes:
    """A PutRequest."""
    return field(1, key) + field(2, value)


def _writes(client: EtcdClient) -> Script:
    messages = [put(client.key(number), client.value) for number in range(KEYS)]
    while True:
        for message in messages:
            yield PUT, message, True


def _reads(client: EtcdClient, *, serializable: bool = True) -> Script:
    option = field(7, 1) if serializable else b""
    messages = [field(1, client.key(number)) + option for number in range(KEYS)]
    while True:
        for message in messages:
            yield RANGE, message, True


def _linearizable_reads(client: EtcdClient) -> Script:
    return _reads(client, serializable=False)


def _mixed(client: EtcdClient) -> Script:
    rng, reads, writes = random.Random(client.key(0)), _reads(client), _writes(client)
    while True:
        yield next(reads) if rng.random() < 0.9 else next(writes)


def _create_delete(client: EtcdClient) -> Script:
    """With the session's lease, as an ephemeral znode."""
    number = 0
    while True:
        key = client.key(0) + b"-%d" % number
        number += 1
        yield PUT, put(key, client.value) + field(3, client.lease), True
        yield DELETE_RANGE, field(1, key), True


def _multi(client: EtcdClient) -> Script:
    """Ten writes in one transaction: TxnRequest.success = 2, RequestOp.request_put = 2."""
    message = b"".join(field(2, field(2, put(client.key(number), client.value))) for number in range(10))
    while True:
        yield TXN, message, True


def _lock(client: EtcdClient) -> Script:
    """Its lock service, on a lock that nobody else wants. One cycle counts."""
    name = client.key(0) + b"-lock"
    while True:
        yield "/v3lockpb.Lock/Lock", field(1, name) + field(2, client.lease), False
        key = fields(client.answer)[2]
        assert isinstance(key, bytes)
        yield "/v3lockpb.Lock/Unlock", field(1, key), True


MODES: Final[dict[str, Callable[[EtcdClient], Script]]] = {
    "write": _writes,
    "read": _reads,
    "read linearizable": _linearizable_reads,
    "mixed": _mixed,
    "create delete": _create_delete,
    "multi": _multi,
    "lock": _lock,
}
