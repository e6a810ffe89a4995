"""The first packet of a connection, either way, and the authentication packet.

The `readOnly` byte is absent from clients up to ZooKeeper 3.3, and then from the reply as well.
"""

from __future__ import annotations

from typing import NamedTuple

from ._jute import Reader, pack_bool, pack_buffer, pack_int, pack_long, pack_string

PASSWORD_BYTES = 16


class ConnectRequest(NamedTuple):
    """Open a session (`session_id` 0), or attach to one by its id and password. Timeout in milliseconds."""

    last_zxid_seen: int
    timeout_ms: int
    session_id: int
    password: bytes
    read_only: bool | None = False


class ConnectResponse(NamedTuple):
    """The session; `timeout_ms` 0 says that it is over, or that the password is wrong."""

    timeout_ms: int
    session_id: int
    password: bytes
    read_only: bool | None = False


class AuthRequest(NamedTuple):
    """Credentials of a scheme."""

    scheme: str
    auth: bytes


def encode_connect_request(request: ConnectRequest) -> bytes:
    """The record, without its length."""
    tail = b"" if request.read_only is None else pack_bool(request.read_only)
    return b"".join(
        (
            pack_int(0),
            pack_long(request.last_zxid_seen),
            pack_int(request.timeout_ms),
            pack_long(request.session_id),
            pack_buffer(request.password),
            tail,
        )
    )


def decode_connect_request(data: bytes) -> ConnectRequest:
    """The inverse of `encode_connect_request`.

    Raises:
        RemoteProtocolError: the bytes are no connect request.
    """
    reader = Reader(data)
    reader.take_int()
    zxid, timeout_ms, session = reader.take_long(), reader.take_int(), reader.take_long()
    password = reader.take_buffer() or b""
    return ConnectRequest(zxid, timeout_ms, session, password, reader.take_bool() if reader.left else None)


def encode_connect_response(timeout_ms: int, session_id: int, password: bytes, read_only: bool | None) -> bytes:
    """The record, without its length; `read_only` None leaves the byte out, for old clients."""
    tail = b"" if read_only is None else pack_bool(read_only)
    return pack_int(0) + pack_int(timeout_ms) + pack_long(session_id) + pack_buffer(password) + tail


def decode_connect_response(data: bytes) -> ConnectResponse:
    """The inverse of `encode_connect_response`.

    Raises:
        RemoteProtocolError: the bytes are no connect response.
    """
    reader = Reader(data)
    reader.take_int()
    timeout_ms, session = reader.take_int(), reader.take_long()
    password = reader.take_buffer() or b""
    return ConnectResponse(timeout_ms, session, password, reader.take_bool() if reader.left else None)


def encode_auth_request(scheme: str, auth: bytes) -> bytes:
    """The record of an authentication packet."""
    return pack_int(0) + pack_string(scheme) + pack_buffer(auth)


def decode_auth_request(data: bytes) -> AuthRequest:
    """The inverse of `encode_auth_request`.

    Raises:
        RemoteProtocolError: the bytes are no authentication packet.
    """
    reader = Reader(data)
    reader.take_int()
    return AuthRequest(reader.take_string(), reader.take_buffer() or b"")
