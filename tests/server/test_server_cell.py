"""Three replicas, each a process on a real disk, and what users see when one of them is hurt."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from bench.peers import four_letter_word
from kazoo.client import KazooClient
from kazoo.protocol.states import KazooState
from prometheus_client.parser import text_string_to_metric_families

import synod
from _cells import PATIENCE_S, SETTINGS, STEADY, RealCell, comes_to_be, http, paused, says_ok, small_disk, wait_for
from synod.base import NotApplied, OutcomeUnknown
from synod.client import BlockingCell

pytestmark = pytest.mark.slow

ANSWER_S = 5.0
"""What a client of these tests waits for an answer."""

LATE_S = 5.0
"""So much later than its time something may come on a busy machine; what hangs comes far later, or never."""

_names = (f"t{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def whole_cell(tmp_path_factory):
    """The cell that every test of this module hurts."""
    with RealCell(tmp_path_factory.mktemp("cell"), settings=STEADY) as running:
        try:
            yield running
        finally:
            running.resume_all()


@pytest.fixture
def cell(whole_cell):
    """The cell, whole: everybody runs and follows one leader. Afterwards it is whole again, or the test failed."""
    whole_cell.wait_settled()
    yield whole_cell
    whole_cell.resume_all()
    whole_cell.wait_settled()
    for number in range(3):
        assert "Traceback" not in whole_cell.whole_output(number)


@pytest.fixture
def root(cell):
    """A path that no other test uses."""
    path = f"/{next(_names)}"
    with BlockingCell(cell.hosts) as client:
        client.create(path)
    return path


def host(cell: RealCell, number: int) -> str:
    return f"127.0.0.1:{cell.ports[number]}"


def others(number: int) -> list[int]:
    return [other for other in range(3) if other != number]


def seen_by_each(cell: RealCell, path: str) -> list[list[str]]:
    """The children of a path as each replica alone tells them, in a linearizable read."""
    seen = []
    for number in range(3):
        with BlockingCell(host(cell, number)) as client:
            seen.append(sorted(client.children(path)))
    return seen


# -- a replica is lost -----------------------------------------------------------------------------------------


def test_a_session_of_kazoo_outlives_the_leader(cell, root):
    """A client that hung on the killed leader moves by itself: the same session, the same ephemeral, nothing lost."""
    leader = cell.wait_leader()
    first_the_leader = ",".join(host(cell, number) for number in (leader, *others(leader)))
    states: list[str] = []
    client = KazooClient(hosts=first_the_leader, randomize_hosts=False, timeout=8.0)
    client.add_listener(states.append)
    client.start(timeout=PATIENCE_S)
    try:
        session = client.client_id[0]
        client.create(f"{root}/mine", b"before", ephemeral=True)
        # Whoever made the root is perhaps still being seen off.
        wait_for(lambda: cell.status(leader)["connections"] == 1, "this client alone, at the leader")
        cell.processes.kill(leader)
        # The very first request after the kill may be lost with the connection; the next ones are not.
        client.retry(client.set, f"{root}/mine", b"after")
        value, stat = client.retry(client.get, f"{root}/mine")
        assert value == b"after"
        assert stat.ephemeralOwner == session == client.client_id[0]
        wait_for(lambda: states[-1] == KazooState.CONNECTED, "the client's word that it is connected")
        assert states[0] == KazooState.CONNECTED
        assert KazooState.SUSPENDED in states
        assert KazooState.LOST not in states
        new = cell.wait_leader()
        assert new != leader
        # The one that was killed comes back, with everything, and the session is known there as well.
        cell.wait_settled()
        with BlockingCell(host(cell, leader)) as other:
            assert other.get(f"{root}/mine")[0] == b"after"
            assert other.exists(f"{root}/mine").ephemeral_owner == session
    finally:
        client.stop()
        client.close()
    # Closed, not lost: the ephemeral goes at once, and everywhere.
    with BlockingCell(cell.hosts) as other:
        assert other.children(root) == []


def test_a_leader_that_is_asked_to_stop_hands_over(cell, root):
    """A clean stop is no failure: exit code 0, and the next leader begins because it was asked, not after a silence."""
    leader = cell.wait_leader()
    marks = [len(cell.whole_output(number)) for number in range(3)]
    with BlockingCell(",".join(host(cell, number) for number in others(leader))) as client:
        client.create(f"{root}/before")
        process = cell.processes.running[leader]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0
        cell.processes.running[leader] = None
        client.create(f"{root}/after")
        assert sorted(client.children(root)) == ["after", "before"]
    said = [cell.whole_output(number)[marks[number] :] for number in range(3)]
    assert any(f"replica {leader + 1} hands over" in said[number] for number in others(leader)), said
    assert not any("was silent" in text for text in said), said
    assert cell.wait_leader() != leader


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_follower_that_is_asked_to_stop_disturbs_nobody(cell, root, number):
    """Exit code 0, the leader stays, and the client that hung on it keeps its session."""
    leader = cell.wait_leader()
    follower = others(leader)[0]
    hosts = ",".join((host(cell, follower), host(cell, leader)))
    client = KazooClient(hosts=hosts, randomize_hosts=False, timeout=8.0)
    client.start(timeout=PATIENCE_S)
    try:
        client.create(f"{root}/mine", ephemeral=True)
        process = cell.processes.running[follower]
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE_S) == 0
        cell.processes.running[follower] = None
        stat = client.retry(client.exists, f"{root}/mine")
        assert stat.ephemeralOwner == client.client_id[0]
        assert cell.wait_leader() == leader
    finally:
        client.stop()
        client.close()


# -- no majority -----------------------------------------------------------------------------------------------


async def attempt(hosts: str, root: str, count: int, fault: Callable[[], object]) -> dict[str, tuple[str, float]]:
    """Writes through one replica during a fault, each with a name of its own.

    Returns:
        what came of each, and after how many seconds.
    """
    outcomes: dict[str, tuple[str, float]] = {}

    async def write(name: str) -> None:
        began = time.monotonic()
        try:
            await client.create(f"{root}/{name}-", sequential=True)
            outcome = "done"
        except OutcomeUnknown:
            outcome = "unknown"
        except NotApplied:
            outcome = "not applied"
        outcomes[name] = (outcome, time.monotonic() - began)

    async with synod.connect(hosts, timeout=ANSWER_S, session_timeout_ms=6_000) as client:
        await client.create(f"{root}/whole")
        fault()
        reading = asyncio.create_task(client.get(f"{root}/whole", timeout=1.0))
        await asyncio.gather(*(write(f"half{n}") for n in range(count)))
        with pytest.raises((OutcomeUnknown, NotApplied)):
            await reading  # what this replica last knew might be old by now
    return outcomes


@pytest.mark.parametrize("survivor", ["leader", "follower"])
def test_without_a_majority_nothing_hangs_and_nothing_is_half_done(cell, root, survivor):
    """Every request gets an error in bounded time; after the heal each write is there once or not at all."""
    leader = cell.wait_leader()
    alone = leader if survivor == "leader" else others(leader)[0]
    with contextlib.ExitStack() as fault:
        hurt = functools.partial(fault.enter_context, paused(cell, *others(alone)))
        outcomes = asyncio.run(attempt(host(cell, alone), root, 4, hurt))
        assert [outcome for outcome, _ in outcomes.values() if outcome == "done"] == []
        assert max(seconds for _, seconds in outcomes.values()) < ANSWER_S + LATE_S
        # The replica that is left says what it can do: live, and not serve.
        assert says_ok(cell.ports[alone])
        wait_for(lambda: http(cell.http_ports[alone], "/readyz")[0] == 503, "a replica that is not ready")
        assert http(cell.http_ports[alone], "/healthz")[0] == 200
        assert four_letter_word(cell.ports[alone], b"isro") == "null"
        assert "not currently serving" in four_letter_word(cell.ports[alone], b"srvr")
        began = time.monotonic()
        with pytest.raises((OutcomeUnknown, NotApplied)), BlockingCell(host(cell, alone), timeout=1.0) as late:
            late.create(f"{root}/late")
        assert time.monotonic() - began < 1.0 + LATE_S
    cell.wait_settled()
    seen = seen_by_each(cell, root)
    assert seen[0] == seen[1] == seen[2]
    for name, (outcome, _) in outcomes.items():
        copies = sum(child.startswith(f"{name}-") for child in seen[0])
        assert copies <= (1 if outcome == "unknown" else 0), (name, outcome, seen[0])
    assert "whole" in seen[0]
    assert sum(child == "late" for child in seen[0]) <= 1


def test_what_was_acknowledged_outlives_a_crash_of_everybody(cell, root):
    """Durable before visible: SIGKILL of all three at once, in the middle of writes, loses nothing that was said."""
    said: list[str] = []
    unknown: list[str] = []

    async def write() -> None:
        async with synod.connect(cell.hosts, timeout=ANSWER_S) as client:
            for name in (f"{number:05}" for number in itertools.count()):
                try:
                    await client.create(f"{root}/{name}")
                except OutcomeUnknown:
                    unknown.append(name)
                except NotApplied:
                    continue
                else:
                    said.append(name)

    async def crash() -> None:
        writing = asyncio.create_task(write())
        while len(said) < 50:
            assert not writing.done(), writing
            await asyncio.sleep(0.001)
        for number in range(3):
            cell.processes.kill(number)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(crash())
    cell.wait_settled()
    seen = seen_by_each(cell, root)
    assert seen[0] == seen[1] == seen[2]
    assert set(said) <= set(seen[0])
    assert len(set(seen[0]) - {*said, *unknown}) <= 1  # the one that was under way


# -- what it says of itself ------------------------------------------------------------------------------------


def test_four_letter_words(cell, root):
    """What load balancers, monitors and kazoo's own commands read, replica by replica."""
    leader = cell.wait_leader()
    for number, port in enumerate(cell.ports):
        mode = "leader" if number == leader else "follower"
        assert four_letter_word(port, b"ruok") == "imok"
        assert four_letter_word(port, b"isro") == "rw"
        srvr = dict(line.split(": ", 1) for line in four_letter_word(port, b"srvr").splitlines())
        assert srvr["Mode"] == mode
        assert srvr["Zookeeper version"].startswith("3.")
        assert srvr["Zxid"].startswith("0x")
        assert {"Latency min/avg/max", "Received", "Sent", "Connections", "Outstanding", "Node count"} <= set(srvr)
        stat = four_letter_word(port, b"stat")
        assert stat.splitlines()[1] == "Clients:"
        assert f"Mode: {mode}" in stat
        mntr = dict(line.split("\t") for line in four_letter_word(port, b"mntr").splitlines())
        assert mntr["zk_server_state"] == mode
        assert int(mntr["zk_znode_count"]) >= 1
        numbers = ("num_alive_connections", "outstanding_requests", "watch_count", "ephemerals_count", "packets_sent")
        assert all(mntr[f"zk_{name}"].isdecimal() for name in numbers)
        envi = four_letter_word(port, b"envi").splitlines()
        assert envi[0] == "Environment:"
        assert envi[1].startswith("zookeeper.version=3.")
        assert four_letter_word(port, b"dump") == "dump is not executed because it is not in the whitelist.\n"


