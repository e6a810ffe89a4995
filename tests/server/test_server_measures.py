"""What an operator sees: every measure is named, typed and explained, and says what has really happened."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from bench.peers import four_letter_word
from prometheus_client.parser import text_string_to_metric_families

from _cells import STEADY, RealCell, http, paused, synod, wait_for
from synod.base import Ballot
from synod.cli._member import show_members
from synod.cli._status import details_table, silent_members, table
from synod.client import BlockingCell
from synod.replica import Note
from synod.server._metrics import FAMILIES, Histogram, Measures

ROOT = Path(__file__).parents[2]


def text() -> str:
    return (ROOT / "docs" / "OPERATING.md").read_text()


def rows(name: str) -> list[list[str]]:
    """The cells of a table of the document, without its head."""
    block = text().split(f"<!-- table: {name} -->\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()[2:]]


# -- the document ----------------------------------------------------------------------------------------------


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    """Name, type and help, in order: a metric that is added or changed changes the document."""
    assert rows("metrics") == [[f"`{name}`", kind, what] for name, (kind, what) in FAMILIES.items()]


def test_names_follow_the_rules_of_prometheus() -> None:
    """Base units, no `_total` but that of a counter, letters and underscores."""
    for name, (kind, _) in FAMILIES.items():
        assert re.fullmatch(r"synod(_[a-z]+)+", name), name
        assert not re.search(r"_(total|ms|micros|us|kb|mb|percent)$", name), name
        if kind == "histogram":
            assert name.endswith(("_seconds", "_bytes", "_writes")), name


def test_alerts_ask_for_metrics_that_there_are() -> None:
    """Every name in a PromQL expression is one of ours, as it is exposed."""
    exposed = {"synod_info"}
    for name, (kind, _) in FAMILIES.items():
        exposed |= {"counter": {f"{name}_total"}, "histogram": {f"{name}_bucket"}, "gauge": {name}}[kind]
    found = set(re.findall(r"\bsynod_\w+", text().split("## Alerts worth having")[1].split("\n## ")[0]))
    assert len(found) > 10
    assert found <= exposed


def test_every_line_of_the_log_that_is_explained_is_one_that_is_written() -> None:
    """Without its numbers and names, each stands in the source."""
    source = "\n".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.py")))
    plain = re.sub(r"\{[^{}]*\}", "#", source)
    for line, _ in rows("log"):
        said = re.sub(r"^`(?:(?:election|disk|catch-up|members|level): )?|`$", "", line)
        said = re.sub(r"\b\d+(?:\.\d+)?\b", "#", said)
        parts = said.split(": ") if said not in plain else [said]
        assert all(part in plain for part in parts), line


def test_every_line_that_a_replica_writes_is_explained() -> None:
    """What the core notes and the server logs stands in the table: a constant part of it at least."""
    explained = "\n".join(line for line, _ in rows("log"))
    source = "\n".join(
        path.read_text()
        for room in ("paxos", "replica", "server")
        for path in sorted((ROOT / "src/synod" / room).glob("*.py"))
    )
    calls = re.findall(r'(?:_note|\bNote)\(\s*"[\w-]+",\s*f?"([^"]+)"', source)
    calls += re.findall(r'logger\.(?:info|warning|error)\(\s*"([^"]+)"', source)
    calls += re.findall(r'\babuse\(\s*f?"[^"]*",\s*f?"([^"]+)"', source)
    assert len(calls) > 15
    for call in calls:
        parts = [part.strip() for part in re.split(r"\{[^{}]*\}|%[sd]|: |; ", call)]
        assert not any(parts) or any(len(part) > 7 and part in explained for part in parts), call


# -- elections and their reasons -------------------------------------------------------------------------------


def test_an_election_is_told_with_its_reason() -> None:
    """The note that came before it, how long it took, and nobody else's reason for the next one."""
    measures = Measures(0)
    measures.follows(None, Ballot(0, 0), 5, lambda: 1)
    measures.follows(1, Ballot(1, 1), 1_000, lambda: 2)
    assert measures.elections["start"] == 1
    measures.noted(Note("election", "replica 1 was silent", "silence"), 500_000)
    measures.noted(Note("election", "ballot 2.2 is raised", "raised"), 510_000)
    measures.follows(None, Ballot(2, 2), 520_000, lambda: 3)
    measures.noted(Note("election", "replica 2 leads", "leads"), 530_000)
    measures.follows(2, Ballot(2, 2), 540_000, lambda: 4)
    assert measures.last_election == {
        "leader": 2,
        "ballot": [2, 2],
        "reason": "silence",
        "text": "replica 1 was silent",
        "at_ms": 4,
        "took_ms": 40,
    }
    assert (measures.elections["silence"], measures.ballots["raised"], measures.ballots["leads"]) == (1, 1, 1)
    measures.follows(2, Ballot(2, 2), 600_000, lambda: 5)
    assert measures.leader_changes == 2
    measures.follows(3, Ballot(3, 3), 700_000, lambda: 6)
    assert measures.last_election is not None
    assert measures.last_election["reason"] == "called"


