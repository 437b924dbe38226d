"""The performance page: its tables, its date and its charts come from the results of the last runs."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from benchmarks.peers import comparison
from benchmarks.report import charts, results
from benchmarks.report.figures import FIGURES, column, summarize
from benchmarks.report.results import Results
from benchmarks.report.svg import THEMES
from benchmarks.scale import curves
from tests.support.sites import ROOT

DOCS = ROOT / "docs"
PAGE = Path("operations", "performance.md")
DATA = Path("operations", "performance")  # the JSON files that the page was written from

# The charts of the peers: file, title, figure.
PEERS_CHARTS = (
    ("performance-cpu", "CPU of the server per delivery at 10 events a second", "steady_cpu"),
    ("performance-burst", "Deliveries per second in a burst", "burst_rate"),
    ("performance-memory", "Memory per connection", "memory"),
    ("performance-latency", "Median latency from publishing to the client", "p50"),
)

Chart = Callable[[str], str]  # returns the SVG for a theme


def marked(text: str, name: str, content: str) -> str:
    """Replace the text between the two comments with this name."""
    start, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"The page must have {start} and {end} once.")
    before, after = text[: text.index(start)], text[text.index(end) :]
    return f"{before}{start}\n\n{content.strip()}\n\n{after}"


def picture(name: str, alt: str) -> str:
    """Return a picture that follows the reader's colour scheme."""
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="../images/{name}-dark.svg">'
        f'<img alt="{escape(alt)}" src="../images/{name}-light.svg"></picture>\n'
    )


def peers_charts(found: Results) -> Iterable[tuple[str, str, Chart]]:
    """Yield the name, the title and the chart of each picture."""
    for name, title, key in PEERS_CHARTS:
        figure = next(figure for figure in FIGURES if figure.key == key)
        summaries = {server: summarize(column(samples, key)) for server, samples in found.samples.items()}
        yield name, title, functools.partial(charts.bars, title, figure, summaries)


def scale_charts(found: Results) -> Iterable[tuple[str, str, Chart]]:
    for curve, (title, across) in curves.TITLES.items():
        if shown := curves.panels(found, curve):
            yield f"performance-{curve}", title, functools.partial(charts.panels, title, across, shown)


def refresh(source: Path = results.FOLDER, docs: Path = DOCS) -> list[Path]:
    """Write the results in `source` into the page, and return the files that were written."""
    page, written = docs / PAGE, []
    text = page.read_text()
    for kind, report, pictures in (
        ("peers", comparison.report, peers_charts),
        ("scale", curves.report, scale_charts),
    ):
        path = source / f"{kind}.json"
        if not path.exists():
            print(f"{path} does not exist; `make bench{'' if kind == 'peers' else ' ARGS=scale'}` writes it.")
            continue
        found = results.load(path)
        target = docs / DATA / path.name
        target.parent.mkdir(exist_ok=True)
        if path != target:
            shutil.copy(path, target)
        written.append(target)
        shown = []
        for name, title, draw in pictures(found):
            shown.append(picture(name, f"{title}. The tables have the values."))
            for theme in THEMES:
                image = docs / "images" / f"{name}-{theme}.svg"
                image.write_text(draw(theme))
                written.append(image)
        text = marked(text, f"{kind} tables", report(found))
        text = marked(text, f"{kind} charts", "\n".join(shown))
    page.write_text(text)
    return [*written, page]