def test_the_words_that_kazoo_speaks(cell):
    """An unmodified client reads version and mode out of them."""
    leader = cell.wait_leader()
    client = KazooClient(hosts=host(cell, leader))
    client.start(timeout=PATIENCE_S)
    try:
        assert client.server_version()[0] == 3
        assert client.command(b"ruok") == "imok"
        assert "Mode: leader" in client.command(b"srvr")
    finally:
        client.stop()
        client.close()


STATUS = {
    "id": int,
    "cell_id": str,
    "role": str,
    "leader": int,
    "ballot": list,
    "applied_slot": int,
    "zxid": int,
    "digest": str,
    "digest_slot": int,
    "sessions": int,
    "connections": int,
    "znodes": int,
    "watches": int,
    "log_bytes": int,
    "readable": bool,
    "read_only": bool,
    "abstaining": bool,
    "damage": list,
    "chosen_slot": int,
    "snapshot_slot": int,
    "outstanding": int,
    "last_election": dict,
    "measures": dict,
    "uptime_ms": int,
    "election_timeout_ms": int,
    "http": str,
    "feature_level": int,
    "supported_level": int,
    "version": str,
    "compiled": bool,
    "io_uring": bool,
    "peers": list,
}


def test_status_is_what_the_interface_promises(cell, root):
    """Every key with its type, and values that agree between the replicas."""
    leader = cell.wait_leader()

    def met(number: int) -> bool:
        return all(peer["connected"] for peer in cell.status(number)["peers"])

    wait_for(lambda: all(map(met, range(3))), "everybody connected: a cell leads with two of three")
    client = KazooClient(hosts=host(cell, leader))
    client.start(timeout=PATIENCE_S)
    try:
        client.create(f"{root}/mine", ephemeral=True)
        client.exists(f"{root}/other", watch=lambda _: None)
        # Whoever made the root is perhaps still being seen off.
        wait_for(lambda: cell.status(leader)["connections"] == 1, "this client alone, at the leader")
        rows = [cell.status(number) for number in range(3)]
        for number, row in enumerate(rows):
            assert {key: type(row[key]) for key in STATUS} == STATUS
            assert row["id"] == number + 1
            assert row["role"] == ("leader" if number == leader else "follower")
            assert row["leader"] == leader + 1
            assert row["ballot"] == rows[leader]["ballot"]
            assert row["ballot"][1] == leader + 1
            assert int(row["digest"], 16) >= 0
            assert row["cell_id"] == rows[0]["cell_id"]
            assert row["version"] == synod.__version__
            peers = {peer["id"]: peer for peer in row["peers"]}
            assert sorted(peers) == [other + 1 for other in others(number)]
            assert all(set(peer) == {"id", "address", "connected", "lag", "silent_ms"} for peer in peers.values())
            assert all((peer["silent_ms"] is None) == (number != leader) for peer in peers.values())
            assert all(peer["connected"] for peer in peers.values())
        assert rows[leader]["connections"] == 1
        assert rows[leader]["watches"] == 1
        assert rows[leader]["sessions"] >= 1
    finally:
        client.stop()
        client.close()


