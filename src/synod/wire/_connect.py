"""The first packet of a connection, either way, and the authentication packet.

The `readOnly` byte is absent from clients up to ZooKeeper 3.3, and then from the reply as well.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ._codes import OP_AUTH
from ._jute import Reader, pack_bool, pack_buffer, pack_int, pack_long, pack_string

PASSWORD_BYTES: Final = 16
PROTOCOL_VERSION: Final = 0


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
    """Credentials of a scheme; sent with XID_AUTH."""

    scheme: str
    auth: bytes

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_AUTH

    def encode(self) -> bytes:
        """The record: a type that is always 0, the scheme, the credentials."""
        return pack_int(0) + pack_string(self.scheme) + pack_buffer(self.auth)


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


def decode_auth(reader: Reader) -> AuthRequest:
    """Read an authentication packet.

    Raises:
        RemoteProtocolError: malformed.
    """
    reader.take_int()
    return AuthRequest(reader.take_string(), reader.take_buffer() or b"")


def decode_auth_request(data: bytes) -> AuthRequest:
    """Read an authentication packet's record.

    Raises:
        RemoteProtocolError: malformed.
    """
    return decode_auth(Reader(data))
