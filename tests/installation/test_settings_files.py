"""Changes to literal settings. tests/system/test_streams_init.py changes the settings of whole projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from streams.installation import settings_files
from streams.installation.project import Definition, Project, definition
from streams.installation.source import CannotChange, SourceFile


class OneFile(Project):
    """A project whose settings are one file."""

    def __init__(self, folder: Path, text: str) -> None:
        super().__init__()
        self.settings = folder / "settings.py"
        self.settings.write_text(text)

    def setting(self, name: str) -> Definition:
        found = definition(self.file(self.settings), name)
        assert found is not None
        return found

    def after(self) -> str:
        return self.file(self.settings).after().decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("STREAMS = {}", 'STREAMS = {"PUBLIC_CHANNELS": ["news"]}'),
        ("STREAMS = {'A': 1}", "STREAMS = {'A': 1, 'PUBLIC_CHANNELS': ['news']}"),
        ('STREAMS = {"PUBLIC_CHANNELS": []}', 'STREAMS = {"PUBLIC_CHANNELS": ["news"]}'),
        ('STREAMS = {"PUBLIC_CHANNELS": ["a"], "B": 1}', 'STREAMS = {"PUBLIC_CHANNELS": ["a", "news"], "B": 1}'),
        (
            'STREAMS = {\n    "A": {\n        "B": 1,\n    },\n}',
            'STREAMS = {\n    "A": {\n        "B": 1,\n    },\n    "PUBLIC_CHANNELS": ["news"],\n}',
        ),
    ],
)
def test_channel_is_opened(tmp_path: Path, before: str, after: str) -> None:
    project = OneFile(tmp_path, before)
    with override_settings(STREAMS={}):
        settings_files.open_channels(project, ["news"])
    assert project.after() == after


def test_several_channels_are_opened(tmp_path: Path) -> None:
    project = OneFile(tmp_path, 'STREAMS = {"PUBLIC_CHANNELS": ["a"]}')
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["a"]}):
        settings_files.open_channels(project, settings_files.closed(["news", "a", "room.*", "news"]))
    assert project.after() == 'STREAMS = {"PUBLIC_CHANNELS": ["a", "news", "room.*"]}'


@pytest.mark.parametrize(
    "text",
    [
        "STREAMS = dict()",
        "STREAMS = {**BASE}",
        "STREAMS = {**BASE, 'A': 1}",
        "STREAMS = {'PUBLIC_CHANNELS': ('a',)}",
        "STREAMS = {'PUBLIC_CHANNELS': NAMES + ['a']}",
    ],
)
def test_channel_is_not_opened_in_unknown_forms(tmp_path: Path, text: str) -> None:
    """A key that is added could replace another one, which is not in this file."""
    project = OneFile(tmp_path, text)
    with override_settings(STREAMS={}), pytest.raises(CannotChange):
        settings_files.open_channels(project, ["news"])
    assert project.changed() == []


@pytest.mark.parametrize(
    "database",
    [
        "{'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'x'}}",
        "{'default': {'ENGINE': ENGINE, 'NAME': 'x'}}",
        "{'default': {**BASE, 'ENGINE': 'django.db.backends.sqlite3'}}",
        "{'default': {'ENGINE': 'django.db.backends.sqlite3', 'OPTIONS': {'timeout': 20}}}",
        "{'default': read('DATABASE_URL')}",
        "read('DATABASES')",
    ],
)
def test_options_are_added_only_to_literal_sqlite(tmp_path: Path, database: str) -> None:
    """In settings for several environments, they would break the connection to PostgreSQL."""
    project = OneFile(tmp_path, f"DATABASES = {database}\n")
    with pytest.raises(CannotChange):
        settings_files.add_sqlite_options(project)
    assert project.changed() == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("APPS = []\nINSTALLED_APPS = APPS + ['a']\n", "INSTALLED_APPS = ['daphne', *INSTALLED_APPS, 'streams']\n"),
        ("INSTALLED_APPS = []\n", 'INSTALLED_APPS = ["daphne", *INSTALLED_APPS, "streams"]\n'),
    ],
)
def test_apps_are_added_by_a_statement(tmp_path: Path, before: str, after: str) -> None:
    project = OneFile(tmp_path, before)
    settings_files.add_apps(project, ["daphne"], ["streams"])
    assert project.after() == before + after


def test_tuple_of_apps_stays_a_tuple(tmp_path: Path) -> None:
    """The project can add another tuple to it."""
    project = OneFile(tmp_path, "INSTALLED_APPS = tuple(APPS)\n")
    with override_settings(INSTALLED_APPS=("django.contrib.auth", "django.contrib.contenttypes")):
        settings_files.add_apps(project, [], ["streams"])
    assert project.after().endswith('INSTALLED_APPS = (*INSTALLED_APPS, "streams")\n')


@pytest.mark.parametrize(
    ("database", "needs"),
    [
        ({"ENGINE": "django.db.backends.sqlite3", "NAME": "x", "OPTIONS": {}}, True),
        ({"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "OPTIONS": {}}, False),
        ({"ENGINE": "django.db.backends.postgresql", "NAME": "x", "OPTIONS": {}}, False),
    ],
)
def test_only_files_of_sqlite_need_options(database: Any, needs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db.utils import ConnectionHandler

    monkeypatch.setattr(settings_files, "connections", ConnectionHandler({"default": database}))
    assert settings_files.needs_sqlite_options() is needs


def test_file_without_definition_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("B = 1\n")
    assert definition(SourceFile(tmp_path / "a.py"), "A") is None
