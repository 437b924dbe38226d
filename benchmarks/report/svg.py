"""The parts of a chart in SVG: colours, texts, and a document that a screen reader can read."""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape, quoteattr

WIDTH = 860
THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {
        "paper": "#ffffff",
        "ink": "#1f2328",
        "soft": "#59636e",
        "rule": "#d1d9e0",
        "Streams": "#0969da",
        "bare": "#818b98",
        "peer": "#bc4c00",
    },
    "dark": {
        "paper": "#0d1117",
        "ink": "#e6edf3",
        "soft": "#9aa4af",
        "rule": "#3d444d",
        "Streams": "#4493f8",
        "bare": "#9198a1",
        "peer": "#db6d28",
    },
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


def element(name: str, text: str | None = None, **attributes: object) -> str:
    """Return an element. An underscore in an attribute's name stands for a hyphen."""
    listed = "".join(f" {key.replace('_', '-')}={quoteattr(_text(value))}" for key, value in attributes.items())
    return f"<{name}{listed}/>" if text is None else f"<{name}{listed}>{escape(text)}</{name}>"


def _text(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def document(title: str, description: str, height: int, theme: Mapping[str, str], parts: list[str]) -> str:
    """Return the file. Its title and its description, which has all values, are what a screen reader reads."""
    paper = element("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=10, fill=theme["paper"])
    heading = element("text", title, x=24, y=36, fill=theme["ink"], font_size=17, font_weight=600)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-labelledby="title desc" font-family="{FONT}" font-size="13">',
        element("title", title, id="title"),
        element("desc", description, id="desc"),
        paper,
        heading,
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def group(name: str) -> str:
    """Return the colour's name for a server."""
    return "Streams" if name.startswith("Streams") else "bare" if name.startswith("bare") else "peer"
