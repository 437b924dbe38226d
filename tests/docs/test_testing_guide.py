"""The examples of the guides to testing run as the test suite of a project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streams import testing
from tests.support.sites import ROOT
from tests.test_pytest_plugin import SETTINGS, run

pytestmark = [pytest.mark.once, pytest.mark.slow]

GUIDE = "".join((ROOT / "docs" / "guides" / f"{name}.md").read_text() for name in ("testing", "testing-in-browsers"))
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_examples_pass(tmp_path: Path) -> None:
    files = {f"test_example_{number}": text for number, text in enumerate(EXAMPLES)}
    # As the guide's own example does, so that the live server can run.
    on_disk = f'"NAME": "{tmp_path}/db.sqlite3", "TEST": {{"NAME": "{tmp_path}/test.sqlite3"}}'
    files["settings"] = SETTINGS.replace('"NAME": ":memory:"', on_disk) + 'STATIC_URL = "static/"\n'
    plugins = ("-p", "pytest_django.plugin", "-p", "pytest_asyncio.plugin")
    out = run(tmp_path, *plugins, "-o", "asyncio_default_fixture_loop_scope=function", **files)
    tests = sum(len(re.findall(r"def test_", text)) for text in EXAMPLES)
    assert tests == 11
    assert f"{tests} passed" in out


def test_failure_text_is_the_real_one(db: None) -> None:
    from streams import publish

    with pytest.raises(AssertionError) as raised, testing.assert_published("orders", {"order": 18}):
        publish("orders", {"order": 17, "state": "paid"}, event="update")
    assert f"```text\nAssertionError: {raised.value}\n```" in GUIDE


def test_every_public_name_is_in_the_guide() -> None:
    missing = [name for name in testing.__all__ if f"{name}" not in GUIDE and name != "DecodedEvent"]
    assert missing == []
