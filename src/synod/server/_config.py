"""A replica's configuration file: TOML in, a checked value out.

Unknown and missing keys are refused by name; nothing is guessed.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from synod.base import MILLISECOND, ConfigError, Configuration, Member
from synod.replica import PaxosOptions, ReplicaOptions

ReadMode = Literal["linearizable", "sequential"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a socket listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one replica will bear.

    Args:
        connections: client connections in all; further ones are closed at once.
        connections_per_address: of one client address.
        outstanding: requests of one connection that are under way; further ones wait in its socket.
        write_buffer_bytes: replies that a client does not read; then its connection is closed.
        snapshot_log_bytes: growth of the log on the disk after which a snapshot is taken.
    """

    connections: int = 20_000
    connections_per_address: int = 20_000
    outstanding: int = 4_096
    write_buffer_bytes: int = 16 << 20
    snapshot_log_bytes: int = 128 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a replica is told from outside.

    Args:
        peers: the first configuration of the cell; who joins later is not in it.
        contacts: members to call instead of `peers`, until the replica knows its cell's members itself.
        incarnation: which life of its id this is; `synod member` says so when there is a second one.
        backup: if the cell began with one, the digest of its state: part of the first configuration.
        begins_at: the slot of that backup.
        io_uring: whether the log may be written through it, where the kernel and the file system can.

    Raises:
        ConfigError: something is missing, unknown, or contradicts itself; the text names it.
    """

    id: int
    cell_id: str
    data_dir: str
    client: Address
    peer: Address
    http: Address | None
    peers: tuple[Member, ...]
    contacts: tuple[Member, ...] = ()
    incarnation: int = 1
    backup: str = ""
    begins_at: int = 0
    reads: ReadMode = "linearizable"
    timeout_ms_min: int = 4_000
    timeout_ms_max: int = 60_000
    heartbeat_ms: int = 100
    election_timeout_ms: int = 500
    limits: Limits = field(default_factory=Limits)
    io_uring: bool = True
    recorder_bytes: int = 0
    """For recordings of this replica's inputs, `synod replay`; 0 is none."""

    @property
    def configuration(self) -> Configuration:
        """The first configuration of the cell."""
        members = tuple(sorted(self.peers))
        return Configuration(self.cell_id, members, backup=self.backup, begins_at=self.begins_at)

    @property
    def known_members(self) -> tuple[Member, ...]:
        """Whom a replica calls that knows nothing but this config."""
        return self.contacts or self.peers

    @property
    def options(self) -> ReplicaOptions:
        """The settings of the core."""
        return ReplicaOptions(
            paxos=PaxosOptions(
                heartbeat=self.heartbeat_ms * MILLISECOND, election_timeout=self.election_timeout_ms * MILLISECOND
            ),
            reads=self.reads,
            session_timeout_ms_min=self.timeout_ms_min,
            session_timeout_ms_max=self.timeout_ms_max,
            outstanding_requests_max=self.limits.outstanding,
            snapshot_log_bytes=self.limits.snapshot_log_bytes,
        )


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file.

    Args:
        path: the file; a relative `data_dir` is relative to it.
        overrides: `section.key=value` each, where the value is TOML, or a bare word.

    Raises:
        ConfigError: the file cannot be read or used.
    """
    try:
        text = Path(path).read_bytes().decode()
        document = tomllib.loads(text)
    except OSError as failure:
        raise ConfigError(f"the config {path} cannot be read: {failure.strerror}") from failure
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise ConfigError(f"the config {path} is not TOML: {broken}") from broken
    for override in overrides:
        apply_override(document, override)
    return parse_config(document, path)


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one key of a document from `section.key=value`.

    Raises:
        ConfigError: it is not of that form.
    """
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set wants KEY=VALUE, as in session.timeout_ms_min=1000; it got {override!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *sections, key = name.split(".")
    table = document
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {name}: {section} is not a section")
    table[key] = parsed


_TOP: Final = frozenset(
    {
        "began_with",
        "cell_id",
        "contacts",
        "data_dir",
        "id",
        "incarnation",
        "io_uring",
        "limits",
        "listen",
        "peers",
        "reads",
        "recorder",
        "session",
        "timing",
        "tls",
    }
)
_SESSION: Final = {"timeout_ms_min": (100, 3_600_000), "timeout_ms_max": (100, 3_600_000)}
_TIMING: Final = {"heartbeat_ms": (10, 10_000), "election_timeout_ms": (50, 60_000)}
_RECORDER: Final = {"bytes": (0, 1 << 40)}
_LIMITS: Final = {
    "connections": (1, 1_000_000),
    "connections_per_address": (1, 1_000_000),
    "outstanding": (1, 1_000_000),
    "write_buffer_bytes": (1 << 16, 1 << 30),
    "snapshot_log_bytes": (1 << 16, 1 << 40),
}


def parse_config(document: Mapping[str, Any], path: str) -> Config:
    """Check a document and make a configuration of it.

    Raises:
        ConfigError: see `Config`.
    """
    _demand_known(document, _TOP, path, "")
    if document.get("tls"):
        raise ConfigError(f"{path}: [tls] is reserved and not supported yet; remove the section and stay on loopback")
    id_ = _integer(document, "id", path, 1, 255)
    listen = _table(document, "listen", path)
    _demand_known(listen, frozenset({"client", "peer", "http"}), path, "listen.")
    client = _address(listen, "client", path, "listen.")
    peer = _address(listen, "peer", path, "listen.")
    http = _address(listen, "http", path, "listen.") if "http" in listen else None
    members = _members(document, path, "peers")
    if "incarnation" not in document and id_ not in [member.id for member in members]:
        raise ConfigError(
            f"{path}: [[peers]] does not list this replica's own id {id_}; one that joins later states its "
            f"incarnation, as in the config that `synod member add` prints"
        )
    reads = document.get("reads", "linearizable")
    if reads not in ("linearizable", "sequential"):
        raise ConfigError(f'{path}: reads is "linearizable" or "sequential", not {reads!r}')
    io_uring = document.get("io_uring", True)
    if not isinstance(io_uring, bool):
        raise ConfigError(f"{path}: io_uring is true or false, not {io_uring!r}")
    began = document.get("began_with")
    if began is not None:
        _demand_known(_table(document, "began_with", path), frozenset({"backup", "slot"}), path, "began_with.")
    session = _numbers(document, "session", _SESSION, path)
    timing = _numbers(document, "timing", _TIMING, path)
    limits = _numbers(document, "limits", _LIMITS, path)
    config = Config(
        id=id_,
        cell_id=_string(document, "cell_id", path),
        data_dir=str(Path(path).parent / _string(document, "data_dir", path)),
        client=client,
        peer=peer,
        http=http,
        peers=members,
        contacts=_members(document, path, "contacts") if "contacts" in document else (),
        backup="" if began is None else _string(began, "backup", path, "began_with."),
        begins_at=0 if began is None else _integer(began, "slot", path, 1, 1 << 62, "began_with."),
        incarnation=_integer({"incarnation": 1, **document}, "incarnation", path, 1, 1 << 30),
        reads=reads,
        limits=Limits(**limits),
        io_uring=io_uring,
        recorder_bytes=_numbers(document, "recorder", _RECORDER, path).get("bytes", 0),
        **session,
        **timing,
    )
    if config.timeout_ms_min > config.timeout_ms_max:
        raise ConfigError(f"{path}: session.timeout_ms_min is larger than session.timeout_ms_max")
    if config.election_timeout_ms < 3 * config.heartbeat_ms:
        raise ConfigError(f"{path}: timing.election_timeout_ms is less than three times timing.heartbeat_ms")
    try:
        config.configuration  # noqa: B018 -- making it checks it
    except ConfigError as wrong:
        raise ConfigError(f"{path}: {wrong}") from wrong
    return config


def _members(document: Mapping[str, Any], path: str, key: str) -> tuple[Member, ...]:
    peers = document.get(key)
    if not isinstance(peers, list) or not peers:
        raise ConfigError(f"{path}: [[{key}]] is missing; it lists the id and address of every replica of the cell")
    members = []
    for peer in peers:
        if not isinstance(peer, dict):
            raise ConfigError(f"{path}: [[{key}]] holds tables with id and address")
        _demand_known(peer, frozenset({"id", "address"}), path, f"{key}.")
        address = _address(peer, "address", path, f"{key}.")
        members.append(Member(_integer(peer, "id", path, 1, 255, f"{key}."), str(address)))
    return tuple(members)


def _demand_known(table: Mapping[str, Any], known: frozenset[str], path: str, prefix: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {prefix}{key}; known are {', '.join(sorted(known))}")


def _table(document: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
    table = document.get(key)
    if table is None:
        raise ConfigError(f"{path}: the section [{key}] is missing")
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {key} is a section, not {table!r}")
    return table


def _string(document: Mapping[str, Any], key: str, path: str, prefix: str = "") -> str:
    value = document.get(key)
    if value is None:
        raise ConfigError(f"{path}: the key {prefix}{key} is missing")
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{path}: {prefix}{key} is a string, not {value!r}")
    return value


def _integer(document: Mapping[str, Any], key: str, path: str, low: int, high: int, prefix: str = "") -> int:
    value = document.get(key)
    if value is None:
        raise ConfigError(f"{path}: the key {prefix}{key} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{path}: {prefix}{key} is a whole number from {low} to {high}, not {value!r}")
    return value


def _numbers(
    document: Mapping[str, Any], section: str, known: Mapping[str, tuple[int, int]], path: str
) -> dict[str, int]:
    table = document.get(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {section} is a section, not {table!r}")
    _demand_known(table, frozenset(known), path, f"{section}.")
    return {key: _integer(table, key, path, *known[key], f"{section}.") for key in table}


def joining_config(
    member: Member, first: Configuration, known: Configuration, config: Config, *, client: str | None, http: str | None
) -> str:
    """The config of a replica that joins, as the leader, with its own `config`, would write it.

    The cell knows where its members' peers reach them and nothing else: a `client` or `http` that nobody named is left
    to be filled in, and until then the config is refused.
    """

    def tables(key: str, members: Sequence[Member]) -> list[str]:
        return [f'[[{key}]]\nid = {m.id}\naddress = "{m.address}"\n' for m in members]

    def section(name: str, **values: int) -> list[str]:
        return [f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())]

    def listens(key: str, address: str | None) -> str:
        if address is not None:
            return f'{key} = "{address}"\n'
        host = member.address.rpartition(":")[0]
        return f'{key} = "{host}:PORT"  # fill in: the cell does not know it, and --{key} did not say it\n'

    head = (
        f'id = {member.id}\ncell_id = "{known.cell_id}"\n'
        f'data_dir = "replica-{member.id}"  # beside this file; any that does not exist yet will do\n'
        f'incarnation = {member.incarnation}\nreads = "{config.reads}"\n'
    )
    listen = f"[listen]\n{listens('client', client)}{listens('peer', member.address)}{listens('http', http)}"
    others = [other for other in known.members if other.id != member.id]
    return "\n".join(
        [
            head,
            listen,
            *section("session", timeout_ms_min=config.timeout_ms_min, timeout_ms_max=config.timeout_ms_max),
            *section("timing", heartbeat_ms=config.heartbeat_ms, election_timeout_ms=config.election_timeout_ms),
            *([f'[began_with]\nbackup = "{first.backup}"\nslot = {first.begins_at}\n'] if first.backup else []),
            *tables("peers", first.members),
            *tables("contacts", others),
        ]
    )


def checked_address(text: str, what: str) -> str:
    """An address that somebody typed, as HOST:PORT on loopback.

    Raises:
        ConfigError: it is not one; the text says what is wrong with `what`.
    """
    return str(_address({what: text}, what, "the request", ""))


def _address(table: Mapping[str, Any], key: str, path: str, prefix: str) -> Address:
    text = _string(table, key, path, prefix)
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{path}: {prefix}{key} is HOST:PORT, not {text!r}")
    if not is_loopback(host):
        raise ConfigError(
            f"{path}: {prefix}{key} = {text} leaves loopback; without TLS, which is not supported yet, "
            f"synod listens and connects on 127.0.0.0/8 or ::1 only"
        )
    return Address(host, int(port))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by name or number, without asking anybody."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