def test_a_histogram_in_few_numbers() -> None:
    """99 of 100 keep the bound, which is no more than the largest value."""
    histogram = Histogram((1, 10, 100))
    assert histogram.summary() == {"count": 0, "mean": 0.0, "p99": 0.0, "max": 0.0}
    for _ in range(99):
        histogram.observe(0.5)
    histogram.observe(50)
    assert histogram.summary() == {"count": 100, "mean": 0.995, "p99": 1, "max": 50}
    histogram.observe(500)
    histogram.observe(500)
    assert histogram.summary()["p99"] == 500


# -- the table -------------------------------------------------------------------------------------------------


def row(id_: int, **more: object) -> dict[str, object]:
    peers = [
        {"id": peer, "address": f"127.0.0.1:710{peer}", "connected": peer != 3, "lag": 7 if id_ == 1 else None}
        for peer in (1, 2, 3)
        if peer != id_
    ]
    election = {"text": "replica 3 was silent", "at_ms": 40_000}
    return {
        "address": f"127.0.0.1:218{id_}",
        "id": id_,
        "state": "leader" if id_ == 1 else "follower",
        "role": "leader" if id_ == 1 else "follower",
        "applied_slot": 12_345,
        "sessions": 4,
        "connections": 2,
        "version": "1.2.3",
        "compiled": True,
        "feature_level": 1,
        "supported_level": 2,
        "last_election": election,
        "peers": peers,
        **more,
    }


REPLICAS = [row(1), row(2), {"address": "127.0.0.1:2183", "state": "unreachable"}]


def test_the_table_has_a_row_per_replica_and_names_who_is_silent() -> None:
    """Lag as the leader sees it, both levels, the reason of the last election, and the third replica."""
    lines = table(REPLICAS, 200, now=100.0)
    assert lines[0].split() == [
        *[
            "id",
            "address",
            "state",
            "applied",
            "slot",
            "lag",
            "sessions",
            "connections",
            "version",
            "level",
            "last",
            "election",
        ]
    ]
    assert lines[1].split()[:7] == ["1", "127.0.0.1:2181", "leader", "12345", "0", "4", "2"]
    assert lines[1].endswith("1.2.3    1 of 2  1 min ago: replica 3 was silent")
    assert lines[2].split()[4] == "7"
    assert lines[3].split() == ["-", "127.0.0.1:2183", "unreachable"]
    assert lines[4] == "replica 3 (peers at 127.0.0.1:7103) gave no answer here; no replica hears it"
    assert silent_members(REPLICAS) == [
        {"id": 3, "peer_address": "127.0.0.1:7103", "connected_to": [], "silent_ms": None}
    ]


