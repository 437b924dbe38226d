"""A message takes the path that docs/internals/architecture.md describes."""

from __future__ import annotations

import itertools
import json
import re

from tests.support.message_path import main
from tests.support.sites import ROOT, Site, finish

MAX_FILES = 12
MAX_FUNCTIONS = 32

STEP = re.compile(r"^\d+\. `(?P<file>[\w/]+\.py)`: (?P<functions>`[\w.]+\(\)`(?:, `[\w.]+\(\)`)*)\.", re.M)


def described() -> list[tuple[str, list[str]]]:
    """Return the steps of the architecture page: each file with its functions."""
    page = (ROOT / "docs" / "internals" / "architecture.md").read_text()
    section = re.split(r"^#+ ", page.partition("# The path of a message\n")[2], maxsplit=1, flags=re.M)[0]
    return [(step["file"], re.findall(r"`([\w.]+)\(\)`", step["functions"])) for step in STEP.finditer(section)]


def traced(site: Site) -> list[tuple[str, list[str]]]:
    """Return the steps of a traced message: each file that it enters, with the functions that it passes there."""
    found = json.loads(finish(site.settings(POLL_SECONDS=3600).call(main)))
    return [(file, [name for _, name in step]) for file, step in itertools.groupby(found, key=lambda each: each[0])]


def test_path_is_the_described_one(sqlite_site: Site) -> None:
    """The described path enters each file once, and so does the traced path, because they are equal."""
    steps = described()
    files = [file for file, _ in steps]
    assert 0 < len(files) <= MAX_FILES
    assert len(set(files)) == len(files)
    assert sum(len(functions) for _, functions in steps) <= MAX_FUNCTIONS
    assert traced(sqlite_site) == steps
