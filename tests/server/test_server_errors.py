"""What a user can get wrong: one sentence that names it, exit code 2, and nothing lost."""

from __future__ import annotations

import copy
import ctypes
import json
import os
import tempfile
import zlib
from pathlib import Path

import pytest
from bench.peers import format_replica, free_ports

from _cells import Replica, config_document, contents, listening, says_ok, sentence, synod, write_config
from synod.cli import main
from synod.server import load_config
from synod.storage import Identity, RealFileSystem, format_directory

LIBC = ctypes.CDLL(None)
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
SOMEBODY = 65534

OTHER_CELL = "00112233445566778899aabbccddeeff"


@pytest.fixture
def document(tmp_path):
    """The config of a replica, as a document."""
    return config_document(tmp_path)


@pytest.fixture
def formatted(tmp_path, document):
    """A config whose directory has its identity, and a user's file beside it."""
    config = write_config(tmp_path / "replica.toml", document)
    loaded = load_config(str(config))
    format_directory(RealFileSystem(), loaded.data_dir, Identity(1, 1, loaded.configuration))
    return config


def refused(config: Path, *settings: str, **options) -> str:
    """What `synod serve` says when it does not: exit code 2, one sentence, and no file changed."""
    before = contents(config.parent)
    done = synod("serve", str(config), *(part for setting in settings for part in ("--set", setting)), **options)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert contents(config.parent) == before
    return sentence(done.stderr)


@pytest.mark.parametrize("which", ["client", "peer", "http"])
def test_a_port_in_use_is_named_and_nothing_begins(formatted, document, which):
    """A port that another process has is named; the directory has not even counted the start."""
    with listening() as port:
        said = refused(formatted, f"listen.{which}=127.0.0.1:{port}")
    assert f"127.0.0.1:{port} is in use by another process" in said
    assert "choose another port" in said


def test_an_unformatted_directory_is_not_formatted_by_serving(tmp_path, document):
    """A replica that lost its directory must not begin anew by itself: it may have promised something."""
    config = write_config(tmp_path / "replica.toml", document)
    said = refused(config)
    assert "does not exist; `synod format CONFIG` makes and formats it, once" in said
    (tmp_path / "data").mkdir()
    said = refused(config)
    assert "is not formatted; `synod format CONFIG` gives it its identity, once" in said
    assert list((tmp_path / "data").iterdir()) == []


def test_a_directory_is_formatted_once(formatted):
    """Formatting again would forget what was promised; a directory that holds anything else is left alone too."""
    before = contents(formatted.parent)
    done = synod("format", str(formatted))
    assert done.returncode == 2
    assert "is formatted already; delete it first" in sentence(done.stderr)
    assert contents(formatted.parent) == before
    (formatted.parent / "data" / "identity.json").rename(formatted.parent / "data" / "thesis.txt")
    done = synod("format", str(formatted))
    assert done.returncode == 2
    assert "is not empty (thesis.txt is in it)" in sentence(done.stderr)


def test_a_directory_of_another_replica_is_refused(formatted, document):
    """Two replicas that exchange their directories would both break their promises."""
    peers = [*document["peers"], {"id": 2, "address": document["listen"]["peer"]}]
    peers[0]["address"] = f"127.0.0.1:{free_ports(1)[0]}"
    write_config(formatted, {**document, "id": 2, "peers": peers})
    said = refused(formatted)
    assert "belongs to replica 1, the config is that of replica 2; check data_dir and id" in said


def test_a_directory_of_another_cell_is_refused(formatted, document):
    """A log of another cell would be taken for this one's."""
    write_config(formatted, {**document, "cell_id": OTHER_CELL})
    said = refused(formatted)
    assert f"belongs to the cell {document['cell_id']}, the config names the cell {OTHER_CELL}" in said
    assert "check data_dir and cell_id" in said


def _identity(config: Path, **changes: object) -> None:
    """Write another identity, with a checksum that fits."""
    path = config.parent / "data" / "identity.json"
    text = json.dumps({**json.loads(path.read_text().splitlines()[0]), **changes}, sort_keys=True)
    path.write_text(f"{text}\n{zlib.crc32(text.encode()):08x}\n")


def test_a_directory_of_a_newer_version_is_refused(formatted):
    """An older version cannot know what a newer one wrote."""
    _identity(formatted, format=2)
    said = refused(formatted)
    assert "was written by a newer synod (format 2, this one knows 1); start the newer version" in said


def test_a_damaged_identity_is_refused(formatted):
    """A flipped digit is found by the checksum, not believed."""
    path = formatted.parent / "data" / "identity.json"
    path.write_text(path.read_text().replace('"replica_id": 1', '"replica_id": 3'))
    assert "its checksum does not fit" in refused(formatted)


