"""`python -m bench --report A.json B.json ...`: what was measured becomes the figures of docs/PERFORMANCE.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ._plot import curves, ratios
from ._report import heading, markdown, merged

DOCS: Final = Path(__file__).parent.parent / "docs"
DOCUMENT: Final = "PERFORMANCE.md"
BEGIN: Final = "<!-- {}: written by `python -m bench --report`; do not edit -->"
END: Final = "<!-- end of {} -->"


def publish(paths: Sequence[Path], docs: Path = DOCS) -> None:
    """Rewrite the marked parts of the document, the plots, and keep the raw figures beside them."""
    documents = [json.loads(path.read_text()) for path in paths]
    tables = [document for document in documents if "rows" in document]
    grown = [one for document in documents for one in document.get("growth", ())]
    text = (docs / DOCUMENT).read_text()
    figures = docs / "performance.json"
    raw: dict[str, Any] = json.loads(figures.read_text()) if figures.exists() else {}  # of what is not given now
    for replicas in sorted({document["machine"]["replicas"] for document in tables}):
        whole = merged([document for document in tables if document["machine"]["replicas"] == replicas])
        raw[f"{replicas} replicas"] = whole
        name = "table" if replicas == 3 else f"table of {replicas}"
        text = replaced(text, name, f"{heading(whole)}\n\n{markdown(whole)}")
        if replicas == 3:
            (docs / "performance.svg").write_text(ratios(whole))
    if grown:
        raw["growth"] = grown
        (docs / "growth.svg").write_text(curves(grown))
        text = replaced(text, "growth", growth_table(grown))
    (docs / DOCUMENT).write_text(text)
    figures.write_text(json.dumps(raw, indent=1) + "\n")


def replaced(text: str, name: str, content: str) -> str:
    """The text with other content between the two marks of a name.

    Raises:
        SystemExit: the document has no such marks.
    """
    begin, end = BEGIN.format(name), END.format(name)
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(
            f"docs/{DOCUMENT} has no part between {begin!r} and {end!r}: add the two lines where it belongs"
        )
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def growth_table(grown: Sequence[Mapping[str, Any]]) -> str:
    """Rates and costs at every size."""
    lines = ["| what grows | size | row | operations a second | CPU us of all replicas |", "|---|---:|---|---:|---:|"]
    for one in grown:
        for curve in one["curves"]:
            for row, values in curve["rows"].items():
                for count, rate, cost in zip(curve["counts"], values["rate"], values["cost_us"], strict=True):
                    lines.append(f"| {curve['what']} | {count:,} | {row} | {rate:,.0f} | {cost:.1f} |")
        stalls = one["stalls"]
        lines.append("")
        lines.append(
            f"With {stalls['znodes']:,} znodes and {stalls['wanted']:,} writes a second for {stalls['seconds']:.0f} s: "
            f"{stalls['rate']:,.0f} acknowledged a second, widest gap between acknowledgements "
            f"{stalls['widest_gap_ms']:.0f} ms, largest latency {stalls['max_latency_ms']:.0f} ms; the generator "
            f"itself was away for {stalls['generators_own_pause_ms']:.0f} ms at most. A replica then takes "
            f"{one['memory_mib']:.0f} MiB."
        )
    return "\n".join(lines)
