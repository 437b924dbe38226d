"""What the README says is so: its settings, its checks, its code, its commands and its links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from django.core.management import get_commands

from streams import checks, conf

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_settings_table_is_the_settings() -> None:
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \| ((?:`[^|]*`(?:, )?)+) \|", README, re.MULTILINE)
    told = {
        key: ast.literal_eval(default)
        for keys, defaults in rows
        for key, default in zip(re.findall(r"`([A-Z_]+)`", keys), re.findall(r"`(.+?)`", defaults), strict=True)
    }
    assert told == {key: setting.default for key, setting in conf.known().items() if hasattr(conf.Settings, key)}


def test_every_check_is_explained() -> None:
    documented = set(re.findall(r"streams\.[EW]\d{3}", checks.__doc__ or ""))
    assert documented == set(re.findall(r"streams\.[EW]\d{3}", README))
    assert documented == set(re.findall(r"streams\.[EW]\d{3}", Path(checks.__file__).read_text()))


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_python_code_can_be_read(code: str) -> None:
    ast.parse(code)


def test_the_commands_exist() -> None:
    named = set(re.findall(r"manage\.py (\w+)", README)) - {"check", "migrate"}
    assert named == {name for name, app in get_commands().items() if app == "streams"}
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)|`make (\w+)`", README, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE)


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_the_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for link in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", text):
        assert not link or link.startswith("http") or (document.parent / link).exists(), link
