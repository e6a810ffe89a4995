"""Every command as INTERFACES promises it: what it prints, what it returns, and how it fails."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple, Self

import pytest
from bench.peers import free_ports

import synod as package
from _cells import (
    PATIENCE_S,
    SYNOD,
    Replica,
    clean_environment,
    http,
    listening,
    operated,
    says_ok,
    sentence,
    synod,
    wait_for,
)
from synod.base import UserError
from synod.cli import main
from synod.cli._up import Up
from synod.client import BlockingCell

VALUE_BYTES_MAX = 1_047_552
STAT = [
    "czxid",
    "mzxid",
    "ctime",
    "mtime",
    "version",
    "cversion",
    "aversion",
    "ephemeral_owner",
    "data_length",
    "children_count",
    "pzxid",
]
COMMANDS = [
    "format",
    "serve",
    "up",
    "get",
    "set",
    "create",
    "ls",
    "rm",
    "status",
    "lock",
    "sim",
    "demo",
    "torment",
    "transfer-leader",
    "backup",
    "restore",
    "verify",
    "member",
    "replay",
]

MEMBER = ["list", "add", "promote", "remove", "replace"]


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> dict:
        """The one document that `--json` prints, and nothing else."""
        assert self.out.count(b"\n") == 1, self.out
        return json.loads(self.out)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """A cell for the whole module; its tests stay below paths of their own."""
    with Replica(tmp_path_factory.mktemp("cell"), None, "session.timeout_ms_min=1000") as running:
        yield running.hosts


@pytest.fixture
def run(hosts, monkeypatch, capfdbinary):
    """A command within this process, which is much quicker than a process of its own."""

    def run(*arguments: str, stdin: bytes = b"", cell: str = hosts) -> Done:
        monkeypatch.setenv("SYNOD_CELL", cell)
        monkeypatch.setattr("sys.argv", ["synod", *arguments])
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(stdin), isatty=lambda: False))
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Done(ended.value.code or 0, out, err.decode())

    return run


@pytest.fixture
def root(hosts, request):
    """A path that no other test uses."""
    path = f"/{re.sub(r'[^a-z0-9]+', '-', request.node.name)}"
    with BlockingCell(hosts) as cell:
        cell.create(path)
    return path


# -- every command ---------------------------------------------------------------------------------------------


def test_help_names_every_command(run):
    """What there is, on one screen."""
    done = run("--help")
    assert done.code == 0
    listed = re.findall(r"^  ([a-z][a-z-]+)  ", done.out.decode(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(run, command):
    """Each command shows one line to copy, and `-h` is `--help`."""
    done = run(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert re.search(rf"Example: .*synod {command}\b", done.out.decode())
    assert run(command, "-h") == done


@pytest.mark.parametrize("command", MEMBER)
def test_help_of_a_member_command_shows_an_example(run, command):
    """The commands of the group are commands like the others."""
    done = run("member", command, "--help")
    assert (done.code, done.err) == (0, "")
    assert re.search(rf"Example: synod member {command}\b", done.out.decode())


def test_version_says_which_core_runs(run):
    """A pure core is slow: whoever measures wants to know."""
    done = run("--version")
    assert done.code == 0
    assert re.fullmatch(rf"synod {package.__version__} \((compiled|pure Python) core\)\n", done.out.decode())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["get"], "PATH"),
        (["frobnicate"], "frobnicate"),
        (["get", "/x", "--colour"], "--colour"),
        (["up", "--replicas", "9"], "--replicas"),
        (["lock", "/x"], "COMMAND"),
        (["lock", "-E", "256", "/x", "--", "true"], "-E"),
        (["demo", "--without", "everything"], "--without"),
    ],
)
def test_usage_errors_end_with_2(run, arguments, named):
    """One sentence names what is wrong and where help is; nothing was done."""
    done = run(*arguments)
    assert (done.code, done.out) == (2, b"")
    said = sentence(done.err)
    assert named in said
    assert "nothing was done" in said
    assert re.search(r"`synod( \w+)? -h`", said)


@pytest.mark.parametrize("words", ["get a", "set a b", "create a", "ls a", "rm a", "lock a -- true"])
def test_a_path_that_no_znode_has_is_refused_before_anybody_is_called(run, words):
    """Else the cell, which does not answer here, would be blamed for it."""
    command, *rest = words.split()
    done = run(command, "--cell", "127.0.0.1:1", *rest)
    assert (done.code, done.out) == (2, b"")
    assert "a path begins with a slash: 'a'; nothing was sent" in sentence(done.err)


def test_a_slip_of_the_pen_is_told_what_was_meant(run):
    """A command that is nearly one."""
    assert "Did you mean 'create'" in sentence(run("creat").err)


def test_without_arguments_the_help_is_shown(run):
    """Whoever knows nothing yet sees the commands."""
    done = run()
    assert done.code == 2
    assert "Commands:" in done.err + done.out.decode()


# -- the tree ----------------------------------------------------------------------------------------------------


def test_a_value_goes_in_and_comes_out(run, root):
    """create, get, set, ls, rm: what people do first."""
    path = f"{root}/greeting"
    assert run("create", path, "hello") == (0, f"{path}\n".encode(), "")
    assert run("get", path) == (0, b"hello\n", "")
    assert run("set", path, "good bye") == (0, b"", "")
    assert run("get", path) == (0, b"good bye\n", "")
    assert run("create", f"{root}/another") == (0, f"{root}/another\n".encode(), "")
    assert run("ls", root) == (0, b"another\ngreeting\n", "")
    assert run("rm", path) == (0, b"", "")
    assert run("ls", root) == (0, b"another\n", "")
    assert root[1:].encode() in run("ls").out.splitlines()


def test_json_is_one_document_with_the_promised_keys(run, root):
    """What scripts read; nothing else is on stdout."""
    path = f"{root}/a"
    assert run("create", path, "x", "--json").json == {"path": path}
    got = run("get", path, "--json").json
    assert (got["path"], got["value"], sorted(got["stat"])) == (path, "x", sorted(STAT))
    assert got["stat"]["version"] == 0
    put = run("set", path, "yy", "--json").json
    assert (put["path"], put["stat"]["version"], put["stat"]["data_length"]) == (path, 1, 2)
    assert run("ls", root, "--json").json == {"path": root, "children": ["a"]}
    assert run("rm", path, "--json").json == {"path": path}


def test_values_of_every_kind(run, root, tmp_path):
    """From an argument, standard input, a file, and as hexadecimal digits; bytes come out as they went in."""
    path = f"{root}/a"
    noise = bytes(range(256))
    assert run("create", path, "-", stdin=noise).code == 0
    assert run("get", path).out == noise + b"\n"
    assert run("get", path, "--hex").out == noise.hex().encode() + b"\n"
    assert run("get", path, "--hex", "--json").json["value"] == noise.hex()
    (tmp_path / "value").write_bytes(b"from a file\n")
    assert run("set", path, "--file", str(tmp_path / "value")).code == 0
    assert run("get", path).out == b"from a file\n"
    assert run("set", path, "00ff", "--hex").code == 0
    assert run("get", path, "--hex").out == b"00ff\n"
    assert run("set", path, "").code == 0
    assert run("get", path, "--json").json["value"] == ""


def test_sequential_names_rise(run, root):
    """`-s` appends a number and prints the name that came of it."""
    names = [run("create", "-s", f"{root}/job-").out.decode().strip() for _ in range(3)]
    assert names == sorted(names)
    assert all(re.fullmatch(rf"{root}/job-\d{{10}}", name) for name in names)


def test_rm_of_a_whole_tree(run, root):
    """`-r` is needed for it, and takes everything below."""
    for path in ("/a", "/a/b", "/a/b/c"):
        run("create", f"{root}{path}")
    refusal = run("rm", f"{root}/a")
    assert refusal.code == 1
    assert "has children" in sentence(refusal.err)
    assert run("rm", "-r", f"{root}/a").code == 0
    assert run("ls", root).out == b""


def test_an_ephemeral_lives_until_ctrl_c(hosts, root):
    """It is there while the command runs, says so, and is gone when the command was interrupted: exit code 130."""
    command = subprocess.Popen(
        [*SYNOD, "create", "-e", f"{root}/mine", "x", "--cell", hosts],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    with command, BlockingCell(hosts) as cell:
        assert command.stdout.readline() == f"{root}/mine\n".encode()
        assert cell.exists(f"{root}/mine").ephemeral_owner != 0
        assert command.stderr.readline() == b"it lives until Ctrl-C\n"
        command.send_signal(signal.SIGINT)
        assert command.wait(timeout=PATIENCE_S) == 130
        # Long before its session would be over, though a busy cell may hear of its end after the command has ended.
        wait_for(lambda: cell.exists(f"{root}/mine") is None, "its end", patience_s=5)
        assert b"Traceback" not in command.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["get", "ROOT/nothing"], "get ROOT/nothing: there is no such znode; nothing was changed: create it first"),
        (["set", "ROOT/nothing", "x"], "there is no such znode"),
        (["rm", "ROOT/nothing"], "there is no such znode"),
        (["rm", "-r", "ROOT/nothing"], "there is no such znode"),
        (["ls", "ROOT/nothing"], "there is no such znode"),
        (["create", "ROOT/nothing/below"], "there is no such znode"),
        (["create", "ROOT"], "there is such a znode already"),
        (["set", "ROOT", "x", "--version", "7"], "the znode has another version by now"),
        (["rm", "ROOT", "--version", "7"], "the znode has another version by now"),
    ],
)
def test_what_the_cell_refuses_ends_with_1(run, root, arguments, why):
    """One sentence: what happened, and what next; with --json stdout stays empty."""
    done = run(*(argument.replace("ROOT", root) for argument in arguments), "--json")
    assert (done.code, done.out) == (1, b"")
    assert why.replace("ROOT", root) in sentence(done.err)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["get", "no-slash"], "no-slash"),
        (["get", "/a//b"], "/a//b"),
        (["create", "/a/"], "/a/"),
        (["set", "/a", "x", "--file", "y"], "give a VALUE or --file, not both"),
        (["set", "/a", "--file", "/nowhere/y"], "/nowhere/y cannot be read: No such file"),
        (["set", "/a", "xyz", "--hex"], "--hex wants hexadecimal digits"),
        (["get", "/a", "--cell", "127.0.0.1:port"], "has no usable port"),
        (["get", "/a", "--cell", ""], "no address of a cell"),
        (["get", "/a", "--cell", "127.0.0.1:2181/chroot"], "holds a path"),
        (["status", "--cell", "127.0.0.1:99999"], "has no usable port"),
        (["format"], "format wants a CONFIG, or --new-cell"),
        (["sim"], "give --seeds N"),
        (["sim", "--seed", "1", "--seeds", "3"], "not both"),
    ],
)
def test_what_cannot_be_meant_ends_with_2(run, arguments, why):
    """A mistake of the one who typed it, in one sentence."""
    done = run(*arguments)
    assert (done.code, done.out) == (2, b"")
    assert why in sentence(done.err)


@pytest.mark.parametrize("size", [VALUE_BYTES_MAX + 1, 3_000_000])
@pytest.mark.parametrize("command", ["set", "create"])
def test_a_value_over_the_limit_is_refused(run, root, command, size):
    """The sentence has both numbers, the znode is what it was; one byte less is fine."""
    path = root if command == "set" else f"{root}/large"
    done = run(command, path, "-", stdin=b"x" * size)
    assert (done.code, done.out) == (2, b"")
    assert f"the value has {size} bytes and the limit is {VALUE_BYTES_MAX}; nothing was sent" in sentence(done.err)
    assert run("ls", root).out == b""
    assert run("get", root).out == b"\n"
    assert run(command, path, "-", stdin=b"x" * VALUE_BYTES_MAX).code == 0
    assert len(run("get", path).out) == VALUE_BYTES_MAX + 1


@pytest.mark.parametrize("command", [["get", "/a"], ["set", "/a", "x"], ["ls", "/"], ["create", "/a"], ["rm", "/a"]])
def test_nobody_there_ends_with_3(run, command):
    """In bounded time, and it says which addresses it tried."""
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    began = time.monotonic()
    done = run(*command, "--timeout", "0.2", cell=nobody)
    assert (done.code, done.out) == (3, b"")
    assert f"no replica of {nobody} serves us" in sentence(done.err)
    assert time.monotonic() - began < 8  # without the option it would be 10


def test_somebody_there_who_does_not_answer_ends_with_3(run):
    """A port where something else listens, and says nothing: the timeout is kept."""
    with listening() as port:
        done = run("get", "/a", "--timeout", "0.3", cell=f"127.0.0.1:{port}")
        assert done.code == 3
        sentence(done.err)


def test_the_option_beats_the_environment(run, hosts):
    """`--cell` is what is meant where both are there."""
    assert run("ls", "/", "--cell", hosts, cell="127.0.0.1:1").code == 0


def test_a_reader_that_goes_early_is_no_error(hosts, root):
    """`synod ls | head -1`: a closed pipe ends the command quietly."""
    with BlockingCell(hosts) as cell:
        cell.set(root, b"x" * 1_000_000)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [*SYNOD, "get", root, "--cell", hosts],
            stdout=closed,
            stderr=subprocess.PIPE,
            env=clean_environment(),
            timeout=PATIENCE_S,
            check=False,
        )
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0


# -- cells and replicas ------------------------------------------------------------------------------------------


def test_status_says_what_each_replica_does(run, hosts):
    """A row for each address, whoever is there; 0 while somebody serves, else 3."""
    done = run("status")
    assert done.code == 0
    title, row = done.out.decode().splitlines()
    assert title.split()[:3] == ["id", "address", "state"]
    assert row.split()[:3] == ["1", hosts, "leader"]
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    report = run("status", "--json", cell=f"{hosts},{nobody}").json
    assert report["serving"] is True
    assert [row["address"] for row in report["replicas"]] == [hosts, nobody]
    assert [row["state"] for row in report["replicas"]] == ["leader", "unreachable"]
    assert report["leader"] == 1
    assert int(report["replicas"][0]["sessions"]) >= 0
    done = run("status", "--json", "--timeout", "0.5", cell=nobody)
    assert done.code == 3
    silent = {"address": nobody, "state": "unreachable"}
    assert done.json == {"serving": False, "leader": None, "replicas": [silent], "silent": []}


def test_format_makes_up_cell_ids(run):
    """Fresh ones, 32 hexadecimal digits."""
    ids = {run("format", "--new-cell").out.decode().strip() for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{32}", cell_id) for cell_id in ids)


@pytest.mark.slow
def test_sim_prints_its_trace_last(run):
    """The same seed gives the same trace; `--json` is one document."""
    first = run("sim", "--seed", "3")
    assert first.code == 0
    assert re.fullmatch(r"trace [0-9a-f]+", first.out.decode().splitlines()[-1])
    report = run("sim", "--seed", "3", "--json").json
    assert f"trace {report['trace']}" == first.out.decode().splitlines()[-1]
    assert report["violation"] in (None, "")
    done = run("sim", "--seeds", "2", "--from", "3", "--json")
    assert done.code == 0
    assert done.json


class Upped:
    """A running `synod up --json`."""

    def __init__(self, *arguments: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed at the end
        self.process = subprocess.Popen(
            [*SYNOD, "up", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=clean_environment(),
        )

    def announced(self) -> dict:
        """The one line that is printed when a leader serves."""
        line = self.process.stdout.readline()
        assert line, self.said()
        return json.loads(line)

    def said(self) -> str:
        """What it has complained about so far."""
        return os.pread(self._errors.fileno(), 1 << 20, 0).decode()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Stop it; its exit code and what it complained about."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        assert out == b"", out
        return self.process.returncode, self.said()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # it stops its replicas, which a kill would leave to the kernel
        self.process.communicate()
        self._errors.close()


def _is_healthy(address: str) -> bool:
    try:
        return http(int(address.rpartition(":")[2]), "/healthz")[0] == 200
    except OSError:
        return False


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_up_takes_no_port_that_its_replicas_are_to_give_to_clients(tmp_path, monkeypatch, capsys):
    """None of them is bound yet when the others are chosen."""
    asked = []

    def none_is_free(count, *, but):
        asked.append((count, but))
        raise UserError("there are no free ports")

    monkeypatch.setattr("synod.server.free_ports", none_is_free)
    port = free_ports(3)[0]
    monkeypatch.setattr(sys, "argv", ["synod", "up", "--client-port", str(port), "--data-dir", str(tmp_path / "cell")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "there are no free ports" in capsys.readouterr().err
    assert asked == [(6, range(port, port + 3))]


def test_up_tells_who_died_before_it_gives_up(tmp_path, monkeypatch, capsys):
    """Also of those who die while it looks elsewhere; without a majority of three it is over."""
    up = Up(replicas=3, client_port=1, data_dir=tmp_path, restart=False, settings=[], as_json=True)
    for i in (1, 2, 3):
        (tmp_path / f"replica-{i}").mkdir()
        (tmp_path / f"replica-{i}" / "log").write_text("")
        up._processes[i] = subprocess.Popen(["sleep", "600"])

    def asked() -> set[int]:
        for i in (1, 2):
            up._processes[i].kill()
            up._processes[i].wait()
        return {1, 2, 3}

    monkeypatch.setattr(up, "_ask_voters", asked)
    monkeypatch.setattr(up, "_welcome", lambda: None)
    try:
        assert up._watch() == 3
    finally:
        up._stop()
    err = capsys.readouterr().err
    assert [f"replica {i} ended with -9" in err for i in (1, 2, 3)] == [True, True, False]
    assert err.endswith("synod: the cell has lost its majority for good\n")


@pytest.mark.slow
def test_up_runs_a_cell_and_finds_it_again(tmp_path):
    """One line of JSON as promised; SIGTERM and Ctrl-C stop everybody with exit code 0; the data is found again."""
    directory = tmp_path / "cell"
    port = free_ports(3)[0]
    numbers = ("--replicas", "3", "--client-port", str(port), "--data-dir", str(directory))
    with Upped(*numbers, "--set", "session.timeout_ms_min=1000") as up:
        said = up.announced()
        assert sorted(said) == ["cell", "replicas"]
        assert said["cell"] == ",".join(f"127.0.0.1:{port + i}" for i in range(3))
        for i, row in enumerate(said["replicas"], 1):
            assert sorted(row) == ["client", "config", "data_dir", "http", "id", "pid"]
            assert (row["id"], row["client"]) == (i, f"127.0.0.1:{port + i - 1}")
            assert row["data_dir"] == str(directory / f"replica-{i}")
            assert row["config"] == str(directory / f"replica-{i}" / "synod.toml")
            ports = re.findall(r":([0-9]+)\"", (directory / f"replica-{i}" / "synod.toml").read_text())
            # The cell keeps them: the kernel is to give none of them to an outgoing connection while it is stopped.
            assert len(ports) >= 5
            assert all(int(port) < 32_768 for port in ports)
            assert "timeout_ms_min = 1000" in (directory / f"replica-{i}" / "synod.toml").read_text()
            # It is announced when a majority serves: one replica may still be about to.
            wait_for(partial(_is_healthy, row["http"]), "a replica's health")
            assert not _is_gone(row["pid"])
        with BlockingCell(said["cell"]) as cell:
            cell.create("/kept", b"yes")
        assert up.end() == (0, "")
        assert all(_is_gone(row["pid"]) for row in said["replicas"])
    for wrong, why in (
        (
            ("--replicas", "1", "--client-port", str(port)),
            "holds a cell of 3 replicas, not of 1: run it with --replicas 3",
        ),
        (
            ("--replicas", "3", "--client-port", "1"),
            f"holds a cell at client port {port}, not 1: run it with --client-port",
        ),
    ):
        done = synod("up", *wrong, "--data-dir", str(directory))
        assert (done.returncode, done.stdout) == (2, "")
        assert why in sentence(done.stderr)
        assert "choose another --data-dir" in done.stderr
    with Upped(*numbers) as up:
        said = up.announced()
        assert "timeout_ms_min = 1000" in (directory / "replica-1" / "synod.toml").read_text()
        with BlockingCell(said["cell"]) as cell:
            assert cell.get("/kept")[0] == b"yes"
        # A dead replica stays dead; without its majority the cell is over.
        for row in said["replicas"][:2]:
            os.kill(row["pid"], signal.SIGKILL)
        assert up.process.wait(timeout=PATIENCE_S) == 3
        code, err = up.end()
        assert code == 3
        assert "replica 1 ended with -9" in err
        assert err.splitlines()[-1] == "synod: the cell has lost its majority for good"
        assert all(_is_gone(row["pid"]) for row in said["replicas"])


@pytest.mark.slow
def test_up_restarts_who_died_when_it_is_told_to(tmp_path):
    """With `--restart` a replica that died comes back, and Ctrl-C still ends it all."""
    port = free_ports(1)[0]
    with Upped("--replicas", "1", "--client-port", str(port), "--data-dir", str(tmp_path / "cell"), "--restart") as up:
        said = up.announced()
        with BlockingCell(said["cell"]) as cell:
            cell.create("/kept")
        os.kill(said["replicas"][0]["pid"], signal.SIGKILL)
        wait_for(lambda: _is_gone(said["replicas"][0]["pid"]), "the end of a replica")
        wait_for(lambda: says_ok(port), "the replica's return")
        with BlockingCell(said["cell"]) as cell:
            assert cell.exists("/kept")
        code, err = up.end(signal.SIGINT)
        assert code == 0
        assert "replica 1 ended with -9" in err


@pytest.mark.slow
def test_up_starts_who_joins_and_does_not_miss_who_left(tmp_path):
    """A directory that is formatted joins; who was removed is no death, and the cell is found again without it."""
    directory = tmp_path / "cell"
    ports = free_ports(6)
    numbers = ("--client-port", str(ports[0]), "--data-dir", str(directory))
    with Upped(*numbers, "--restart", "--set", "session.timeout_ms_min=1000") as up:
        hosts = up.announced()["cell"]
        listens = ("--client", f"127.0.0.1:{ports[3]}", "--http", f"127.0.0.1:{ports[4]}")
        config = directory / "replica-4" / "synod.toml"
        config.parent.mkdir()
        config.write_text(operated("member", "add", "4", f"127.0.0.1:{ports[5]}", *listens, cell=hosts).stdout)
        assert synod("format", str(config)).returncode == 0
        wait_for(lambda: says_ok(ports[3]), "the new replica")
        wait_for(lambda: synod("member", "promote", "4", cell=hosts).returncode == 0, "its vote")
        hosts += f",127.0.0.1:{ports[3]}"  # perhaps it is the one that the third hands over to
        operated("member", "remove", "3", cell=hosts)
        wait_for(lambda: not says_ok(ports[0] + 2), "the farewell of who was removed")
        with BlockingCell(hosts) as cell:
            cell.create("/kept")
        wait_for(lambda: "has left the cell" in up.said(), "a word about it")
        code, err = up.end()
        assert code == 0
        assert "joins" in err
        assert err.count("replica 3 ") == 1, err  # it is not started again
    with Upped(*numbers, "--replicas", "4") as up:
        hosts = up.announced()["cell"]
        wait_for(lambda: "replica 3 has left the cell" in up.said(), "a word about it")
        assert up.end()[0] == 0
    shutil.rmtree(directory / "replica-3")
    with Upped(*numbers) as up:
        said = up.announced()
        assert [row["id"] for row in said["replicas"]] == [1, 2, 4]
        with BlockingCell(said["cell"]) as cell:
            assert cell.exists("/kept")
        for row in said["replicas"][1:]:
            os.kill(row["pid"], signal.SIGKILL)
        assert up.process.wait(timeout=PATIENCE_S) == 3


def test_up_says_when_it_cannot_begin(tmp_path):
    """A port that is taken, be it the last one: it is named, and nothing is made or started."""
    with listening() as port:
        numbers = ("--replicas", "3", "--client-port", str(port - 2))
        done = synod("up", *numbers, "--data-dir", str(tmp_path / "cell"))
    assert done.returncode == 2
    assert " is in use by another process" in sentence(done.stderr)
    assert not list((tmp_path / "cell").iterdir())
    (tmp_path / "file").write_text("")
    done = synod("up", "--data-dir", str(tmp_path / "file"))
    assert done.returncode == 2
    sentence(done.stderr)


def test_up_leaves_nothing_of_a_cell_that_it_could_not_make(tmp_path):
    """A mistake in a setting: the next try, without it, begins from nothing."""
    port = str(free_ports(1)[0])
    numbers = ("--replicas", "1", "--data-dir", str(tmp_path / "cell"), "--client-port", port)
    done = synod("up", *numbers, "--set", "session.timeout_ms_min=soon")
    assert done.returncode == 2
    assert "session.timeout_ms_min" in sentence(done.stderr)
    assert not list((tmp_path / "cell").iterdir())


@pytest.mark.parametrize(
    "python",
    [
        ["-m", "synod", "sim", "--seed", "1"],
        ["-c", "import sys; from synod.server import serve; sys.exit(serve(None))"],
        ["-c", "import synod\ntry: synod.local()\nexcept synod.UserError as e: raise SystemExit(f'synod: {e}')"],
    ],
    ids=["sim", "serve", "local"],
)
def test_python_without_assertions_is_refused(python):
    """Under -O a replica would go on where it must stop, and the simulator would find nothing."""
    done = subprocess.run([sys.executable, "-O", *python], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "python -O drops the checks" in sentence(done.stderr)


def test_up_does_not_format_what_lost_its_data(tmp_path):
    """A replica without its data must not begin anew beside siblings that have theirs."""
    port = free_ports(1)[0]
    numbers = ("--replicas", "1", "--client-port", str(port), "--data-dir", str(tmp_path))
    with Upped(*numbers) as up:
        up.announced()
        assert up.end()[0] == 0
    (tmp_path / "replica-1" / "data" / "identity.json").unlink()
    done = synod("up", *numbers)
    assert done.returncode == 2
    assert "holds no data while its siblings" in sentence(done.stderr)
    assert not (tmp_path / "replica-1" / "data" / "identity.json").exists()


def test_a_cell_goes_when_its_up_is_killed(tmp_path):
    """SIGKILL of `up` leaves no replica behind."""
    port = free_ports(1)[0]
    with Upped("--replicas", "1", "--client-port", str(port), "--data-dir", str(tmp_path)) as up:
        up.announced()
        up.process.kill()
        up.process.wait(timeout=PATIENCE_S)
        wait_for(lambda: not says_ok(port), "the end of the replica")
