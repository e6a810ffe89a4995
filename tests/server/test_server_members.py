"""A cell whose members change while clients work: real processes, real disks, and the commands of an operator."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Iterator

import pytest
from bench.peers import free_ports
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException

from _cells import PATIENCE_S, SETTINGS, STEADY, SYNOD, RealCell, sentence, synod, wait_for
from synod.base import ConfigError, Configuration, Member
from synod.server import load_config
from synod.server._config import joining_config  # as the leader's answer holds it

pytestmark = pytest.mark.slow


NOBODY_LED = ("or there is none;", "serves; nothing was changed", "does not lead; ask replica")
"""What a command says in the middle of an election, when it has changed nothing."""

BEHIND = "promote it when it has caught up"


class Cell(RealCell):
    """A cell of three that an operator may change; replica I is number I - 1, however many there have been."""

    def member(self, *arguments: str, code: int = 0) -> dict:
        """Run `synod member ...` with --json, again while nobody leads; what it printed."""

        def asked() -> subprocess.CompletedProcess[str] | None:
            done = synod("member", *arguments, "--json", cell=self.hosts)
            return None if done.returncode != code and any(said in done.stderr for said in NOBODY_LED) else done

        done = wait_for(asked, "a leader to be asked")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if code == 0 else {"said": sentence(done.stderr)}

    def leader_id(self) -> int:
        return self.wait_leader() + 1

    def add(self, id_: int, *options: str) -> None:
        """A new replica, made as its own config and the two commands below it say."""
        client, peer, http = free_ports(3)
        listens = ("--client", f"127.0.0.1:{client}", "--http", f"127.0.0.1:{http}")
        answer = self.member("add", str(id_), f"127.0.0.1:{peer}", *listens, *options)
        config = self.directory / f"replica-{id_}.toml"
        config.write_text(answer["config"])
        assert synod("format", str(config)).returncode == 0
        self.processes.add([*SYNOD, "serve", str(config)])
        self.ports.append(client)
        self.http_ports.append(http)
        self.replicas += 1
        self.processes.start(id_ - 1)
        wait_for(lambda: self.role(id_ - 1) in ("learner", "observer"), f"replica {id_} that answers")

    def caught_up(self, id_: int) -> bool:
        found = next(m for m in self.member("list")["members"] if m["id"] == id_)
        return found["lag"] is not None and found["lag"] <= 64

    def promote(self, id_: int) -> None:
        wait_for(lambda: self.caught_up(id_) and self.promoted(id_), f"replica {id_} that has caught up")
        wait_for(lambda: self.role(id_ - 1) in ("follower", "leader"), f"replica {id_} that votes")

    def promoted(self, id_: int) -> bool:
        """Whether it may vote now; clients write meanwhile, and it may have fallen behind again."""
        done = synod("member", "promote", str(id_), cell=self.hosts)
        assert done.returncode == 0 or any(said in done.stderr for said in (*NOBODY_LED, BEHIND)), done.stderr
        return done.returncode == 0

    def voters(self) -> list[int]:
        return [m["id"] for m in self.member("list")["members"] if m["role"] == "voter"]


@pytest.fixture
def settings() -> dict:
    """Of the cell of a test."""
    return STEADY


@pytest.fixture
def cell(tmp_path, settings) -> Iterator[Cell]:
    """A cell of its own, as its members will be others."""
    with Cell(tmp_path, settings=settings) as running:
        running.wait_settled()
        yield running
        for number in range(running.replicas):
            assert "Traceback" not in running.whole_output(number)


class Load:
    """Clients of kazoo's that write without a pause and remember what was acknowledged."""

    def __init__(self, cell: Cell, clients: int = 3) -> None:
        self.acknowledged: list[set[str]] = [set() for _ in range(clients)]
        self._ending = threading.Event()
        self._clients = [KazooClient(cell.hosts, timeout=10) for _ in range(clients)]
        for client in self._clients:
            client.start(timeout=PATIENCE_S)
        self._clients[0].ensure_path("/load")
        self._threads = [threading.Thread(target=self._write, args=(i,), daemon=True) for i in range(clients)]
        for thread in self._threads:
            thread.start()

    def _write(self, i: int) -> None:
        count = 0
        while not self._ending.is_set():
            count += 1
            name = f"c{i}-{count}"
            try:
                self._clients[i].create(f"/load/{name}", b"x")
            except KazooException:
                self._ending.wait(0.05)  # the outcome is unknown: it may be there or not
            else:
                self.acknowledged[i].add(name)

    def move_to(self, hosts: str) -> None:
        """The cell's addresses are others now."""
        for client in self._clients:
            client.set_hosts(hosts)

    def goes_on(self) -> None:
        """Every client gets something acknowledged that it asks from now on."""
        before = [len(done) for done in self.acknowledged]
        for i, had in enumerate(before):
            wait_for(lambda i=i, had=had: len(self.acknowledged[i]) > had + 2, f"client {i} that gets on")

    def end(self) -> None:
        """Stop; everything that was acknowledged is there."""
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        there = set(self._clients[0].retry(self._clients[0].get_children, "/load"))
        for done in self.acknowledged:
            assert done
            assert done <= there, "an acknowledged write is lost"
        for client in self._clients:
            client.stop()
            client.close()


