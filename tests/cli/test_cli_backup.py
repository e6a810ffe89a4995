"""Backups: every damage is one sentence; restored cells hold what the backed up one held, and nothing falls back."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import struct
import subprocess
import threading
import zlib
from collections.abc import Sequence

import pytest
from backup_files import CELL, CONFIGURATION, file_of, written
from bench.peers import free_ports

from _cells import (
    PATIENCE_S,
    SETTINGS,
    SYNOD,
    RealCell,
    config_document,
    contents,
    operated,
    sentence,
    synod,
    wait_for,
    write_config,
)
from synod.base import NotApplied, SynodError, UserError
from synod.cli._backup import Damaged, opened_backup
from synod.client import BlockingCell, Cell
from synod.client import connect as synod_connect
from synod.server import load_config
from synod.storage import RealFileSystem, load_identity
from synod.storage._backup import HEADER_BYTES
from synod.tree import Tree
from synod.wire import ACL, OPEN_ACL, PERM_ALL, PERM_READ, Create


@pytest.fixture(scope="module")
def good() -> bytes:
    """A backup of a small tree."""
    tree = Tree(zxid=7, configuration=CONFIGURATION.encode())
    tree.slot = 3
    return file_of(tree)


# -- the file ---------------------------------------------------------------------------------------------------


def refusal(path: str) -> str:
    """Why a file is no use; anything but one sentence of ours is a failure."""
    with pytest.raises(NotApplied) as caught, opened_backup(path):
        pass
    assert isinstance(caught.value, (UserError, Damaged))
    text = str(caught.value)
    assert path in text
    assert "\n" not in text
    return text


def test_every_damaged_byte_is_noticed(good, tmp_path):
    """Whichever byte changes, the file is refused, and its name is in the sentence."""
    path = written(tmp_path / "b", good)
    with opened_backup(path) as (reader, summary):
        assert (reader.header.slot, summary.znodes - 1) == (3, reader.header.znodes)
    for at in range(len(good)):
        refusal(written(tmp_path / "b", good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :]))


def test_every_truncation_is_noticed(good, tmp_path):
    """And so is a byte too many."""
    for size in range(len(good)):
        said = refusal(written(tmp_path / "b", good[:size]))
        if size >= 8:
            assert "cut short" in said
    assert "too long" in refusal(written(tmp_path / "b", good + b"\0"))


def test_a_state_that_is_not_the_one_that_was_agreed_on_is_refused(tmp_path):
    """All checksums fit, and yet it is another state: only the digest of the cell says so."""
    tree = Tree(configuration=CONFIGURATION.encode())
    tree.slot = 3
    assert "agreed on" in refusal(written(tmp_path / "b", file_of(tree, digest=bytes(16))))


def newer_header(data: bytes) -> bytes:
    body = data[:8] + struct.pack(">H", 2) + data[10 : HEADER_BYTES - 4]
    return body + struct.pack(">I", zlib.crc32(body)) + data[HEADER_BYTES:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda data: newer_header(data), 2, "newer synod"),
        (lambda data: b"PK\x03\x04" + data[4:], 2, "no backup"),
        (lambda data: b"", 2, "no backup"),
        (lambda data: data[:-1], 1, "cut short"),
        (lambda data: data[:-1] + b"\0", 1, "does not fit"),
    ],
    ids=["newer", "foreign", "empty", "truncated", "damaged"],
)
def test_a_file_that_is_no_use_changes_nothing(good, tmp_path, change, code, said):
    """`restore` in each of its ways, and `verify`: one sentence, the exit code, and nothing is made."""
    bad = written(tmp_path / "bad", change(good))
    document = config_document(tmp_path)
    config = str(write_config(tmp_path / "replica.toml", document))
    before = contents(tmp_path)
    for command in (
        ("verify", bad),
        ("restore", bad, config),
        ("restore", bad, "--data-dir", str(tmp_path / "new")),
        ("restore", bad, "--cell", "127.0.0.1:1"),
    ):
        done = synod(*command)
        assert (done.returncode, done.stdout) == (code, ""), command
        assert said in sentence(done.stderr)
    assert contents(tmp_path) == before
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_mistakes_with_a_good_file(good, tmp_path):
    """One sentence each: which way, a cell of the same id, a directory that is not empty, nothing there, a name taken."""
    path = written(tmp_path / "good", good)
    document = config_document(tmp_path)
    config = str(write_config(tmp_path / "replica.toml", document))
    same = str(write_config(tmp_path / "same.toml", document | {"cell_id": CELL}))
    for command, code, said in (
        (("restore", path), 2, "restore wants one of"),
        (("restore", path, config, "--cell", "127.0.0.1:1"), 2, "restore wants one of"),
        (("restore", str(tmp_path / "none"), config), 2, "cannot be read"),
        (("restore", path, same), 2, "names that very cell"),
        (("restore", path, "--cell", "127.0.0.1:1", "--below", "/none"), 2, "holds nothing at /none"),
        (("verify", str(tmp_path / "none")), 2, "cannot be read"),
        (("verify", str(tmp_path)), 2, "no data directory"),
        (("backup", "--cell", "127.0.0.1:1", "--timeout", "1", str(tmp_path / "x")), 3, "no replica of"),
        (("backup", "--cell", "127.0.0.1:1", str(tmp_path)), 2, "is a directory"),
        (("backup", "--cell", "127.0.0.1:1", path), 2, "exists already, and was left as it is"),
        (("backup", "--cell", "127.0.0.1:1", "--timeout", "1", "--force", path), 3, "no replica of"),
    ):
        before = contents(tmp_path)
        done = synod(*command)
        assert (done.returncode, done.stdout) == (code, ""), (command, done.stderr)
        assert said in sentence(done.stderr)
        assert contents(tmp_path) == before
    assert synod("restore", path, config).returncode == 0
    again = synod("restore", path, config)
    assert (again.returncode, "is formatted already" in sentence(again.stderr)) == (2, True)
    done = synod("restore", path, "--data-dir", str(tmp_path / "new"), "--client-port", str(free_ports(1)[0]))
    assert done.returncode == 0, done.stderr
    again = synod("restore", path, "--data-dir", str(tmp_path / "new"))
    assert (again.returncode, "holds a cell already" in sentence(again.stderr)) == (2, True)


# -- data directories --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_verify_names_the_damage_in_a_data_directory_and_changes_nothing(good, tmp_path):
    """Of a replica that begins with a backup: its identity and its snapshot, byte by byte where it matters."""
    path = written(tmp_path / "good", good)
    config = str(write_config(tmp_path / "replica.toml", config_document(tmp_path)))
    assert synod("restore", path, config).returncode == 0
    data = tmp_path / "data"
    done = synod("verify", str(data), "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["sound"], found["id"], list(found["snapshots"])) == (0, True, 1, ["3"])
    for file in sorted(data.iterdir()):
        whole = file.read_bytes()
        file.write_bytes(whole[:60] + bytes([whole[60] ^ 4]) + whole[61:])
        before = contents(data)
        done = synod("verify", str(data))
        assert (done.returncode, done.stdout) == (1, "")
        assert str(file) in sentence(done.stderr)
        assert contents(data) == before
        file.write_bytes(whole)
    assert synod("verify", str(data)).returncode == 0


@pytest.mark.slow
def test_a_restored_directory_without_its_snapshot_is_no_empty_replica(good, tmp_path):
    """It would begin from nothing among those who begin from the backup."""
    path = written(tmp_path / "good", good)
    config = str(write_config(tmp_path / "replica.toml", config_document(tmp_path)))
    assert synod("restore", path, config).returncode == 0
    [snapshot] = (tmp_path / "data").glob("*.snap")
    snapshot.unlink()
    done = synod("serve", config)
    assert (done.returncode, "there is none" in sentence(done.stderr)) == (3, True)
    done = synod("verify", str(tmp_path / "data"))
    assert (done.returncode, "there is none" in sentence(done.stderr)) == (1, True)


@pytest.mark.slow
def test_replicas_that_begin_differently_never_meet(good, tmp_path):
    """The configuration that stands in every hello says which backup, and that there is one."""
    other = Tree(zxid=8, configuration=CONFIGURATION.encode())
    other.slot = 4
    document = config_document(tmp_path)
    digests = set()
    for number, data in enumerate((good, file_of(other), good)):
        config = write_config(tmp_path / f"{number}.toml", document | {"data_dir": f"data-{number}"})
        assert synod("restore", written(tmp_path / "b", data), str(config)).returncode == 0
        digests.add(load_identity(RealFileSystem(), str(tmp_path / f"data-{number}")).configuration.digest())
    digests.add(load_config(str(config)).configuration.digest())
    assert len(digests) == 3


# -- real cells --------------------------------------------------------------------------------------------------


def tree_of(hosts: str) -> dict[str, tuple[bytes, int, int]]:
    """Every lasting znode with its value, czxid and version."""
    found: dict[str, tuple[bytes, int, int]] = {}

    async def look(cell: Cell, path: str) -> None:
        (data, stat), names = await asyncio.gather(cell.get(path), cell.children(path))
        if not stat.ephemeral_owner and path != "/":
            found[path] = (data, stat.czxid, stat.version)
        await asyncio.gather(*(look(cell, f"{path.rstrip('/')}/{name}") for name in names if name != "zookeeper"))

    async def work() -> None:
        async with synod_connect(hosts) as cell:
            await look(cell, "/")

    asyncio.run(work())
    return found


ZNODES_MAX = 500


class Writer(threading.Thread):
    """Counts up in one znode and makes others, until it is told to stop; remembers what was acknowledged."""

    def __init__(self, hosts: str) -> None:
        super().__init__(daemon=True)
        self.hosts = hosts
        self.acknowledged = 0
        self.failure: SynodError | None = None
        self.told = threading.Event()

    def run(self) -> None:
        try:
            with BlockingCell(self.hosts) as cell:
                cell.create("/count", b"0")
                while not self.told.is_set():
                    number = self.acknowledged + 1
                    if number <= ZNODES_MAX:
                        cell.create(f"/n{number:06}", b"x" * 50)
                    cell.set("/count", b"%d" % number)
                    self.acknowledged = number
        except SynodError as failure:
            self.failure = failure


@pytest.mark.slow
def test_a_cell_is_backed_up_while_it_is_written_to_and_a_new_one_goes_on_from_there(tmp_path):
    """What was acknowledged before is in the new cell with its stats; tokens there are higher than any given before."""
    file = tmp_path / "cell.synod"
    with RealCell(tmp_path / "old", settings=SETTINGS) as old:
        writer = Writer(old.hosts)
        writer.start()
        wait_for(lambda: writer.acknowledged >= 50 or writer.failure, "some writes")
        with BlockingCell(old.hosts, session_timeout_ms=6_000) as client, client.lock("/locks/a") as before:
            acknowledged = writer.acknowledged
            done = synod("backup", "--cell", old.hosts, "--json", str(file))
            assert done.returncode == 0, done.stderr
            made = json.loads(done.stdout)
            went_on = writer.acknowledged
            wait_for(lambda: writer.acknowledged > went_on or writer.failure, "writes after the backup")
            with client.lock("/locks/b") as later:
                tokens = [before.fencing_token, later.fencing_token]
        writer.told.set()
        writer.join()
        assert writer.failure is None
        in_use = synod("verify", str(old.directory / "replica-1"))
        assert (in_use.returncode, "in use" in sentence(in_use.stderr)) == (2, True), in_use.stderr
        whole = tree_of(old.hosts)
    assert json.loads(synod("verify", "--json", str(file)).stdout)["digest"] == made["digest"]
    # The way of an operator: three configs with a fresh id, the same file for each.
    ports = free_ports(12)
    cell_id = secrets.token_hex(16)
    peers = [{"id": i, "address": f"127.0.0.1:{ports[i - 1]}"} for i in (1, 2, 3)]
    running = []
    try:
        for i in (1, 2, 3):
            listen = {"peer": ports[i - 1], "client": ports[i + 2], "http": ports[i + 5]}
            document = {
                "id": i,
                "cell_id": cell_id,
                "data_dir": f"data-{i}",
                "listen": {name: f"127.0.0.1:{port}" for name, port in listen.items()},
                "peers": peers,
            }
            config = write_config(tmp_path / f"{i}.toml", document)
            done = synod("restore", str(file), str(config))
            assert done.returncode == 0, done.stderr
            running.append(subprocess.Popen([*SYNOD, "serve", str(config)], stderr=subprocess.DEVNULL))
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports[3:6])
        with BlockingCell(hosts, timeout=PATIENCE_S) as client:
            count = int(client.get("/count")[0])
            assert acknowledged <= count <= writer.acknowledged
            new = tree_of(hosts)
            assert new == {path: node for path, node in whole.items() if path in new} | {"/count": new["/count"]}
            assert {f"/n{number:06}" for number in range(1, min(count, ZNODES_MAX) + 1)} <= set(new)
            with client.lock("/locks/b") as again:
                assert again.fencing_token > max(tokens)
            # This one's holder may believe in its lease: it is waited for until that is over.
            with client.lock("/locks/a", timeout=PATIENCE_S) as again:
                assert again.fencing_token > max(tokens)
        # Who joins has no snapshot and needs none: it has the state that its cell began with from its peers.
        listens = ("--client", f"127.0.0.1:{ports[9]}", "--http", f"127.0.0.1:{ports[10]}")
        joining = operated("member", "add", "4", f"127.0.0.1:{ports[11]}", *listens, cell=hosts)
        (tmp_path / "4.toml").write_text(joining.stdout)
        assert synod("format", str(tmp_path / "4.toml")).returncode == 0
        running.append(subprocess.Popen([*SYNOD, "serve", str(tmp_path / "4.toml")]))

        def votes() -> bool:
            assert running[-1].poll() is None, "who joins has ended"
            return synod("member", "promote", "4", cell=hosts).returncode == 0

        wait_for(votes, "a fourth voter")
        with BlockingCell(f"127.0.0.1:{ports[9]}", timeout=PATIENCE_S) as client:
            assert int(client.get("/count")[0]) == count
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=PATIENCE_S) for process in running]
    assert codes == [0, 0, 0, 0]
    digests = [
        json.loads(synod("verify", "--json", str(tmp_path / f"data-{i}")).stdout)["snapshots"] for i in (1, 2, 3)
    ]
    assert digests[0] == digests[1] == digests[2] != {}


SECRET = (ACL(PERM_ALL, "world", "anyone"), ACL(PERM_READ, "digest", "user:hash"))


def with_acl(hosts: str, path: str, new: Sequence[ACL] | None = None) -> list[ACL]:
    """The access list of a znode; first it becomes a new one, if that is given."""

    async def work() -> list[ACL]:
        async with synod_connect(hosts) as cell:
            if new is not None:
                await cell.set_acl(path, new)
            return (await cell.get_acl(path))[0]

    return asyncio.run(work())


@pytest.mark.slow
def test_contents_are_put_back_into_a_running_cell(tmp_path):
    """Created, changed and deleted as it takes; what lives with a session stays; a second time there is nothing to do."""
    file = tmp_path / "cell.synod"
    file.write_bytes(b"an older one")
    with RealCell(tmp_path / "cell", settings=SETTINGS) as cell, BlockingCell(cell.hosts) as client:
        client.multi([Create(f"/n{number:03}", b"%d" % number, OPEN_ACL, 0) for number in range(700)])
        client.create("/deep", b"1")
        client.create("/deep/er", b"2", acl=SECRET)
        assert synod("backup", "--cell", cell.hosts, "--force", str(file)).returncode == 0
        before = {path: node[0] for path, node in tree_of(cell.hosts).items()}
        refused = synod("restore", str(file), "--cell", cell.hosts)
        assert (refused.returncode, "not empty" in sentence(refused.stderr)) == (1, True)
        client.delete("/n001")
        client.set("/n002", b"other")
        with_acl(cell.hosts, "/deep/er", OPEN_ACL)
        client.create("/new", b"")
        client.create("/new/er", b"")
        client.create("/services", b"")
        client.create("/services/a", b"", ephemeral=True)
        done = synod("restore", str(file), "--cell", cell.hosts, "--force", "--json")
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert {key: figures[key] for key in ("created", "changed", "deleted", "kept")} == {
            "created": 1,
            "changed": 2,
            "deleted": 2,
            "kept": 1,
        }
        assert client.exists("/services/a")
        assert with_acl(cell.hosts, "/deep/er") == list(SECRET)
        now = {path: node[0] for path, node in tree_of(cell.hosts).items()}
        assert now == before | {"/services": b""}
        again = json.loads(synod("restore", str(file), "--cell", cell.hosts, "--force", "--json").stdout)
        assert (again["created"], again["changed"], again["deleted"]) == (0, 0, 0)
        client.delete("/deep/er")
        done = synod("restore", str(file), "--cell", cell.hosts, "--below", "/deep/er")
        assert done.returncode == 0, done.stderr
        assert client.get("/deep/er")[0] == b"2"
