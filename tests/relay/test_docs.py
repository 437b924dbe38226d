"""What the guide to chat says is so: its settings, its checks, its code, its commands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from django.core.management import get_commands

from streams.relay import checks
from streams.relay.conf import RelaySettings

GUIDE = (Path(__file__).resolve().parent.parent.parent / "docs" / "chat.md").read_text()


def test_the_settings_table_is_the_settings() -> None:
    told = dict(re.findall(r"^\| `([A-Z_]+)` \| `(.+?)` \|", GUIDE, re.MULTILINE))
    defaults = {key: setting.default for key, setting in vars(RelaySettings).items() if key.isupper()}
    assert {key: ast.literal_eval(default) for key, default in told.items()} == defaults


def test_every_check_is_explained() -> None:
    documented = set(re.findall(r"streams_relay\.[EW]\d{3}", checks.__doc__ or ""))
    assert documented == set(re.findall(r"streams_relay\.[EW]\d{3}", GUIDE))
    assert documented == set(re.findall(r"streams_relay\.[EW]\d{3}", Path(checks.__file__).read_text()))


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
def test_the_python_code_can_be_read(code: str) -> None:
    ast.parse(code)


def test_the_commands_exist() -> None:
    named = set(re.findall(r"manage\.py (\w+)", GUIDE)) - {"migrate"}
    assert named == {name for name, app in get_commands().items() if app == "streams.relay"}