@pytest.mark.parametrize(("backup", "begins_at"), [("", 0), ("ab" * 16, 77)])
def test_the_config_of_who_joins_gives_the_first_configuration_and_those_to_call(
    backup: str, begins_at: int, tmp_path
) -> None:
    """Its digest stands in the hello, of a cell that began with a backup as well; the members may be others by now."""
    first = Configuration(
        "5e" * 16, tuple(Member(i, f"127.0.0.1:{7000 + i}") for i in (1, 2, 3)), backup=backup, begins_at=begins_at
    )
    now = first.replaced(2, "127.0.0.1:7102").added(4, "127.0.0.1:7004")
    template = tmp_path / "leader.toml"
    template.write_text(
        f'id = 1\ncell_id = "{first.cell_id}"\ndata_dir = "data"\nreads = "sequential"\n'
        '[listen]\nclient = "127.0.0.1:1"\npeer = "127.0.0.1:7001"\n[session]\ntimeout_ms_min = 1_500\n'
        '[[peers]]\nid = 1\naddress = "127.0.0.1:7001"\n'
    )
    member = now.member(4)
    assert member is not None
    text = joining_config(
        member, first, now, load_config(str(template)), client="127.0.0.1:2184", http="127.0.0.1:8004"
    )
    made = tmp_path / "replica-4.toml"
    made.write_text(text)
    config = load_config(str(made))
    assert config.data_dir == str(tmp_path / "replica-4")
    assert config.configuration == first
    assert (config.id, config.incarnation, str(config.peer)) == (4, 1, "127.0.0.1:7004")
    assert (config.reads, config.timeout_ms_min) == ("sequential", 1_500)
    assert {m.id: m.address for m in config.known_members} == {
        1: "127.0.0.1:7001",
        2: "127.0.0.1:7102",
        3: "127.0.0.1:7003",
    }


@pytest.mark.parametrize(
    ("client", "http", "missing"),
    [
        (None, None, ["client", "http"]),
        (None, "127.0.0.1:8002", ["client"]),
        ("127.0.0.1:2182", None, ["http"]),
        ("127.0.0.1:2182", "127.0.0.1:8002", []),
    ],
)
def test_what_nobody_told_the_cell_is_left_to_be_filled_in(
    client: str | None, http: str | None, missing: list[str], tmp_path
) -> None:
    """A port that was guessed may be another replica's: the place is marked, and the config is refused until then."""
    first = Configuration("5e" * 16, tuple(Member(i, f"127.0.0.1:{7000 + i}") for i in (1, 2, 3)))
    known = first.replaced(2, "127.0.0.1:7002")
    template = tmp_path / "leader.toml"
    template.write_text(
        f'id = 1\ncell_id = "{first.cell_id}"\ndata_dir = "data"\n'
        '[listen]\nclient = "127.0.0.1:2181"\npeer = "127.0.0.1:7001"\n'
        '[[peers]]\nid = 1\naddress = "127.0.0.1:7001"\n'
    )
    member = known.member(2)
    assert member is not None
    text = joining_config(member, first, known, load_config(str(template)), client=client, http=http)
    left = [line for line in text.splitlines() if "PORT" in line]
    assert left == [
        f'{key} = "127.0.0.1:PORT"  # fill in: the cell does not know it, and --{key} did not say it' for key in missing
    ]
    made = tmp_path / "replica-2.toml"
    made.write_text(text)
    if missing:
        with pytest.raises(ConfigError, match=f"listen.{missing[0]} is HOST:PORT, not '127.0.0.1:PORT'"):
            load_config(str(made))
    else:
        assert str(load_config(str(made)).client) == client


