"""ZooKeeper's own shell, and so its Java client, unmodified, as Debian packages it: on ZooKeeper and on a cell."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from interop_wire import GET, SYNC, Reader, Wire, read, text

from _peers import Peer

pytestmark = [pytest.mark.slow, pytest.mark.requires("zookeeper")]

SHELL = Path("/usr/share/zookeeper/bin/zkCli.sh")
NOISE = re.compile(r"SLF4J|Connecting to |Welcome to |JLine |WATCHER::|$")


class Said:
    """What the shell said to some commands."""

    def __init__(self, system: Peer, *commands: str) -> None:
        done = subprocess.run(
            [SHELL, "-server", system.hosts],
            input="\n".join([*commands, "quit", ""]),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if not NOISE.match(line)]
        self.complaints = [line for line in done.stderr.splitlines() if not NOISE.match(line)]
        # The events come from a thread of their own: between any two lines.
        self.events = [line.removeprefix("WatchedEvent ") for line in lines if line.startswith("WatchedEvent ")]
        self.lines = [line for line in lines if not line.startswith("WatchedEvent ")]


def test_the_shell_makes_reads_changes_and_deletes(system: Peer, root: str) -> None:
    """create, get, set, stat, ls and delete, with all that they print."""
    said = Said(
        system,
        f"create {root} one",
        f"get {root}",
        f"set {root} two!",
        f"create {root}/a x",
        f"create -s {root}/s- x",
        f"create -e {root}/e x",
        f"ls {root}",
        f"get -s {root}",
        f"delete {root}",
        f"delete {root}/a",
        f"get {root}/a",
        f"set -v 7 {root} no",
        f"deleteall {root}",
        f"stat {root}",
    )
    assert said.lines[:3] == ["one", "[a, e, s-0000000001]", "two!"]
    stat = dict(line.split(" = ") for line in said.lines[3:])
    assert {key: stat[key] for key in ("cversion", "dataVersion", "aclVersion", "dataLength", "numChildren")} == {
        "cversion": "3",
        "dataVersion": "1",
        "aclVersion": "0",
        "dataLength": "4",
        "numChildren": "3",
    }
    assert stat["ephemeralOwner"] == "0x0"
    created, modified, children = (int(stat[name], 16) for name in ("cZxid", "mZxid", "pZxid"))
    assert created < modified < children
    assert re.fullmatch(r"\w{3} \w{3} \d\d [\d:]{8} \w+ \d{4}", stat["ctime"])
    assert said.complaints == [
        f"Created {root}",
        f"Created {root}/a",
        f"Created {root}/s-0000000001",
        f"Created {root}/e",
        f"Node not empty: {root}",
        f"Node does not exist: {root}/a",
        f"version No is not valid : {root}",
        f"Node does not exist: {root}",
    ]


def test_the_shell_is_told_of_what_it_watches(system: Peer, root: str) -> None:
    """`ls -w`, `get -w` and `stat -w` print their event, once."""
    said = Said(
        system,
        f"create {root} one",
        f"ls -w {root}",
        f"create {root}/a x",
        f"create {root}/b x",
        f"get -w {root}/a",
        f"set {root}/a y",
        f"stat -w {root}/b",
        f"delete {root}/b",
        "sync /",
    )
    # That it closed is told by a thread of its own, which the end of the shell may be faster than.
    assert [event for event in said.events if not event.startswith("state:Closed")] == [
        "state:SyncConnected type:None path:null",
        f"state:SyncConnected type:NodeChildrenChanged path:{root}",
        f"state:SyncConnected type:NodeDataChanged path:{root}/a",
        f"state:SyncConnected type:NodeDeleted path:{root}/b",
    ]


def test_what_the_shell_wrote_is_there_for_others(system: Peer, wire: Callable[..., Wire], root: str) -> None:
    """And its ephemerals are not: it closes its session when it quits."""
    assert Said(system, f"create {root} kept", f"create -e {root}/gone x").complaints[-1] == f"Created {root}/gone"
    other = wire(1)
    other.ask(SYNC, text("/"))
    got = Reader(other.ask(GET, read(root)).body)
    assert got.text() == b"kept"
    assert got.stat()["children"] == 0
