"""docs/operations/security.md names a test for each promise, and these tests exist."""

from __future__ import annotations

import re

from tests.support.sites import ROOT

SECURITY = (ROOT / "docs" / "operations" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", SECURITY)))


def test_tests_are_named() -> None:
    assert len(NAMED) > 9


def test_named_tests_exist() -> None:
    texts = {path: (ROOT / path).read_text() for path, _ in NAMED}
    missing = [
        f"{path}::{name}"
        for path, name in NAMED
        if name and not re.search(rf"^(async )?def {name}\(", texts[path], re.MULTILINE)
    ]
    assert missing == []


def test_every_attack_is_named() -> None:
    attacks = ROOT / "tests" / "system" / "attacks"
    files = {f"tests/system/attacks/{path.name}" for path in attacks.glob("test_*.py")}
    assert files
    assert files <= {path for path, _ in NAMED}


def test_every_promise_has_its_test() -> None:
    rows = [
        line for line in SECURITY.splitlines() if line.startswith("|") and not line.startswith(("|---", "| promise"))
    ]
    assert rows
    assert [row for row in rows if "`tests/" not in row] == []
