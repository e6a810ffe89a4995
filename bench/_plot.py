"""Plots as SVG, written by hand: bars of ratios, and curves of cost. No library, so that anybody can make them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

COLOURS: Final = ("#1f6f8b", "#99c24d", "#d1495b", "#7768ae")
INK: Final = "#333"
FAINT: Final = "#ccc"
FONT: Final = "font-family='sans-serif' font-size='12'"
LABEL: Final = 270
WIDTH: Final = 820
BAR: Final = 11


def ratios(document: Mapping[str, Any]) -> str:
    """For every row with a peer: how many times the better peer each of our columns is, on a logarithmic scale."""
    ours = document["ours"]
    rows = [row for row in document["rows"] if row["ratios"]]
    step = BAR * len(ours) + 9
    height = 50 + step * len(rows)
    least, most = 0.25, 2.0 * max((max(row["ratios"].values()) for row in rows), default=1.0)
    span = math.log(most / least)

    def x(value: float) -> float:
        return LABEL + (WIDTH - LABEL - 60) * math.log(max(value, least) / least) / span

    parts = []
    tick = 0.5
    while tick < most:
        parts.append(_line(x(tick), 30, x(tick), height - 14, INK if tick == 1 else FAINT))
        parts.append(_text(x(tick), height - 2, f"{tick:g}", "middle"))
        tick *= 2
    for number, row in enumerate(rows):
        top = 34 + step * number
        parts.append(_text(LABEL - 8, top + step / 2, row["title"], "end"))
        for index, name in enumerate(ours):
            value = row["ratios"].get(name)
            if value is None:
                continue
            at = top + BAR * index
            left, right = sorted((x(1), x(value)))
            parts.append(
                f"<rect x='{left:.1f}' y='{at:.1f}' width='{max(1.0, right - left):.1f}' height='{BAR - 2}' "
                f"fill='{COLOURS[index]}'/>"
            )
            parts.append(_text(max(right, x(1)) + 4, at + BAR - 2, f"{value:.2f}", "start"))
        if row.get("goal"):
            parts.append(_line(x(row["goal"]), top - 2, x(row["goal"]), top + step - 7, "#d1495b", 2))
    title = "times the better of ZooKeeper and etcd (logarithmic; red: the goal)"
    return _svg(height, title, ours, parts)


def curves(grown: Sequence[Mapping[str, Any]]) -> str:
    """Cost of an operation against the size of the cell, one panel for each thing that grows."""
    panels = [(one["system"], curve) for one in grown for curve in one["curves"]]
    height = 60 + 190 * len(panels)
    titles = list(panels[0][1]["rows"]) if panels else []
    parts = []
    for number, (name, curve) in enumerate(panels):
        parts += _panel(34 + 190 * number, f"{name}: {curve['what']}", curve, titles)
    title = "CPU microseconds of the three replicas for one operation (logarithmic)"
    return _svg(height, title, titles, parts)


def _panel(top: float, title: str, curve: Mapping[str, Any], titles: Sequence[str]) -> list[str]:
    counts = curve["counts"]
    values = [value for row in curve["rows"].values() for value in row["cost_us"] if value > 0]
    low, high = 0.8 * min(values), 1.25 * max(values)
    left, right, bottom = 120.0, WIDTH - 40.0, top + 150.0

    def x(index: int) -> float:
        return left + (right - left) * index / max(1, len(counts) - 1)

    def y(value: float) -> float:
        return bottom - (bottom - top - 20) * math.log(max(value, low) / low) / math.log(high / low)

    parts = [_text(left, top + 12, title, "start"), _line(left, bottom, right, bottom, INK)]
    for index, count in enumerate(counts):
        parts.append(_text(x(index), bottom + 16, f"{count:,}", "middle"))
    for number, row in enumerate(titles):
        points = [(x(i), y(value)) for i, value in enumerate(curve["rows"][row]["cost_us"])]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f"<polyline points='{line}' fill='none' stroke='{COLOURS[number]}' stroke-width='2'/>")
        for (px, py), value in zip(points, curve["rows"][row]["cost_us"], strict=True):
            parts.append(f"<circle cx='{px:.1f}' cy='{py:.1f}' r='3' fill='{COLOURS[number]}'/>")
            parts.append(_text(px, py - 6, f"{value:.1f}", "middle"))
    return parts


def _svg(height: float, title: str, legend: Sequence[str], parts: Sequence[str]) -> str:
    keys = []
    at = 12.0
    for index, name in enumerate(legend):
        keys.append(f"<rect x='{at:.0f}' y='18' width='10' height='10' fill='{COLOURS[index]}'/>")
        keys.append(_text(at + 14, 27, name, "start"))
        at += 34 + 7 * len(name)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height:.0f}' "
        f"viewBox='0 0 {WIDTH} {height:.0f}' {FONT}>\n"
        f"<rect width='{WIDTH}' height='{height:.0f}' fill='white'/>\n"
        + "\n".join([_text(12, 12, title, "start"), *keys, *parts])
        + "\n</svg>\n"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' stroke-width='{width:g}'/>"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{INK}'>{escape(text)}</text>"
