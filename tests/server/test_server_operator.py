"""What an operator may ask of a replica, and what nobody can make it do by mistake."""

from __future__ import annotations

import http.client
import json

import pytest

from _cells import STEADY, RealCell, synod

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """A cell for the whole module; no test hurts it."""
    with RealCell(tmp_path_factory.mktemp("cell"), settings=STEADY) as running:
        yield running


def leader(cell: RealCell) -> int:
    """The index of the replica that leads, once all agree on it."""
    return cell.wait_settled()


def post(cell: RealCell, i: int, body: bytes = b"{}", **headers: str) -> tuple[int, dict]:
    """Ask replica i to hand over, with these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", cell.http_ports[i], timeout=10)
    try:
        connection.request("POST", "/operator/transfer-leader", body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_the_leader_hands_over_when_it_is_asked(cell):
    """Another replica leads, the command says which, and clients notice nothing but a moment."""
    before = leader(cell)
    done = synod("transfer-leader", "--cell", cell.hosts, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["from"] == before + 1
    assert answer["leader"] != before + 1
    assert leader(cell) == answer["leader"] - 1


def test_whoever_does_not_lead_cannot_hand_over(cell):
    """It says whom to ask; the leader leads on."""
    now = leader(cell)
    other = (now + 1) % 3
    status, answer = post(cell, other, **{"Content-Type": "application/json"})
    assert (status, answer["error"]) == (409, f"replica {other + 1} does not lead; ask replica {now + 1}")
    assert leader(cell) == now


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({"Content-Type": "text/plain"}, b"{}", "application/json"),
        ({"Content-Type": "application/json", "Host": "evil.example"}, b"{}", "by its address"),
        ({"Content-Type": "application/json"}, b"[", "a JSON object"),
        ({"Content-Type": "application/json"}, b"[]", "a JSON object"),
        ({"Content-Type": "application/json"}, b" " * 70_000, "at most"),
    ],
)
def test_what_a_web_page_could_send_is_refused(cell, headers, body, said):
    """A browser sends no JSON elsewhere without asking, and names no host by an address that it was tricked into."""
    now = leader(cell)
    status, answer = post(cell, now, body, **headers)
    assert status == 400
    assert said in answer["error"]
    assert leader(cell) == now


def test_a_cell_that_is_not_there(tmp_path):
    """Exit code 3, one sentence."""
    done = synod("transfer-leader", "--cell", "127.0.0.1:1", "--timeout", "0.5")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "synod: no replica of 127.0.0.1:1 serves; nothing was changed\n"