def test_health_is_of_the_process_and_readiness_of_the_cell(cell):
    """`/healthz` is about this process, `/readyz` about linearizable reads."""
    for port in cell.http_ports:
        assert http(port, "/healthz")[0] == 200
        assert http(port, "/readyz")[0] == 200


def gauges(cell: RealCell, number: int) -> dict[str, float]:
    """The first sample of each gauge."""
    families = text_string_to_metric_families(http(cell.http_ports[number], "/metrics")[1])
    return {family.name: family.samples[0].value for family in families if family.type == "gauge" and family.samples}


def test_metrics_are_what_prometheus_reads(cell, root):
    """They parse, have help and values, and agree with `/status`."""
    leader = cell.wait_leader()
    for number, port in enumerate(cell.http_ports):
        families = {family.name: family for family in text_string_to_metric_families(http(port, "/metrics")[1])}
        assert all(family.documentation for family in families.values())
        values = gauges(cell, number)
        assert values["synod_leader"] == (number == leader)
        assert values["synod_ready"] == 1
        wait_for(lambda n=number: gauges(cell, n)["synod_znodes"] == cell.status(n)["znodes"], "the same count twice")
        assert values["synod_applied_slot"] >= 1
        assert families["synod_sync_seconds"].type == "histogram"
        counts = [s.value for s in families["synod_sync_seconds"].samples if s.name.endswith("_bucket")]
        assert counts == sorted(counts)
        assert counts[-1] >= 1
        assert families["synod_elections"].type == "counter"


