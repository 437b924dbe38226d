"""On a database that the log does not support, check, migrate and publish refuse with the same text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.forks import MAIN, ForkedProcess

pytestmark = pytest.mark.once

PROBLEM = "The log needs PostgreSQL, or SQLite 3.35 or newer; the database 'default' is MySQL or MariaDB."
REMEDY = "Route the apps `streams` and `streams_relay` to another database with a database router."

PUBLISH = f"""
import asyncio, django
django.setup()
from streams import apublish, publish
from streams.exceptions import UnsupportedDatabase
for call in (lambda: publish("news", "Hello"), lambda: asyncio.run(apublish("news", "Hello"))):
    try:
        call()
    except UnsupportedDatabase as error:
        assert str(error) == {f"{PROBLEM} {REMEDY}"!r}, error
        print("refused")
"""


def run(folder: Path, code: str, *argv: str) -> tuple[int, str]:
    (folder / "other_settings.py").write_text(
        f"from tests.settings import *\nDATABASES = {{'default': {{"
        f"'ENGINE': 'tests.support.other_database', 'NAME': {str(folder / 'db')!r}}}}}\n"
    )
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "other_settings"}
    process = ForkedProcess(f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}", list(argv), env)
    out, errors = process.communicate()
    return process.wait(), out + errors


@pytest.mark.parametrize("command", [["check", "--database", "default"], ["migrate"], ["migrate", "--plan"]])
def test_command_refuses(tmp_path: Path, command: list[str]) -> None:
    """Nothing is created in the database."""
    code, output = run(tmp_path, MAIN, "manage.py", *command)
    assert code == 1
    assert f"?: (streams.E005) {PROBLEM}\n\tHINT: {REMEDY}" in output
    assert not (tmp_path / "db").exists() or (tmp_path / "db").stat().st_size == 0


def test_check_without_databases_passes(tmp_path: Path) -> None:
    """Django asks for this, because a database can be absent when an image is built."""
    code, output = run(tmp_path, MAIN, "manage.py", "check")
    assert code == 0, output


def test_publish_refuses(tmp_path: Path) -> None:
    """Also if the tables exist, which `migrate --skip-checks` makes."""
    assert run(tmp_path, PUBLISH) == (0, "refused\nrefused\n")


def test_publish_command_refuses_in_one_line(tmp_path: Path) -> None:
    code, output = run(tmp_path, MAIN, "manage.py", "publish", "news", "Hello")
    assert (code, output) == (1, f"CommandError: {PROBLEM} {REMEDY}\n")