@pytest.mark.parametrize(
    ("silent_ms", "said"),
    [
        (None, "replica 1 hears it"),
        (80, "replica 1 hears it"),
        (500, "replica 1 hears it"),
        (501, "it is connected to replica 1, and has been silent for 1 s"),
        (8_300, "it is connected to replica 1, and has been silent for 8 s"),
        (130_000, "it is connected to replica 1, and has been silent for 2 min"),
    ],
)
def test_who_is_connected_and_does_not_answer_the_leader_is_not_called_heard(silent_ms: int | None, said: str) -> None:
    """The connection of a process that hangs stands: the leader's own clock tells."""
    peer = {"id": 2, "address": "127.0.0.1:7102", "connected": True, "lag": 0, "silent_ms": silent_ms}
    lines = table([row(1, peers=[peer], election_timeout_ms=500)], 200, now=100.0)
    assert lines[-1] == f"replica 2 (peers at 127.0.0.1:7102) gave no answer here; {said}"


def test_the_members_show_who_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """In the column of the connections: a hung member would pass for one that is well."""
    shown = (("yes", True, None), ("yes", True, 90), ("silent for 8 s", True, 8_300), ("no", False, None))
    members = [
        {
            "id": id_,
            "role": "voter",
            "incarnation": 1,
            "address": f"127.0.0.1:710{id_}",
            "connected": connected,
            "lag": 0,
            "silent_ms": silent_ms,
        }
        for id_, (_, connected, silent_ms) in enumerate(shown, 1)
    ]
    show_members({"leader": 1, "election_timeout_ms": 500, "members": members}, as_json=False)
    lines = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["id", "role", "incarnation", "address", "connected", "slots behind"]
    assert [line[4] for line in lines[1:]] == [text for text, _, _ in shown]


def test_the_details_tell_how_much_is_written_at_once() -> None:
    """Both histograms of the disk's work, as mean, bound of 99 in 100, and largest."""
    measures = Measures(0)
    for size in (*[200] * 99, 5_000):
        measures.batch_bytes.observe(size)
    for writes in (1, 1, 1, 3):
        measures.sync_writes.observe(writes)
    told = row(1, digest_slot=4_096, snapshot_slot=0, log_bytes=16_800_000, measures=measures.summary())
    title, line = (re.split(r"  +", text) for text in details_table([told]))
    shown = dict(zip(title, line, strict=False))  # no election was counted
    assert shown["batch bytes mean/p99/max"] == "248 / 256 / 5000"
    assert shown["writes per sync mean/p99/max"] == "1.5 / 3 / 3"
    assert shown["log"] == "16.8 MB"


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_gets_everything_in_more_lines(width: int) -> None:
    """Nothing is cut off, no line is too long."""
    wide, narrow = table(REPLICAS[:2], 300, now=100.0), table(REPLICAS[:2], width + 20, now=100.0)
    assert max(len(line) for line in narrow[:-1]) <= width + 20
    assert {word for line in wide[1:] for word in line.split()} <= {word for line in narrow for word in line.split()}
    assert sum("last election" in line for line in narrow) == 2


SILENT_S = STEADY["timing.election_timeout_ms"] / 1000 + 0.5
"""Who has said nothing for longer than an election timeout is told to be silent."""


# -- a real cell -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    with RealCell(tmp_path_factory.mktemp("cell"), settings=STEADY) as running:
        try:
            yield running
        finally:
            running.resume_all()


def scrape(cell: RealCell, number: int) -> dict[str, float]:
    """Every sample of a replica, by name and labels."""
    found = {}
    for family in text_string_to_metric_families(http(cell.http_ports[number], "/metrics")[1]):
        for sample in family.samples:
            labels = ",".join(sample.labels[key] for key in sorted(sample.labels))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.mark.slow
def test_a_replica_exposes_exactly_these_families(cell) -> None:
    """As Prometheus parses them, with their types; the rest is the process's own."""
    cell.wait_settled()
    for port in cell.http_ports:
        families = {f.name: f.type for f in text_string_to_metric_families(http(port, "/metrics")[1])}
        ours = {name: kind for name, kind in families.items() if not name.startswith("process_")}
        assert ours == {name: kind for name, (kind, _) in FAMILIES.items()}