# -- the disk --------------------------------------------------------------------------------------------------


@pytest.mark.requires("root")
def test_a_replica_without_room_abstains_and_says_so(tmp_path):
    """It promises nothing that it cannot write: it is no part of a majority until there is room; nothing is lost."""
    full = 2
    with small_disk(tmp_path / f"replica-{full + 1}", "24m") as disk, RealCell(tmp_path, settings=SETTINGS) as cell:
        with_room = ",".join(host(cell, n) for n in others(full))
        client = KazooClient(hosts=f"{host(cell, full)},{with_room}", randomize_hosts=False, timeout=6.0)
        client.start(timeout=PATIENCE_S)
        try:
            session = client.client_id[0]
            client.create("/mine", ephemeral=True)
            # One segment fits, the next one, which is prepared when the first is half full, does not.
            with BlockingCell(with_room) as other:
                wait_for(lambda: comes_to_be(other, "/ballast"), "the ballast")
                number = itertools.count()
                wait_for(lambda: _fills(other, next(number)) and cell.status(full)["abstaining"], "one that abstains")
            said = cell.whole_output(full)
            assert "this replica abstains until there is room: " in said
            assert "no space left on the device; free some, what is acknowledged is safe" in said
            assert http(cell.http_ports[full], "/readyz")[0] == 503
            assert http(cell.http_ports[full], "/healthz")[0] == 200
            # A client without any patience of its own is sent away, and moves with its session.
            client.retry(client.set, "/mine", b"moved")
            assert client.exists("/mine").ephemeralOwner == client.client_id[0] == session
        finally:
            client.stop()
            client.close()
        wait_for(lambda: sorted(map(cell.role, others(full))) == ["follower", "leader"], "a leader with room")
        follower = next(n for n in others(full) if n != cell.wait_leader())
        with BlockingCell(with_room, timeout=2.0) as other:
            wait_for(lambda: comes_to_be(other, "/before"), "a write")
            with paused(cell, follower), pytest.raises((OutcomeUnknown, NotApplied)):
                other.create("/without")  # the leader and one that abstains are no majority
            wait_for(lambda: comes_to_be(other, "/after"), "the cell's return")
        assert cell.processes.running[full].poll() is None
        subprocess.run(["mount", "-o", "remount,size=96m", str(disk)], check=True)
        wait_for(lambda: not cell.status(full)["abstaining"], "a replica that takes part again")
        assert "there is room on the disk again: this replica takes part again" in cell.whole_output(full)
        with BlockingCell(host(cell, full)) as other:
            assert {"before", "after"} <= set(other.children("/"))
        # Now it counts: the cell does without the other follower.
        with paused(cell, follower), BlockingCell(host(cell, full), timeout=10.0) as other:
            wait_for(lambda: comes_to_be(other, "/with"), "a write without the other follower")


def _fills(client: BlockingCell, number: int) -> bool:
    """Write half a megabyte; a busy machine may let it fail, and the next one is as good."""
    with contextlib.suppress(OutcomeUnknown, NotApplied):
        client.set("/ballast", bytes([number % 256]) * 500_000)
    return True