# Who was removed stays for ten election timeouts, to tell of it: not so long here.
@pytest.mark.parametrize("settings", [SETTINGS], ids=["with-short-timeouts"])
def test_three_grow_to_five_the_leader_goes_and_a_wiped_replica_is_replaced(cell: Cell) -> None:
    """The whole of it, under load: nothing that was acknowledged is lost, and clients stay."""
    load = Load(cell)
    for id_ in (4, 5):
        cell.add(id_)
        cell.promote(id_)
        load.goes_on()
    assert cell.voters() == [1, 2, 3, 4, 5]
    load.move_to(cell.hosts)
    # The leader is removed: it hands over first, and ends by itself.
    gone = cell.leader_id()
    answer = cell.member("remove", str(gone))
    assert gone not in [m["id"] for m in answer["members"]]
    process = cell.processes.running[gone - 1]
    assert process is not None
    wait_for(lambda: process.poll() is not None, "the end of the replica that was removed")
    assert "it was removed from the cell" in cell.whole_output(gone - 1)
    cell.processes.running[gone - 1] = None
    load.goes_on()
    # Another one loses its disk: formatted anew it is refused, under its old incarnation.
    leader = cell.leader_id()
    wiped = next(id_ for id_ in cell.voters() if id_ != leader)
    config = cell.directory / f"replica-{wiped}.toml"
    cell.processes.kill(wiped - 1)
    shutil.rmtree(cell.directory / f"replica-{wiped}")
    assert synod("format", str(config)).returncode == 0
    cell.processes.start(wiped - 1)
    wait_for(lambda: f"synod member replace {wiped}" in cell.whole_output(wiped - 1), "what is to be done")
    load.goes_on()
    # It is re-admitted under a new one.
    cell.processes.kill(wiped - 1)
    shutil.rmtree(cell.directory / f"replica-{wiped}")
    answer = cell.member("replace", str(wiped), "--http", f"127.0.0.1:{cell.http_ports[wiped - 1]}")
    assert answer["incarnation"] == 2
    assert 'client = "127.0.0.1:PORT"' in answer["config"]
    config.write_text(answer["config"])
    assert "listen.client is HOST:PORT" in sentence(synod("format", str(config)).stderr)
    config.write_text(answer["config"].replace("PORT", str(cell.ports[wiped - 1])))
    assert synod("format", str(config)).returncode == 0
    cell.processes.start(wiped - 1)
    cell.promote(wiped)
    assert len(cell.voters()) == 4
    load.goes_on()
    load.end()
    cell.wait_digests()


def test_a_disk_that_is_rolled_back_is_refused_told_and_replaced(cell: Cell) -> None:
    """One peer has seen what it forgets; the other one would have counted its vote."""
    load = Load(cell)
    load.goes_on()
    leader = cell.leader_id()
    old = next(id_ for id_ in cell.voters() if id_ != leader)
    config, data = cell.directory / f"replica-{old}.toml", cell.directory / f"replica-{old}"
    cell.processes.kill(old - 1)
    shutil.copytree(data, cell.directory / "older")
    cell.processes.start(old - 1)
    wait_for(lambda: cell.role(old - 1) in ("follower", "leader"), "the replica that was copied")

    def another_leads() -> bool:
        if cell.leader_id() != old:
            return True
        synod("transfer-leader", cell=cell.hosts)
        return False

    wait_for(another_leads, "another leader")
    for _ in range(2):  # what it lacks, and what it votes for then: both before its leader has seen it
        load.goes_on()
        slot = cell.status(cell.wait_leader())["applied_slot"]
        wait_for(lambda slot=slot: cell.status(old - 1)["applied_slot"] >= slot, "what it is to forget")
    leader = cell.leader_id()  # another one may lead by now
    other = next(id_ for id_ in cell.voters() if id_ not in (old, leader))
    for id_ in (old, other):  # from the other one it could learn all of it before it meets the leader
        cell.processes.kill(id_ - 1)
    shutil.rmtree(data)
    (cell.directory / "older").rename(data)
    cell.processes.start(old - 1)
    process = cell.processes.running[old - 1]
    assert process is not None
    assert process.wait(PATIENCE_S) == 3
    assert f"and it must not vote until it is re-admitted; `synod member replace {old}` does that" in cell.whole_output(
        old - 1
    )
    cell.processes.running[old - 1] = None
    cell.processes.start(other - 1)
    # Whoever starts it again, it knows by itself; and whoever looks at the directory is told.
    again = synod("serve", str(config))
    assert again.returncode == 2
    assert "may have forgotten a vote" in again.stderr.splitlines()[-1]
    assert "may have forgotten a vote" in synod("verify", str(data)).stderr
    load.goes_on()
    shutil.rmtree(data)
    listens = ("--client", f"127.0.0.1:{cell.ports[old - 1]}", "--http", f"127.0.0.1:{cell.http_ports[old - 1]}")
    config.write_text(cell.member("replace", str(old), *listens)["config"])
    assert synod("format", str(config)).returncode == 0
    cell.processes.start(old - 1)
    cell.promote(old)
    load.goes_on()
    load.end()


