"""What was measured reaches the document whole: tables, plots that are well-formed, and the marks that hold them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from bench._baseline import compare
from bench._plot import curves, ratios
from bench._publish import BEGIN, END, publish
from bench._report import markdown, merged

FACTS = {
    "date": "2026-01-01",
    "cores": 2,
    "cpu": "some <fast> processor",
    "memory_gb": 1.0,
    "kernel": "6",
    "python": "3.11",
    "replicas": 3,
}
NAMES = {"synod (compiled)": "1", "ZooKeeper": "3.8"}


def row(title: str, ours: float, theirs: float, **more: object) -> dict:
    return {
        "title": title,
        "unit": "1/s",
        "values": {"synod (compiled)": ours, "ZooKeeper": theirs},
        "ratios": {"synod (compiled)": ours / theirs},
        **more,
    }


def document(*rows: dict) -> dict:
    return {"machine": FACTS, "systems": NAMES, "ours": ["synod (compiled)"], "rows": list(rows)}


GROWN = {
    "system": "synod (compiled)",
    "curves": [
        {"what": "znodes", "counts": [10, 1000], "rows": {"write": {"rate": [5.0, 4.0], "cost_us": [8.5, 9.5]}}}
    ],
    "stalls": {
        "znodes": 1000,
        "wanted": 50,
        "rate": 49.5,
        "seconds": 2.0,
        "widest_gap_ms": 12.0,
        "max_latency_ms": 14.0,
        "generators_own_pause_ms": 3.0,
        "gaps_over_20_ms": [],
    },
    "memory_mib": 40.0,
}


def test_runs_of_parts_make_one_report() -> None:
    """Of what was measured twice the last counts, system by system, and ratios follow."""
    again = row("a", 3, 1)
    del again["values"]["ZooKeeper"]
    whole = merged([document(row("a", 1, 2), row("b", 2, 1)), document(again)])
    assert [(one["title"], one["values"]) for one in whole["rows"]] == [
        ("a", {"synod (compiled)": 3, "ZooKeeper": 2}),
        ("b", {"synod (compiled)": 2, "ZooKeeper": 1}),
    ]
    assert whole["rows"][0]["ratios"] == {"synod (compiled)": 1.5}


def test_the_table_states_ratio_and_goal() -> None:
    """A ratio goal stands in the row; an absolute one is found by its title."""
    table = markdown(document(row("write & 1:1", 30, 20, goal=1.5), row("leader killed: median gap", 1, 2)))
    assert "| write & 1:1 | 30 | 20 | 1.50 | 1.5 |" in table
    assert "| leader killed: median gap | 1 | 2 | 0.50 | 0.2 s |" in table


def test_plots_are_well_formed_and_show_every_row() -> None:
    """Names of machines and rows may hold anything."""
    svg = ratios(document(row("write <&> 1", 3, 1, goal=4), row("slower", 1, 2)))
    texts = [one.text for one in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"write <&> 1", "3.00", "slower", "0.50"} <= set(texts)
    lines = ET.fromstring(curves([GROWN])).findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 1


def test_publishing_changes_the_marked_parts_only(tmp_path: Path) -> None:
    """What a person wrote around the figures stays; without marks nothing is written."""
    marks = "".join(f"{BEGIN.format(name)}\nold\n{END.format(name)}\nbetween\n" for name in ("table", "growth"))
    text = tmp_path / "PERFORMANCE.md"
    text.write_text(f"before\n{marks}after\n")
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps(document(row("write", 30, 20))))
    second.write_text(json.dumps({"machine": FACTS, "growth": [GROWN]}))
    publish([first, second], tmp_path)
    found = text.read_text()
    assert found.startswith("before\n")
    assert found.endswith("between\nafter\n")
    assert "old" not in found
    assert "| write | 30 | 20 | 1.50 |" in found
    assert "| znodes | 1,000 | write | 4 | 9.5 |" in found
    assert "widest gap between acknowledgements 12 ms" in found
    publish([first], tmp_path)
    kept = json.loads((tmp_path / "performance.json").read_text())
    assert set(kept) == {"3 replicas", "growth"}, (
        "the figures of a part that was not measured now stay beside its table"
    )
    text.write_text("no marks\n")
    with pytest.raises(SystemExit, match="has no part between"):
        publish([first], tmp_path)
    assert text.read_text() == "no marks\n"


def test_a_comparison_is_one_of_ratios() -> None:
    """A machine that is twice as fast at everything shows no change."""
    before = {"version": "1.0", "calibration": 100.0, "rates": {"synod": {"write": 50.0, "read": 50.0}}}
    now = {"version": "1.1", "calibration": 200.0, "rates": {"synod": {"write": 100.0, "read": 50.0}}}
    table = compare(now, before)
    assert "+0%" in table
    assert "-50% !" in table
    assert "since 1.0" in table
    assert "nothing stored" in compare(now, None)
