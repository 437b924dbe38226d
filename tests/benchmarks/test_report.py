"""What becomes of the benchmark's samples: medians, tables, charts and the page of the documentation."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.report import charts, figures, pages, results, tables
from benchmarks.report.figures import FIGURES, Figure, Summary
from benchmarks.report.results import Results
from benchmarks.report.svg import THEMES
from benchmarks.scale import curves

SVG = "{http://www.w3.org/2000/svg}"
CPU = Figure("steady_cpu", "CPU", "µs")


def sample(cpu: float, **others: float) -> dict[str, float]:
    return {**{figure.key: 1.0 for figure in FIGURES}, "received": 100.0, "steady_cpu": cpu, **others}


def peers(**samples: list[dict[str, float]]) -> Results:
    machine = {"cores": 2, "processor": "P", "memory_gb": 4, "system": "Linux 6"}
    machine |= {"load_average_before": 0.1, "load_average_after": 0.2}
    return Results("peers", {"rounds": 3}, "2026-11-30", machine, {"Streams": "1.0"}, {}, samples)


def scale() -> Results:
    point = {"rate": 10.0, "memory": 30.0, "p50": 1.0, "p99": 2.0}
    rounds = [
        [{"at": at, "connections": at, "steady_cpu": cpu / divisor, **point} for at, divisor in ((1, 1), (1000, 10))]
        for cpu in (900, 1000)
    ]
    return Results("scale", {"rounds": 2}, "2026-11-30", peers().machine, {}, {}, {"connections: Streams": rounds})


def test_summary_has_median_and_spread() -> None:
    assert figures.summarize([9.0, 1.0, 2.0]) == Summary(median=2.0, low=1.0, high=9.0)


def test_ratio_is_of_each_round() -> None:
    """The second round had twice the load, which affected both servers."""
    assert figures.ratio([2.0, 4.0, 3.0], [1.0, 2.0, 1.0]) == 2.0


def test_ratio_without_reference_is_none() -> None:
    assert figures.ratio([2.0], []) is None
    assert figures.ratio([2.0], [0.0]) is None


def test_table_has_spread_and_ratio() -> None:
    found = peers(bare=[sample(10), sample(20), sample(12)], fast=[sample(5), sample(10), sample(6)])
    table = tables.peers(found, ["steady_cpu", "burst_rate"], "bare").splitlines()
    assert table[0].startswith("| server | CPU per delivery, steady, µs | deliveries per second, burst, /s |")
    assert table[2] == "| bare | 12.0 (10.0–20.0) | 1 (1–1) | 1.0 |"
    assert table[3] == "| fast | 6.0 (5.0–10.0) | 1 (1–1) | 0.5 |"


def test_table_of_one_round_has_no_spread() -> None:
    assert "| bare | 10.0 | 1.0 |" in tables.peers(peers(bare=[sample(10)]), ["steady_cpu"], "bare")


def test_inexact_servers_are_named() -> None:
    found = peers(exact=[sample(1)], loses=[sample(1, received=60.0)], repeats=[sample(1, received=150.0)])
    text = tables.inexact(found)
    assert "loses: the clients received 60.0 % of the events. The others were lost or late." in text
    assert "repeats: the clients received 150.0 % of the events. Some came more than once." in text
    assert "exact" not in text


def test_conditions_have_date_machine_and_versions() -> None:
    found = peers(bare=[sample(1)])
    found.skipped["nchan, nginx"] = "install it"
    text = tables.conditions(found)
    for part in ("2026-11-30", "2 cores of P", "Streams 1.0", "Not measured: nchan, nginx (install it)"):
        assert part in text


def test_results_survive_a_file(tmp_path: Path) -> None:
    found = peers(bare=[sample(1 / 3)])
    path = found.save(tmp_path)
    assert json.loads(path.read_text())["samples"]["bare"][0]["steady_cpu"] == 0.3333
    assert results.load(path).load == {"rounds": 3}


def bars(theme: str) -> str:
    return charts.bars("CPU & more", CPU, {"Streams <x>": Summary(5, 4, 8), "nchan": Summary(2, 1, 3)}, theme)


def lines(theme: str) -> str:
    return charts.panels("Growth", "connections", curves.panels(scale(), "connections"), theme)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("draw", [bars, lines])
def test_chart_is_well_formed_and_accessible(draw: pages.Chart, theme: str) -> None:
    root = ET.fromstring(draw(theme))
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    labels = (root.get("aria-labelledby") or "").split()
    texts = {element.get("id"): element.text or "" for element in root if element.get("id")}
    assert labels == ["title", "desc"]
    assert all(texts[label] for label in labels)
    assert root.find(f"{SVG}rect").get("fill") == THEMES[theme]["paper"]  # type: ignore[union-attr]


def test_description_has_all_values() -> None:
    description = ET.fromstring(bars("light")).findtext(f"{SVG}desc")
    assert description is not None
    assert description.endswith("Streams <x>: 5.0 µs; nchan: 2.0 µs.")
    description = ET.fromstring(lines("light")).findtext(f"{SVG}desc")
    assert description is not None
    assert "CPU per delivery in µs, Streams: 950.0 at 1, 95.0 at 1,000" in description


def test_bars_are_in_proportion() -> None:
    widths = [float(one.get("width", 0)) for one in ET.fromstring(bars("dark")).iter(f"{SVG}rect")][1:]
    assert widths[0] / widths[1] == pytest.approx(5 / 2, rel=0.01)


def test_lines_stay_inside() -> None:
    root = ET.fromstring(lines("light"))
    width, height = map(float, (root.get("viewBox") or "").split()[2:])
    points = [pair.split(",") for one in root.iter(f"{SVG}polyline") for pair in (one.get("points") or "").split()]
    assert len(points) == 2 * len(curves.PANELS) - 1  # memory has one point less
    assert all(0 < float(x) < width and 0 < float(y) < height for x, y in points)


def test_memory_of_few_streams_is_left_out() -> None:
    assert "| Streams | 1 | 10 | 950.0 | – | 1.0 | 2.0 |" in curves.report(scale())
    assert "| Streams | 1,000 | 10 | 95.0 | 30 | 1.0 | 2.0 |" in curves.report(scale())


def test_texts_between_marks_are_replaced() -> None:
    text = "before <!-- a: begin -->old<!-- a: end --> after"
    assert pages.marked(text, "a", "new\n") == "before <!-- a: begin -->\n\nnew\n\n<!-- a: end --> after"
    with pytest.raises(ValueError, match="must have <!-- b: begin -->"):
        pages.marked(text, "b", "new")
