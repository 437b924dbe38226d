"""The system checks of the log's database. Each test compares the whole list of messages.

The checks run in a separate process, because the settings of the databases cannot change in a running one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import MAIN, ForkedProcess

REPORT = """
import json, django
django.setup()
from django.core.checks import run_checks
print(json.dumps([[type(m).__name__, m.msg, m.hint, m.id] for m in run_checks(databases=["default"])]))
"""


OURS = """
import json, django
django.setup()
from streams.checks import check_settings
print(json.dumps([m.msg for m in check_settings(None)]))
"""


def _run(folder: Path, settings: str, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a forked process, under tests.settings with `settings` appended."""
    (folder / "other_settings.py").write_text(f"from tests.settings import *\n{settings}\n")
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "other_settings",
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
    }
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    process = ForkedProcess(code, list(arguments), env)
    out, errors = process.communicate()
    return subprocess.CompletedProcess(arguments, process.wait(), out, errors)


def check(folder: Path, settings: str) -> subprocess.CompletedProcess[str]:
    """Run `manage.py check` in a forked process."""
    return _run(folder, settings, MAIN, "manage.py", "check")


def database_messages(folder: Path, settings: str, report: str = REPORT) -> Any:
    """Run all checks, including the database checks, and return their messages."""
    done = _run(folder, settings, report)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.once
def test_sqlite_file_in_wal_mode_passes(tmp_path: Path) -> None:
    assert database_messages(tmp_path, "") == []


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({"init_command": "PRAGMA journal_mode=DELETE;"}, "delete"),
        ({"init_command": "PRAGMA foreign_keys=1"}, "memory"),
    ],
)
def test_w001_sqlite_file_outside_wal_mode(tmp_path: Path, options: Any, mode: str) -> None:
    """The message appears only once, even if the database checks run as well."""
    _make_database(tmp_path, mode)
    assert database_messages(tmp_path, f"DATABASES['default']['OPTIONS'] = {options!r}") == [
        [
            "Warning",
            "The database 'default' is SQLite in journal mode 'delete', in which a write blocks all streams.",
            "In its OPTIONS, set 'init_command': 'PRAGMA journal_mode=WAL;'.",
            "streams.W001",
        ]
    ]


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "mode", "warns"),
    [
        ({}, None, True),
        ({}, "delete", True),
        ({}, "wal", False),
        ({"init_command": "PRAGMA foreign_keys=ON; pragma journal_mode = 'wal'"}, None, False),
        ({"init_command": "PRAGMA journal_mode=TRUNCATE"}, "wal", True),
    ],
)
def test_w001_appears_in_check(tmp_path: Path, options: Any, mode: str | None, warns: bool) -> None:
    """`check` and `runserver` do not run database checks. A file can be in WAL mode without an option."""
    if mode is not None:
        _make_database(tmp_path, mode)
    checked = check(tmp_path, f"DATABASES['default']['OPTIONS'] = {options!r}")
    assert checked.returncode == 0
    assert ("streams.W001" in checked.stderr) is warns


def _make_database(folder: Path, journal_mode: str, name: str = "db.sqlite3") -> None:
    with contextlib.closing(sqlite3.connect(folder / name)) as file:
        file.execute(f"PRAGMA journal_mode={journal_mode}")
        file.execute("CREATE TABLE something (id)")


@pytest.mark.once
def test_e005_unsupported_database(tmp_path: Path) -> None:
    """Django's dummy backend represents every database other than PostgreSQL and SQLite."""
    assert database_messages(tmp_path, "DATABASES = {'default': {'ENGINE': 'django.db.backends.dummy'}}") == [
        [
            "Error",
            "The log needs PostgreSQL, or SQLite 3.35 or newer; the database 'default' is unknown.",
            "Route the apps `streams` and `streams_relay` to another database with a database router.",
            "streams.E005",
        ]
    ]


@pytest.mark.once
def test_database_without_the_log_passes(tmp_path: Path) -> None:
    _make_database(tmp_path, "wal", "log.sqlite3")
    settings = f"""
DATABASES["default"]["OPTIONS"] = {{"init_command": "PRAGMA journal_mode=DELETE;"}}
DATABASES["log"] = {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{tmp_path / "log.sqlite3"}"}}
DATABASE_ROUTERS = ["other_settings.Router"]

class Router:
    def db_for_read(self, model, **hints):
        return "log" if model._meta.app_label in ("streams", "streams_relay") else None

    db_for_write = db_for_read
"""
    assert database_messages(tmp_path, settings) == []


@pytest.mark.once
def test_settings_checks_use_no_database(tmp_path: Path) -> None:
    """Our checks work without a database. (In Django 6.1, Django's own model checks connect to each database.)"""
    settings = "DATABASES['default'].update({'NAME': '/nowhere/at/all/db'})"
    assert database_messages(tmp_path, settings, OURS) == []
    assert len(database_messages(tmp_path, "DATABASES['default']['OPTIONS'] = {}", OURS)) == 1
    assert not (tmp_path / "db.sqlite3").exists()


POSTGRES = """
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "site", "HOST": %r, "OPTIONS": %r}}
"""


def connection_messages(folder: Path, host: str, options: dict[str, Any]) -> Any:
    """Return the messages about a PostgreSQL database. The checks do not connect to it."""
    return database_messages(folder, POSTGRES % (host, options), REPORT.replace('databases=["default"]', ""))


@pytest.mark.once
@pytest.mark.parametrize(("pool", "size"), [(True, 4), ({"max_size": 10}, 10), ({"min_size": 6}, 6)])
def test_w004_pool_smaller_than_the_database_threads(tmp_path: Path, pool: Any, size: int) -> None:
    assert connection_messages(tmp_path, "localhost", {"pool": pool}) == [
        [
            "Warning",
            f"DATABASES['default']['OPTIONS']['pool'] gives each process {size} connections. Its database threads "
            "can use 11 at the same time, and each request with queries uses another one. They wait for each other, "
            "and fail after the pool's timeout.",
            "Set 'pool': {'max_size': 12} or more. Or lower STREAMS['DATABASE_THREADS'], which is 4; a process uses "
            "twice as many threads, plus three.",
            "streams.W004",
        ]
    ]


@pytest.mark.once
@pytest.mark.parametrize("host", ["db.example", "10.0.0.1", "localhost,db.example"])
def test_w005_database_over_a_network_without_keepalives(tmp_path: Path, host: str) -> None:
    [[kind, message, hint, id]] = connection_messages(tmp_path, host, {})
    assert (kind, id) == ("Warning", "streams.W005")
    assert message.startswith(f"DATABASES['default'] is on the host {host!r}, and its OPTIONS set no TCP keepalives")
    assert "'tcp_user_timeout': 30000" in hint


@pytest.mark.once
@pytest.mark.parametrize(
    ("host", "options"),
    [
        ("", {}),
        ("/run/postgresql", {}),
        ("localhost", {"pool": {"max_size": 12}}),
        ("127.0.0.1", {"pool": {"min_size": 2, "max_size": 20}}),
        ("db.example", {"keepalives_idle": 30}),
        ("db.example", {"tcp_user_timeout": 30000}),
    ],
)
def test_these_connections_pass(tmp_path: Path, host: str, options: dict[str, Any]) -> None:
    assert connection_messages(tmp_path, host, options) == []
