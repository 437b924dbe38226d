"""docs/internals/testing.md lists existing tests for each promise, and the make target that runs them."""

from __future__ import annotations

import re

from tests.support.selection import is_system_path
from tests.support.sites import ROOT

TEXT = (ROOT / "docs" / "internals" / "testing.md").read_text()
NAME = re.compile(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`")
ROWS = [line for line in TEXT.splitlines() if line.startswith("|") and "`tests/" in line]


def test_named_tests_exist() -> None:
    named = NAME.findall(TEXT)
    assert len(named) > 50
    assert [path for path, _ in named if not (ROOT / path).exists()] == []
    functions = [(path, name) for path, name in named if name]
    assert [each for each in functions if f"def {each[1]}(" not in (ROOT / each[0]).read_text()] == []


def test_every_promise_has_tests() -> None:
    assert [line[2] for line in ROWS if re.match(r"\| \d\. ", line)] == list("12345678")


def test_targets_are_those_of_the_files() -> None:
    for row in ROWS:
        target = row.rstrip(" |").rpartition("| ")[2]
        assert target in ("test", "system", "both"), row
        for path, _ in NAME.findall(row):
            if target != "both":
                assert is_system_path(ROOT / path) == (target == "system"), f"{path}: {target}"
