"""Two kinds of charts: bars that compare servers, and lines that show how a figure grows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report.figures import Figure, Summary
from benchmarks.report.svg import THEMES, WIDTH, document, element, group

# Bars: the names are left of LEFT, and the values are right of the bars, which end at RIGHT at most.
LEFT, RIGHT, TOP, ROW = 260, 680, 64, 28


def bars(title: str, figure: Figure, found: Mapping[str, Summary], theme: str) -> str:
    """Return a chart with one bar for each server, and a line from its least to its greatest value."""
    colours, greatest = THEMES[theme], max(one.high for one in found.values()) or 1.0
    parts = []
    for number, (name, one) in enumerate(found.items()):
        y = TOP + number * ROW
        low, middle, high = (LEFT + (RIGHT - LEFT) * value / greatest for value in (one.low, one.median, one.high))
        parts += [
            element("text", name, x=LEFT - 10, y=y + 15, fill=colours["ink"], text_anchor="end"),
            element("rect", x=LEFT, y=y + 3, width=max(1.0, middle - LEFT), height=16, rx=2, fill=colours[group(name)]),
            element("line", x1=low, y1=y + 11, x2=high, y2=y + 11, stroke=colours["ink"], stroke_width=1.5),
            *(
                element("line", x1=x, y1=y + 7, x2=x, y2=y + 15, stroke=colours["ink"], stroke_width=1.5)
                for x in (low, high)
            ),
            element("text", _value(figure, one), x=max(middle, high) + 10, y=y + 15, fill=colours["ink"]),
        ]
    texts = [f"{name}: {figure.text(one.median)} {figure.unit}" for name, one in found.items()]
    description = f"{title}. Medians, and the spread as a line. " + "; ".join(texts) + "."
    return document(title, description, TOP + len(found) * ROW + 16, colours, parts)


def _value(figure: Figure, one: Summary) -> str:
    return f"{figure.text(one.median)} {figure.unit}"


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]


# Lines: panels side by side, each with its own vertical axis.
PANEL_TOP, PANEL_HEIGHT, GAP, MARGIN = 92, 180, 66, 58
DASHES = ("none", "5 4", "2 3", "8 3 2 3")


def panels(title: str, across: str, shown: Sequence[tuple[Figure, Sequence[Line]]], theme: str) -> str:
    """Return a chart with a panel for each figure. The horizontal axis, and a wide vertical one, are logarithmic."""
    colours = THEMES[theme]
    width = (WIDTH - MARGIN - 24 - GAP * (len(shown) - 1)) / len(shown)
    names = list(dict.fromkeys(line.name for _, lines in shown for line in lines))
    parts: list[str] = []
    for number, name in enumerate(names):  # the legend
        x, colour = 24 + number * 200, colours[group(name)]
        dash = DASHES[number % len(DASHES)]
        parts.append(
            element("line", x1=x, y1=60, x2=x + 28, y2=60, stroke=colour, stroke_width=2.5, stroke_dasharray=dash)
        )
        parts.append(element("text", name, x=x + 36, y=64, fill=colours["ink"]))
    for number, (figure, lines) in enumerate(shown):
        left = MARGIN + number * (width + GAP)
        parts += _panel(figure, lines, names, left, width, colours)
    height = PANEL_TOP + PANEL_HEIGHT + 74
    middle = element("text", across, x=WIDTH / 2, y=height - 14, fill=colours["soft"], text_anchor="middle")
    texts = [
        f"{figure.title} in {figure.unit}, {line.name}: "
        + ", ".join(f"{figure.text(y)} at {x:,.0f}" for x, y in line.points)
        for figure, lines in shown
        for line in lines
    ]
    return document(title, f"{title}, by {across}. " + "; ".join(texts) + ".", height, colours, [*parts, middle])


def _panel(
    figure: Figure, lines: Sequence[Line], names: Sequence[str], left: float, width: float, colours: Mapping[str, str]
) -> list[str]:
    xs = sorted({x for line in lines for x, _ in line.points})
    ys = [y for line in lines for _, y in line.points]
    wide = min(ys) > 0 and max(ys) / min(ys) > 20
    ticks = _powers(min(ys), max(ys)) if wide else _steps(max(ys))
    bottom = PANEL_TOP + 22 + PANEL_HEIGHT

    def across(x: float) -> float:
        if len(xs) == 1:
            return left + width / 2
        return left + width * math.log(x / xs[0]) / math.log(xs[-1] / xs[0])

    def up(y: float) -> float:
        if wide:
            return bottom - (PANEL_HEIGHT - 8) * math.log(y / ticks[0]) / math.log(ticks[-1] / ticks[0])
        return bottom - (PANEL_HEIGHT - 8) * y / ticks[-1]

    title = f"{figure.title}, {figure.unit}"
    parts = [element("text", title, x=left - 34, y=PANEL_TOP + 8, fill=colours["ink"], font_weight=600, font_size=12)]
    for tick in ticks:
        parts.append(element("line", x1=left, y1=up(tick), x2=left + width, y2=up(tick), stroke=colours["rule"]))
        text = f"{tick:,g}"
        parts.append(
            element("text", text, x=left - 6, y=up(tick) + 4, fill=colours["soft"], text_anchor="end", font_size=11)
        )
    last = math.inf
    for x in reversed(xs):
        if last - across(x) > 34:  # otherwise the numbers would overlap
            last = across(x)
            text = f"{x:,.0f}"
            parts.append(
                element("text", text, x=last, y=bottom + 16, fill=colours["soft"], text_anchor="middle", font_size=11)
            )
    for line in lines:
        colour, dash = colours[group(line.name)], DASHES[names.index(line.name) % len(DASHES)]
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
        parts.append(
            element("polyline", points=points, fill="none", stroke=colour, stroke_width=2.5, stroke_dasharray=dash)
        )
        parts += [element("circle", cx=across(x), cy=up(y), r=3.5, fill=colour) for x, y in line.points]
    return parts


def _powers(least: float, greatest: float) -> list[float]:
    """Return the powers of ten around the values."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(greatest))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _steps(greatest: float) -> list[float]:
    """Return round numbers from 0 to at least the greatest value, in at most six steps."""
    if greatest <= 0:
        return [0.0, 1.0]
    size = 10.0 ** math.floor(math.log10(greatest))
    step = next(step for step in (size / 5, size / 2, size, size * 2) if greatest / step <= 5)
    return [step * number for number in range(math.ceil(greatest / step) + 1)]