@pytest.fixture
def shared_directory():
    """A directory that any user may enter."""
    with tempfile.TemporaryDirectory(prefix="synod-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def without_privileges() -> dict[str, object]:
    """Root may do anything: run without the privileges that make it so, where files of others are off limits.

    Not as another user: that one may not be allowed to run the interpreter of these tests.
    Ref: capabilities(7).
    """
    return {"preexec_fn": _drop_privileges} if os.geteuid() == 0 else {}


def _drop_privileges() -> None:
    """What is not in the bounding set is not permitted after the next exec either."""
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def test_a_directory_that_is_not_writable_is_refused(shared_directory):
    """Without the right to write there is no promise that could be kept."""
    config = write_config(shared_directory / "replica.toml", config_document(shared_directory))
    format_replica(config)
    (shared_directory / "data" / "identity.json").chmod(0o666)
    (shared_directory / "data").chmod(0o555)
    try:
        said = refused(config, **without_privileges())
    finally:
        (shared_directory / "data").chmod(0o755)
    assert "is not writable: Permission denied; run the replica as the owner of the directory" in said


@pytest.mark.requires("root")
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_directory_of_somebody_else_is_refused(shared_directory, mode):
    """Whether it cannot be entered or its files cannot be opened: a sentence with its name, not a traceback."""
    config = write_config(shared_directory / "replica.toml", config_document(shared_directory))
    format_replica(config)
    (shared_directory / "data").chmod(mode)
    for path in (shared_directory / "data", *(shared_directory / "data").iterdir()):
        os.chown(path, SOMEBODY, SOMEBODY)
    said = refused(config, **without_privileges())
    assert str(shared_directory / "data") in said
    assert "Permission denied" in said


def test_a_directory_of_a_running_replica_is_refused(tmp_path):
    """Two processes on one log would tear it apart; the first goes on as if nothing had been tried."""
    with Replica(tmp_path) as running:
        other = tmp_path / "other"
        other.mkdir()
        client, peer, http = free_ports(3)
        listen = {"client": f"127.0.0.1:{client}", "peer": f"127.0.0.1:{peer}", "http": f"127.0.0.1:{http}"}
        config = write_config(other / "replica.toml", {**running.document, "listen": listen})
        identity = (tmp_path / "data" / "identity.json").read_bytes()
        boot = (tmp_path / "data" / "boot.json").read_bytes()
        said = refused(config)
        assert running.process is not None
        assert f"is in use by a running process (pid {running.process.pid}); stop it first" in said
        assert (tmp_path / "data" / "identity.json").read_bytes() == identity
        assert (tmp_path / "data" / "boot.json").read_bytes() == boot
        assert says_ok(running.client_port)
        assert synod("create", "/still", "here", "--cell", running.hosts).returncode == 0
        assert running.stop() == 0
        # The lock died with its holder: a crash leaves nothing to clean up.
        running.start()
        assert synod("get", "/still", "--cell", running.hosts).stdout == "here\n"


def _changed(document: dict, where: str, value: object) -> dict:
    """The document with one key set, or taken away when the value is None."""
    changed = copy.deepcopy(document)
    *sections, key = where.split(".")
    table = changed
    for section in sections:
        table = table.setdefault(section, {}) if section != "peers" else table["peers"][0]
    if value is None:
        del table[key]
    else:
        table[key] = value
    return changed


WRONG = [
    ("colour", "red", "unknown key colour; known are began_with, cell_id, contacts, data_dir"),
    ("listen.clients", "127.0.0.1:1", "unknown key listen.clients; known are client, http, peer"),
    ("peers.adress", "127.0.0.1:1", "unknown key peers.adress; known are address, id"),
    ("session.timeout_ms", 5, "unknown key session.timeout_ms; known are timeout_ms_max, timeout_ms_min"),
    ("limits.conections", 5, "unknown key limits.conections"),
    ("timing.heartbeat", 5, "unknown key timing.heartbeat"),
    ("id", None, "the key id is missing"),
    ("cell_id", None, "the key cell_id is missing"),
    ("data_dir", None, "the key data_dir is missing"),
    ("listen", None, "the section [listen] is missing"),
    ("listen.client", None, "the key listen.client is missing"),
    ("listen.peer", None, "the key listen.peer is missing"),
    ("peers", None, "[[peers]] is missing"),
    ("peers.address", None, "the key peers.address is missing"),
    ("peers.id", None, "the key peers.id is missing"),
    ("id", "1", "id is a whole number from 1 to 255, not '1'"),
    ("id", True, "id is a whole number from 1 to 255, not True"),
    ("id", 0, "id is a whole number from 1 to 255, not 0"),
    ("id", 7, "[[peers]] does not list this replica's own id 7"),
    ("cell_id", 5, "cell_id is a string, not 5"),
    ("cell_id", "mine", "cell_id"),
    ("data_dir", 5, "data_dir is a string, not 5"),
    ("listen", 5, "listen is a section"),
    ("listen.client", 2181, "listen.client is a string, not 2181"),
    ("listen.client", "2181", "listen.client is HOST:PORT, not '2181'"),
    ("listen.client", "127.0.0.1:65536", "listen.client is HOST:PORT"),
    ("peers", "127.0.0.1:1", "[[peers]]"),
    ("peers", [5], "[[peers]] holds tables with id and address"),
    ("reads", "dirty", 'reads is "linearizable" or "sequential", not \'dirty\''),
    ("session", 5, "session is a section"),
    ("session.timeout_ms_min", 4.5, "session.timeout_ms_min is a whole number"),
    ("session.timeout_ms_min", 90_000, "session.timeout_ms_min is larger than session.timeout_ms_max"),
    ("limits.outstanding", "many", "limits.outstanding is a whole number"),
    ("timing.election_timeout_ms", 200, "timing.election_timeout_ms is less than three times timing.heartbeat_ms"),
    ("tls", {"certificate": "x"}, "[tls] is reserved and not supported yet"),
    ("listen.client", "0.0.0.0:2181", "listen.client = 0.0.0.0:2181 leaves loopback"),
    ("listen.client", "[::]:2181", "listen.client = [::]:2181 leaves loopback"),
    ("listen.http", "192.0.2.7:80", "listen.http = 192.0.2.7:80 leaves loopback"),
    ("listen.peer", "replica.example:80", "listen.peer = replica.example:80 leaves loopback"),
    ("peers.address", "192.0.2.7:80", "peers.address = 192.0.2.7:80 leaves loopback"),
]


@pytest.mark.parametrize(("where", "value", "complaint"), WRONG, ids=[f"{w}={v}" for w, v, _ in WRONG])
@pytest.mark.parametrize("command", ["serve", "format"])
def test_a_config_that_cannot_be_used_is_refused_by_name(
    tmp_path, document, capsys, monkeypatch, command, where, value, complaint
):
    """Nothing in a config is guessed or passed over: the key is named, and no directory is made."""
    config = write_config(tmp_path / "replica.toml", _changed(document, where, value))
    monkeypatch.setattr("sys.argv", ["synod", command, str(config)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = sentence(capsys.readouterr().err)
    assert ended.value.code == 2
    assert complaint in said
    assert str(config) in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["replica.toml"]


def test_a_config_that_cannot_be_read_is_refused(tmp_path):
    """No file, a directory, and something that is not TOML."""
    assert "nothing.toml cannot be read: No such file" in refused(tmp_path / "nothing.toml")
    (tmp_path / "directory").mkdir()
    assert "cannot be read: Is a directory" in refused(tmp_path / "directory")
    (tmp_path / "broken.toml").write_text("id = \n")
    assert "broken.toml is not TOML" in refused(tmp_path / "broken.toml")
    (tmp_path / "broken.toml").write_bytes(b"id = \xff\n")
    assert "broken.toml is not TOML" in refused(tmp_path / "broken.toml")


def test_a_setting_that_cannot_be_used_is_refused(formatted):
    """`--set` is held to the same rules as the file."""
    assert "--set wants KEY=VALUE" in refused(formatted, "session.timeout_ms_min")
    assert "unknown key sesion; known are" in refused(formatted, "sesion.timeout_ms_min=1000")
    assert "--set id.x: id is not a section" in refused(formatted, "id.x=5")


def test_rotten_bytes_are_named_and_left_alone(tmp_path):
    """What was synced once and is damaged stops the start, by name of the file, and is not repaired away."""
    with Replica(tmp_path) as running:
        assert synod("create", "/a", "x" * 100_000, "--cell", running.hosts).returncode == 0
        running.stop()
        data = tmp_path / "data"
        segment = next(p for p in data.iterdir() if p.stat().st_size > 1 << 20)
        with segment.open("r+b") as file:  # the head of a segment: everything after it hangs on it
            file.write(b"\xff" * 64)
        before = {name: held for name, held in contents(data).items() if name not in ("boot.json", "lock")}
        done = synod("serve", str(running.config))
        assert done.returncode == 3
        assert segment.name in sentence(done.stderr)
        after = {name: held for name, held in contents(data).items() if name not in ("boot.json", "lock")}
        assert after == before


def test_python_without_asserts_is_refused(formatted):
    """The checks that keep a replica from going on wrongly are asserts."""
    assert "python -O drops the checks" in refused(formatted, environment={"PYTHONOPTIMIZE": "1"})