@pytest.mark.slow
def test_the_word_and_the_page_say_the_same(cell) -> None:
    """`synod status` needs no HTTP; also of a replica that serves nobody."""
    leader = cell.wait_settled()
    for number, port in enumerate(cell.ports):
        said = json.loads(four_letter_word(port, b"synd"))
        page = cell.status(number)
        assert set(said) == set(page)
        assert said["id"] == page["id"] == number + 1
    other = (leader + 1) % 3
    with paused(cell, *(n for n in range(3) if n != other)):
        wait_for(lambda: not json.loads(four_letter_word(cell.ports[other], b"synd"))["readable"], "no majority")
        done = synod("status", "--json", "--timeout", "5", cell=cell.hosts)
        assert done.returncode == 3
        report = json.loads(done.stdout)
        assert (report["serving"], report["leader"]) == (False, None)
        states = [entry["state"] for entry in report["replicas"]]
        assert [state == "unreachable" for state in states] == [n != other for n in range(3)]
        assert [member["id"] for member in report["silent"]] == [n + 1 for n in range(3) if n != other]
    cell.wait_settled()


@pytest.mark.slow
def test_a_follower_that_hangs_is_told_by_its_silence(cell) -> None:
    """Its connection stands and nothing is chosen meanwhile: it is connected and lags no slot."""
    leader = cell.wait_settled()
    hung = (leader + 1) % 3
    name = f"synod_peer_silence_seconds{{{hung + 1}}}"
    wait_for(lambda: scrape(cell, leader)[name] < 0.5, "an answer")
    with paused(cell, hung):
        wait_for(lambda: scrape(cell, leader)[name] > SILENT_S, "a silence")
        found = scrape(cell, leader)
        assert found[f"synod_peer_connected{{{hung + 1}}}"] == 1
        hosts = f"127.0.0.1:{cell.ports[leader]}"
        said = synod("member", "list", cell=hosts).stdout.splitlines()[1 + hung]
        assert re.search(r"  silent for \d+ s  ", said), said
        answer = json.loads(synod("member", "list", "--json", cell=hosts).stdout)
        assert {m["id"]: m["silent_ms"] is not None for m in answer["members"]} == {
            n + 1: n != leader for n in range(3)
        }
        assert "and has been silent for" in synod("status", cell=hosts).stdout
    wait_for(lambda: scrape(cell, leader).get(name, 9) < 0.5, "an answer")
    cell.wait_settled()


@pytest.mark.slow
def test_reasons_stalls_and_gaps_are_counted(cell) -> None:
    """A killed leader, a silent one and one that is asked leave three reasons; a paused process has stood still."""
    counted = itertools.chain.from_iterable

    def reasons() -> dict[str, float]:
        total: dict[str, float] = {}
        for name, value in counted(scrape(cell, n).items() for n in range(3) if n != away):
            if name.startswith("synod_elections_total"):
                total[name[22:-1]] = total.get(name[22:-1], 0) + value
        return total

    away = cell.wait_settled()
    before = reasons()
    cell.processes.kill(away)
    wait_for(lambda: reasons()["connection closed"] > before["connection closed"], "a closed connection")
    cell.wait_settled()
    away = 3
    before = reasons()
    assert synod("transfer-leader", cell=cell.hosts).returncode == 0
    wait_for(lambda: reasons()["hand-over"] > before["hand-over"], "a hand-over")
    leader = cell.wait_settled()
    with BlockingCell(cell.hosts) as client:
        client.create("/written")
    stalls = scrape(cell, leader)["synod_stalls_total{loop}"]
    away = leader
    before = reasons()
    with paused(cell, leader):
        wait_for(lambda: reasons()["silence"] > before["silence"], "a silence")
    wait_for(lambda: scrape(cell, leader)["synod_stalls_total{loop}"] > stalls, "a stall")
    now = cell.wait_settled()
    found = scrape(cell, now)
    assert found["synod_leader"] == 1
    assert found["synod_heartbeat_gap_seconds_count"] > 0
    assert found["synod_sync_seconds_count"] > 0
    done = synod("status", "--details", cell=cell.hosts)
    assert done.returncode == 0
    title, *details = done.stdout.split("\n\n")[1].splitlines()
    assert title.startswith("id  digest slot  snapshot slot  log")
    assert len(details) == 3
    assert "silence " in done.stdout
    last = cell.status(now)["last_election"]
    assert last["leader"] == now + 1
    assert last["text"]
