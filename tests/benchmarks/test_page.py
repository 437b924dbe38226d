"""The page about performance shows the results in the repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.report import pages
from benchmarks.scale import curves


def test_page_is_written_from_its_data(tmp_path: Path) -> None:
    """The page, its charts and the samples in the repository belong together: `make bench ARGS=docs` writes them."""
    copied = tmp_path / "docs"
    (copied / "images").mkdir(parents=True)
    (copied / pages.PAGE.parent).mkdir()
    shutil.copy(pages.DOCS / pages.PAGE, copied / pages.PAGE)
    written = pages.refresh(pages.DOCS / pages.DATA, copied)
    assert len(written) == 2 + 2 * (len(pages.PEERS_CHARTS) + len(curves.TITLES)) + 1
    for path in written:
        original = pages.DOCS / path.relative_to(copied)
        assert original.read_text() == path.read_text(), original


def test_page_shows_all_charts() -> None:
    text = (pages.DOCS / pages.PAGE).read_text()
    shown = {path.name for path in (pages.DOCS / "images").glob("performance-*.svg") if f"images/{path.name}" in text}
    assert len(shown) == 2 * (len(pages.PEERS_CHARTS) + len(curves.TITLES))
    assert text.count('<img alt="') == text.count("<picture>") == len(shown) / 2