def test_an_observer_serves_and_a_cell_of_three_stays_one_of_three(cell: Cell) -> None:
    """It answers reads and takes writes for the leader, and nobody waits for it."""
    cell.add(4, "--observer")
    wait_for(lambda: cell.role(3) == "observer" and cell.serving(), "an observer that serves")
    client = KazooClient(f"127.0.0.1:{cell.ports[3]}", timeout=10)
    client.start(timeout=PATIENCE_S)
    client.create("/seen", b"by all")
    assert client.get("/seen")[0] == b"by all"
    assert b"zk_server_state\tobserver" in client.command(b"mntr").encode()
    client.stop()
    client.close()
    said = cell.member("promote", "4", code=1)["said"]
    assert said == "replica 4 is an observer, which never votes: only a learner can be promoted"
    cell.processes.kill(3)
    assert cell.voters() == [1, 2, 3]


def test_what_the_cell_refuses_changes_nothing(cell: Cell) -> None:
    """One sentence each; the members are as before."""
    before = cell.member("list")
    taken = next(m["address"] for m in before["members"] if m["id"] == 2)
    for arguments, code, said in (
        (("add", "2", "127.0.0.1:7999"), 1, "replica 2 is a member already"),
        (("add", "9", taken), 1, f"replica 2 is at {taken}; two replicas cannot have one address"),
        (("add", "9", "10.0.0.1:7999"), 2, "leaves loopback"),
        (("add", "300", "127.0.0.1:7999"), 2, "an id is a whole number from 1 to 255, not 300"),
        (("add", "9", "nowhere"), 2, "HOST:PORT"),
        (("promote", "9"), 1, "there is no replica 9 in this cell; its members are 1, 2, 3"),
        (("promote", "2"), 1, "replica 2 is a voter already"),
        (("remove", "9"), 1, "there is no replica 9 in this cell"),
        (("replace", "9"), 1, "there is no replica 9 in this cell"),
    ):
        assert said in cell.member(*arguments, code=code)["said"], arguments
    leader = cell.leader_id()
    down, other = (id_ for id_ in (1, 2, 3) if id_ != leader)
    cell.processes.kill(down - 1)
    wait_for(
        lambda: not all(m["connected"] for m in cell.member("list")["members"]), "a connection that is seen to end"
    )
    wait_for(lambda: "no quorum" in cell.member("remove", str(other), code=1)["said"], "the refusal")
    # The leader says no before it hands over, not after it.
    assert "would have no quorum that" in cell.member("remove", str(leader), code=1)["said"]
    assert cell.leader_id() == leader
    assert "is there and takes part" in cell.member("replace", str(other), code=1)["said"]
    after = cell.member("list")
    assert after["generation"] == before["generation"] == 0
    assert [m["role"] for m in after["members"]] == ["voter"] * 3


def test_a_learner_that_is_not_there_is_not_promoted(cell: Cell) -> None:
    """A voter that nobody has ever seen would only be missed."""
    cell.member("add", "4", "127.0.0.1:1", "--client", "127.0.0.1:2", "--http", "127.0.0.1:3")
    assert "replica 4 is not connected" in cell.member("promote", "4", code=1)["said"]
    assert cell.voters() == [1, 2, 3]
    assert [m["id"] for m in cell.member("remove", "4")["members"]] == [1, 2, 3]
    again = tomllib.loads(
        cell.member("add", "4", "127.0.0.1:1", "--client", "127.0.0.1:2", "--http", "127.0.0.1:3")["config"]
    )
    assert again["incarnation"] == 2, "whoever was removed does not come back as he was"


def test_who_calls_before_it_was_added_is_told_what_to_do(cell: Cell, tmp_path) -> None:
    """The sentence stands in its own log, and it goes on calling."""
    known = tomllib.loads((cell.directory / "replica-1.toml").read_text())
    client, peer, http = free_ports(3)
    config = tmp_path / "early.toml"
    peers = "".join(f'[[peers]]\nid = {p["id"]}\naddress = "{p["address"]}"\n' for p in known["peers"])
    config.write_text(
        f'id = 4\ncell_id = "{known["cell_id"]}"\ndata_dir = "early"\nincarnation = 1\n[listen]\n'
        f'client = "127.0.0.1:{client}"\npeer = "127.0.0.1:{peer}"\nhttp = "127.0.0.1:{http}"\n{peers}'
    )
    assert synod("format", str(config)).returncode == 0
    cell.processes.add([*SYNOD, "serve", str(config)])
    cell.ports.append(client)
    cell.http_ports.append(http)
    cell.replicas += 1
    cell.processes.start(3)
    wait_for(lambda: "`synod member add 4 ADDRESS` makes it one" in cell.whole_output(3), "the sentence")
    cell.member("add", "4", f"127.0.0.1:{peer}", "--client", f"127.0.0.1:{client}", "--http", f"127.0.0.1:{http}")
    cell.promote(4)
