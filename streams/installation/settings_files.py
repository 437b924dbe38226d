"""The changes to a project's settings."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db import connections

from streams.installation.names import asgi_path
from streams.installation.project import Project
from streams.installation.source import CannotChange
from streams.private import runserver

SQLITE_OPTIONS = """"OPTIONS": {
    "init_command": "PRAGMA journal_mode=WAL;",
    "transaction_mode": "IMMEDIATE",
}"""


def missing_apps() -> tuple[list[str], list[str]]:
    """Return the apps to add at the start and at the end of INSTALLED_APPS.

    daphne is added if it is installed, because no other package that is common serves ASGI with `runserver`.
    """
    installed = settings.INSTALLED_APPS
    wants_daphne = "daphne" not in installed and runserver.serves_wsgi() and importlib.util.find_spec("daphne")
    has_streams = any(app == "streams" or app.startswith("streams.apps.") for app in installed)
    return ["daphne"] if wants_daphne else [], [] if has_streams else ["streams"]


def add_apps(project: Project, first: Sequence[str], last: Sequence[str]) -> None:
    found = project.setting("INSTALLED_APPS")
    file, value = found.file, found.value
    if isinstance(value, ast.List | ast.Tuple) and value.elts and file.text(value)[0] in "[(":
        for app in first:
            file.add_first(value.elts, value, f'"{app}"')
        for app in last:
            file.add_last(value.elts, value, f'"{app}"')
        return
    items = [*(f'"{app}"' for app in first), "*INSTALLED_APPS", *(f'"{app}"' for app in last)]
    start, end = "()" if isinstance(settings.INSTALLED_APPS, tuple) else "[]"  # so that `+ (…)` still works
    file.insert_after_statement(found.statement, f"INSTALLED_APPS = {start}{', '.join(items)}{end}\n")


def set_asgi_application(project: Project) -> None:
    try:
        found = project.setting("WSGI_APPLICATION")
    except CannotChange:
        found = project.setting("ROOT_URLCONF")
    found.file.insert_after_statement(found.statement, f'ASGI_APPLICATION = "{asgi_path()}"\n')


def needs_sqlite_options() -> bool:
    """Return True if the default database is a SQLite file in which a write blocks all streams (streams.W001)."""
    connection: Any = connections["default"]
    if connection.vendor != "sqlite" or connection.is_in_memory_db() or settings.DATABASE_ROUTERS:
        return False
    return "journal_mode" not in str(connection.settings_dict["OPTIONS"].get("init_command", "")).lower()


def add_sqlite_options(project: Project) -> None:
    """Add the options to a literal dict only, because they would break a connection to another kind of database."""
    found = project.setting("DATABASES")
    database = _values(found.value).get("default")
    if database is None:
        raise CannotChange("DATABASES is not a literal dict")
    values = _values(database)
    engine = values.get("ENGINE")
    if not (isinstance(engine, ast.Constant) and engine.value == "django.db.backends.sqlite3" and values):
        raise CannotChange("DATABASES['default'] is not a literal dict for SQLite")
    if "OPTIONS" in values:
        raise CannotChange("it has OPTIONS already")
    assert isinstance(database, ast.Dict)
    found.file.add_last(database.values, database, SQLITE_OPTIONS, key=database.keys[-1])


def closed(channels: Sequence[str]) -> list[str]:
    """Return those of the channels and patterns that PUBLIC_CHANNELS does not have."""
    streams = getattr(settings, "STREAMS", {})
    opened = streams.get("PUBLIC_CHANNELS", []) if isinstance(streams, Mapping) else []
    return [channel for channel in dict.fromkeys(channels) if channel not in opened]


def open_channels(project: Project, channels: Sequence[str]) -> None:
    """Add channels or patterns to STREAMS['PUBLIC_CHANNELS']."""
    added = ", ".join(f'"{channel}"' for channel in channels)
    if not hasattr(settings, "STREAMS"):
        project.setting("INSTALLED_APPS").file.append(f'STREAMS = {{"PUBLIC_CHANNELS": [{added}]}}\n')
        return
    found = project.setting("STREAMS")
    file, value = found.file, found.value
    if not isinstance(value, ast.Dict):
        raise CannotChange("STREAMS is not a literal dict")
    if not value.keys:
        file.replace(value, f'{{"PUBLIC_CHANNELS": [{added}]}}')
        return
    values = _values(value)
    if not values:
        raise CannotChange("STREAMS has keys that are not literal strings")
    present = values.get("PUBLIC_CHANNELS")
    if present is None:
        file.add_last(value.values, value, f'"PUBLIC_CHANNELS": [{added}]', key=value.keys[-1])
    elif isinstance(present, ast.List) and not present.elts:
        file.replace(present, f"[{added}]")
    elif isinstance(present, ast.List):
        file.add_last(present.elts, present, added)
    else:
        raise CannotChange("STREAMS['PUBLIC_CHANNELS'] is not a literal list")


def _values(node: ast.expr) -> dict[str, ast.expr]:
    """Return the values of a literal dict by their keys, or an empty dict if not all keys are literal strings."""
    if not isinstance(node, ast.Dict):
        return {}
    keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
    if not all(isinstance(key, str) for key in keys):
        return {}
    return {str(key): value for key, value in zip(keys, node.values, strict=True)}
