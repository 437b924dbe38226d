"""The curves' samples as tables and as lines."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.report import tables
from benchmarks.report.charts import Line
from benchmarks.report.figures import FIGURES, Figure
from benchmarks.report.results import Results

# Each curve's title, and what its horizontal axis counts.
TITLES = {
    "connections": ("From one connection to thousands", "connections to one channel"),
    "channels": ("From one channel to thousands", "channels that share the connections"),
    "processes": ("From one process to eight", "worker processes of uvicorn"),
}
SHOWN = ("steady_cpu", "memory", "p50", "p99")
PANELS = ("steady_cpu", "memory", "p50")
# Below, it is the memory of a page or a pool that the process happened to need.
LEAST_FOR_MEMORY = 100


def figures(keys: Sequence[str]) -> list[Figure]:
    found = [figure for figure in FIGURES if figure.key in keys]
    # All loads of the curves are steady.
    return [Figure("steady_cpu", "CPU per delivery", "µs") if one.key == "steady_cpu" else one for one in found]


def medians(results: Results, name: str) -> dict[int, dict[str, float]]:
    """Return the medians of all figures, by the point on the horizontal axis. A sample is a list of points."""
    points: dict[int, list[dict[str, float]]] = {}
    for sample in results.samples[name]:
        for point in sample:
            points.setdefault(int(point["at"]), []).append(point)
    return {
        at: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for at, found in sorted(points.items())
    }


def value(point: Mapping[str, float], figure: Figure) -> float | None:
    """Return a figure of a point, or None if it means nothing there."""
    return None if figure.key == "memory" and point["connections"] < LEAST_FOR_MEMORY else point[figure.key]


def _names(results: Results, curve: str) -> list[str]:
    """Return the names of the samples of a curve, which start with its name."""
    return [name for name in results.samples if name.startswith(f"{curve}: ") and any(results.samples[name])]


def panels(results: Results, curve: str) -> list[tuple[Figure, list[Line]]]:
    """Return the lines of each figure, without those that have no point."""
    found = []
    for figure in figures(PANELS):
        lines = []
        for name in _names(results, curve):
            values = [(at, value(point, figure)) for at, point in medians(results, name).items()]
            if points := [(float(at), y) for at, y in values if y is not None]:
                lines.append(Line(name.partition(": ")[2], points))
        if lines:
            found.append((figure, lines))
    return found


def report(results: Results) -> str:
    parts = []
    for curve, (_, across) in TITLES.items():
        rows = [
            [
                name.partition(": ")[2],
                f"{at:,}",
                f"{point['rate']:g}",
                *("–" if (y := value(point, one)) is None else one.text(y) for one in figures(SHOWN)),
            ]
            for name in _names(results, curve)
            for at, point in medians(results, name).items()
        ]
        if rows:
            titles = [f"{one.title}, {one.unit}" for one in figures(SHOWN)]
            parts.append(tables.markdown(["server", across, "events/s", *titles], rows))
    return "\n".join([*parts, tables.conditions(results)])
