"""What a real replica did is done again, input by input, with every output compared: `synod replay`."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from _cells import STEADY, RealCell, Replica, sentence, synod, wait_for
from synod.base import BALLOT_ZERO, SECOND, Change, ConfigError, Configuration, Member, RemoteProtocolError
from synod.client import BlockingCell
from synod.replica import Hello, Ready, ReplicaOptions
from synod.replica import Replica as Core
from synod.server import replay
from synod.server._recorder import FRAME, INPUTS, MAGIC, OutputHash, Recorder, put, start_of, take
from synod.storage import Identity, MemoryFileSystem, Store, format_directory
from synod.tree import Tree

RECORDED = {**STEADY, "recorder.bytes": 64 << 20}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The recording of a replica that served a few requests and was killed."""
    directory = tmp_path_factory.mktemp("recorded")
    with Replica(directory, None, "recorder.bytes=8000000", "session.timeout_ms_min=1000") as replica:
        with BlockingCell(replica.hosts) as cell:
            cell.create("/a", b"1")
            for n in range(20):
                cell.set("/a", str(n).encode())
            with cell.lock("/locks/a"):
                pass
        replica.stop(signal.SIGKILL)
    return next((directory / "data").glob("*.synodrec"))


@pytest.fixture
def copy(recording: Path, tmp_path: Path) -> Path:
    """One that a test may hurt."""
    path = tmp_path / "copy.synodrec"
    path.write_bytes(recording.read_bytes())
    return path


def test_a_killed_replica_of_a_cell_is_replayed_to_its_last_slot(tmp_path: Path) -> None:
    """Three replicas are recorded, the leader is killed with SIGKILL: all three replays come to the same states."""
    with RealCell(tmp_path / "cell", settings=RECORDED) as cell:
        leader = cell.wait_settled()
        with BlockingCell(cell.hosts) as client:
            client.create("/a", b"")
            for n in range(200):
                client.set("/a", str(n).encode())
            with client.lock("/locks/a") as lock:
                client.set("/a", str(lock.fencing_token).encode())
        last = int(str(wait_for(lambda: settled_slot(cell), "one slot everywhere")))
        cell.processes.kill(leader)
        with BlockingCell(cell.hosts) as client:
            client.set("/a", b"goes on")
    states: dict[int, dict[int, int]] = {}
    for number in range(3):
        seen = states[number] = {}
        path = next((cell.directory / f"replica-{number + 1}").glob("*.synodrec"))
        done = replay(str(path), lambda slot, tree, seen=seen: seen.update({slot - 1: tree.digest_anew()}))
        assert done.differs is None
        seen[done.tree.slot] = done.tree.digest_anew()
        assert done.tree.slot >= last
        assert done.tree.nodes[b"/a"].version >= 201
    common = set(states[0]) & set(states[1]) & set(states[2])
    assert last in common
    assert all(states[0][slot] == states[1][slot] == states[2][slot] for slot in common)


def settled_slot(cell: RealCell) -> int:
    """The slot that every replica has applied, if it is one."""
    slots = {int(str(cell.status(number)["applied_slot"])) for number in range(3)}
    return slots.pop() if len(slots) == 1 else 0


@pytest.mark.slow
def test_the_command_tells_what_the_replica_did(recording: Path) -> None:
    """Elections, roles and slots with their times, and the outcome last."""
    done = synod("replay", str(recording))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "replica 1 starts for the" in lines[0]
    assert any("leads with ballot" in line for line in lines)
    assert any("it is leader" in line for line in lines)
    assert any("are applied" in line for line in lines)
    assert "everything came out as it was recorded; the state has the digest" in lines[-1]
    machine = json.loads(synod("replay", str(recording), "--json").stdout)
    assert machine["differs"] is None
    assert machine["slot"] > 20
    assert machine["state"] in lines[-1]


@pytest.mark.slow
def test_only_its_owner_may_read_it(recording: Path) -> None:
    """It holds what clients sent: passwords of sessions among it."""
    assert stat.S_IMODE(recording.stat().st_mode) == 0o600


@pytest.mark.slow
def test_a_torn_end_is_left_out_and_told(copy: Path) -> None:
    """A process that is killed may be in the middle of a record: all before it is good."""
    whole = replay(str(copy))
    data = copy.read_bytes()
    for cut in (1, 5, 11):
        copy.write_bytes(data[:-cut])
        done = replay(str(copy))
        assert done.differs is None
        assert done.torn_bytes > 0
        assert 0 < done.calls < whole.calls
    copy.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert replay(str(copy)).torn_bytes > 0
    assert "the last record is torn" in synod("replay", str(copy)).stdout


