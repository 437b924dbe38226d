"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.figures import FIGURES, RECEIVED, Figure, column, ratio, summarize
from benchmarks.report.results import Results

# The figures of each table. One table with all of them would be too wide to read.
DELIVERY = ("steady_cpu", "burst_cpu", "burst_rate")
STREAMS = ("memory", "open_cpu", "open_seconds")
LATENCY = ("p50", "p99")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(figure: Figure, samples: Sequence[Mapping[str, float]]) -> str:
    """Return the median, and the least and the greatest value if there are several samples."""
    found = summarize(column(samples, figure.key))
    if len(samples) == 1:
        return figure.text(found.median)
    return f"{figure.text(found.median)} ({figure.text(found.low)}–{figure.text(found.high)})"


def peers(results: Results, keys: Sequence[str], reference: str) -> str:
    """Return a table of some figures, with the ratio of the first one to the reference."""
    figures = [figure for key in keys for figure in FIGURES if figure.key == key]
    base = results.samples.get(reference, [])
    rows = []
    for name, samples in results.samples.items():
        found = ratio(column(samples, keys[0]), column(base, keys[0]))
        row = [name, *(cell(figure, samples) for figure in figures)]
        rows.append([*row, "–" if found is None else f"{found:.1f}"])
    titles = [f"{figure.title}, {figure.unit}" for figure in figures]
    return markdown(["server", *titles, f"{figures[0].title}, to the first row"], rows)


def inexact(results: Results) -> str:
    """Return a sentence for each server whose clients did not receive each event once, or an empty text."""
    found = {name: summarize(column(samples, RECEIVED.key)) for name, samples in results.samples.items()}
    return "".join(
        f"{name}: the clients received {RECEIVED.text(one.median)} % of the events. "
        f"{'The others were lost or late.' if one.median < 100 else 'Some came more than once.'}\n"
        for name, one in found.items()
        if RECEIVED.text(one.median) != RECEIVED.text(100)
    )


def conditions(results: Results) -> str:
    """Return what a reader must know to compare the numbers with others: date, machine, load, versions."""
    machine, load = results.machine, results.load
    parts = [
        f"Measured on {results.date}, on {machine['cores']} cores of {machine['processor']} with "
        f"{machine['memory_gb']} GB and {machine['system']}.",
        f"The machine's load was {machine['load_average_before']} before and {machine['load_average_after']} after.",
        "Rounds: " + _load_text(load, "rounds") + ".",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(results.versions.items())) + ".",
    ]
    if results.skipped:
        parts.append(
            "Not measured: " + "; ".join(f"{name} ({why})" for name, why in sorted(results.skipped.items())) + "."
        )
    return "\n".join(parts) + "\n"


def _load_text(load: Mapping[str, Any], first: str) -> str:
    others = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in load.items() if name != first)
    return f"{load[first]} ({others})" if others else f"{load[first]}"