def frames_at(data: bytes) -> list[tuple[int, int]]:
    """Where the frames of a recording begin, and how long their payloads are."""
    found, at = [], len(MAGIC) + 2
    while at < len(data):
        length = FRAME.unpack_from(data, at)[0]
        found.append((at, length))
        at += FRAME.size + length
    return found


@pytest.mark.slow
def test_another_output_than_the_recorded_one_is_noticed(copy: Path) -> None:
    """Every output is compared, not only the last state: the first difference is named, and the exit code is 1."""
    data = bytearray(copy.read_bytes())
    at, length = frames_at(data)[30]
    payload = data[at + FRAME.size : at + FRAME.size + length]
    payload[-1] ^= 1  # of the hash at its end
    data[at : at + FRAME.size + length] = FRAME.pack(length, crc32(payload)) + payload
    copy.write_bytes(data)
    done = replay(str(copy))
    assert done.differs is not None
    assert "did not do what is recorded" in done.differs
    assert synod("replay", str(copy)).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nothing", "cannot be read: No such file"),
        ("another file", "is no recording of a replica"),
        ("another format", "is a recording of format 2, and this version of synod reads format 1"),
        ("another version", "was recorded by synod 0.0.9, and this is"),
        ("a damaged one", "is damaged at byte"),
        ("only a beginning", "ends before it begins"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_sentence(copy: Path, what: str, words: str) -> None:
    """Exit code 2, and nothing but the sentence."""
    data = copy.read_bytes()
    start, length = frames_at(data)[0]
    match what:
        case "nothing":
            copy.unlink()
        case "another file":
            copy.write_bytes(b"hello")
        case "another format":
            copy.write_bytes(MAGIC + b"\0\2" + data[10:])
        case "another version":
            items, _ = take(data[start + FRAME.size : start + FRAME.size + length], 0)
            items[1] = "0.0.9"
            parts: list[bytes] = []
            put(parts, items)
            payload = b"".join(parts)
            copy.write_bytes(data[:start] + FRAME.pack(len(payload), crc32(payload)) + payload)
        case "a damaged one":
            broken = bytearray(data)
            broken[frames_at(data)[9][0] + FRAME.size + 3] ^= 1
            copy.write_bytes(broken)
        case "only a beginning":
            copy.write_bytes(data[:40])
    done = synod("replay", str(copy))
    assert done.returncode == 2
    assert words in sentence(done.stderr)


def test_what_the_replica_refused_is_refused_again(tmp_path: Path) -> None:
    """A call is recorded before it is made: what ended with an exception then is no end of the replay."""
    first = Configuration("c" * 32, (Member(1, "127.0.0.1:7001"),))
    grown = first.added(2, "127.0.0.1:7002")
    recorder, told, replica = recorded_alone(tmp_path, first)

    def drain(now: int) -> None:
        while True:
            ready = told.ready()
            for write in ready.writes:
                told.persisted(write.id, now)
            if not ready.writes and not ready.more:
                return

    def wish(after: Configuration, number: int, now: int) -> Change:
        change = Change(after, replica.configuration.digest(), bytes([number]) * 16)
        told.change_members(change, now)
        return change

    with pytest.raises(ConfigError, match="does not lead"):
        wish(grown, 1, SECOND)
    with pytest.raises(RemoteProtocolError):
        told.check_hello(b"no hello")
    drain(SECOND)
    for step in range(11, 40):
        told.tick(step * SECOND // 10, step)
        drain(step * SECOND // 10)
    assert replica.role == "leader"
    made = wish(grown, 2, 4 * SECOND)
    with pytest.raises(ConfigError, match="another change of the members is under way"):
        wish(grown, 3, 4 * SECOND)
    with pytest.raises(RemoteProtocolError):
        told.step(2, b"no message", 4 * SECOND)
    drain(4 * SECOND)
    assert replica.fate_of(made) == "made"
    recorder.close()
    done = replay(str(recorder.path))
    assert done.differs is None
    assert done.tree.slot == replica.tree.slot
    assert done.tree.configuration == grown.encode()
    texts = [text for _, text in done.events]
    assert [text.partition(" is refused")[0] for text in texts if " is refused" in text] == [
        "a change of the members",
        "a peer",
        "a change of the members",
        "a peer",
    ]
    assert "members: the members of the cell are 1, 2 (learner)" in texts


def recorded_alone(directory: Path, configuration: Configuration) -> tuple[Recorder, Any, Core]:
    """What writes a replica down, what is to be told instead of it, and it: a new cell's only one, on a disk in memory."""
    fs = MemoryFileSystem()
    format_directory(fs, "/data", Identity(1, 1, configuration))
    store = Store.open(fs, "/data", cell_id=configuration.cell_id, replica_id=1)
    recorder = Recorder(str(directory), 1 << 20, store.boot)
    made = {
        "id": 1,
        "configuration": configuration,
        "incarnation": 1,
        "disk": 0,
        "options": ReplicaOptions(),
        "boot": store.boot,
        "now": SECOND,
        "wall_ms": 0,
    }
    replica = Core(
        **made,
        recovered=store.recovered,
        tree=Tree(configuration=configuration.encode()),
        rng=recorder.rng(),
        draw_secret=recorder.draw_secret,
    )
    start = start_of(replica=made, recovered=store.recovered, seed=recorder.seed, chunks=None, fresh_zxid=0)
    recorder.begin(start)
    return recorder, recorder.record(replica), replica


def test_its_bytes_are_bounded_and_the_replica_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A recording that is full ends, says so once, and what is in it stays good."""
    caplog.set_level(logging.WARNING, "synod.server")
    recorder = Recorder(str(tmp_path), 4_000, boot=1)
    recorder.begin({"version": "x"})
    for _ in range(100):
        recorder.call(INPUTS.index("client_data"), (1, bytes(100), 5))
        recorder.done(Ready())
    assert recorder.path.stat().st_size <= 2_000
    assert sum("has used up its bytes" in message for message in caplog.messages) == 1
    for boot in range(2, 6):
        Recorder(str(tmp_path), 4_000, boot=boot).begin({"version": "x" * 1_000})
    kept = sorted(path.name for path in tmp_path.glob("*.synodrec"))
    assert kept[-1] == "recording-00000005.synodrec"
    assert sum((tmp_path / name).stat().st_size for name in kept) <= 4_000


@pytest.mark.requires("pure")  # a compiled class shows its fields as methods are shown
def test_every_input_of_a_replica_is_recorded() -> None:
    """A method that changes a replica and is not written down would make every later replay differ."""
    questions = {"hello", "next_deadline", "fate_of", "disk_of", "has_left", "peers", "admitted", "can_read", "role"}
    questions |= {"status", "is_damaged", "why_not_ready", "no_quorum"}
    public = {name for name in dir(Core) if not name.startswith("_")}
    assert public - questions == set(INPUTS) - {"secret"}, "a new method is an input or a question: say which"


def test_values_come_back_as_they_went_in() -> None:
    """Everything that a replica is called with."""
    configuration = Configuration("c" * 32, (Member(1, "127.0.0.1:1"),))
    hello = Hello(
        **{
            **dict.fromkeys((field.name for field in dataclasses.fields(Hello)), 1),
            "cell_id": bytes(16),
            "configuration": bytes(16),
            "promised": BALLOT_ZERO,
        }
    )
    change = Change(configuration, configuration.digest(), bytes(16))
    values: list[object] = [
        0,
        -1,
        1 << 62,
        1 << 200,
        b"",
        b"x" * 300,
        "ä",
        None,
        True,
        False,
        [1, [b"2"]],
        hello,
        change,
    ]
    parts: list[bytes] = []
    for value in values:
        put(parts, value)
    data, at = b"".join(parts), 0
    for value in values:
        taken, at = take(data, at)
        assert taken == value
    assert at == len(data)
    with pytest.raises(TypeError, match="no encoding for float"):
        put([], 1.5)


def test_the_hash_covers_every_kind_of_output() -> None:
    """Two replicas that differ in anything that leaves them have other hashes."""
    seen = set()
    for change in (
        {},
        {"messages": [(2, b"m", False)]},
        {"messages": [(3, b"m", False)]},
        {"messages": [(2, b"m", True)]},
        {"client_output": [(1, b"m")]},
        {"client_closes": ((1, "why"),)},
        {"client_pauses": ((1, True),)},
        {"peer_closes": (2,)},
        {"stop": "because"},
        {"more": True},
    ):
        ready = Ready()
        for name, value in change.items():
            setattr(ready, name, value)
        seen.add(OutputHash().add(ready))
    assert len(seen) == 10
