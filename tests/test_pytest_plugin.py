"""The pytest plugin in projects of its own: with pytest-django, without it, and in a project that does not use it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.sites import PYTHON, ROOT

pytestmark = [pytest.mark.once, pytest.mark.slow]

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "streams"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware",
              "django.contrib.auth.middleware.AuthenticationMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ROOT_URLCONF = "urls"
USE_TZ = True
STREAMS = {"PUBLIC_CHANNELS": ["news"]}
"""
URLS = """
from django.urls import include, path
urlpatterns = [path("events/", include("streams.urls"))]
"""

ASYNC = """
import pytest
from streams import apublish
from streams.testing import assert_published

pytestmark = pytest.mark.MARK

async def check(streams_client, streams_published):
    with assert_published("news", "hello"):
        async with streams_client("/events/news/") as stream:
            await apublish("news", "hello")
            assert (await stream.next()).data == "hello"
            await stream.expect_nothing()
    assert len(streams_published("news")) == 1

async def test_in_a_transaction(db, streams_client, streams_published):
    await check(streams_client, streams_published)

async def test_committed(transactional_db, streams_client, streams_published):
    await check(streams_client, streams_published)
"""

ANYIO_BACKEND = """
@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

SYNC = """
import time
import pytest
from streams import publish
from streams.runtime import clock

@pytest.mark.django_db
def test_published(streams_published):
    publish("news", {"a": 1})
    assert streams_published("news", {"a": 1})
    assert not streams_published("news", {"a": 2})

@pytest.mark.django_db(transaction=True)
def test_published_committed(streams_published):
    publish("news", {"a": 1})
    assert len(streams_published()) == 1

def test_travel(streams_travel):
    streams_travel(hours=8)
    streams_travel(hours=1)
    assert clock.time() - time.time() > 8.9 * 3600

def test_time_is_back():
    assert not clock.is_shifted()

def test_without_a_database(streams_published):
    with pytest.raises(RuntimeError, match="Database access not allowed"):
        streams_published()
"""

WITHOUT_PYTEST_DJANGO = """
import django
from django.conf import settings
from django.test.utils import get_runner

django.setup()
from django.test import TestCase, TransactionTestCase
from django.test.utils import setup_test_environment, setup_databases
import pytest

@pytest.fixture(scope="session", autouse=True)
def _database():
    setup_test_environment()
    setup_databases(0, False)

class PublishTest(TestCase):
    @pytest.fixture(autouse=True)
    def _fixtures(self, streams_published, streams_client, streams_travel):
        self.published, self.open, self.travel = streams_published, streams_client, streams_travel

    def test_published(self):
        from streams import publish
        publish("news", "hello")
        assert self.published("news", "hello")

    async def test_stream(self):
        from streams import apublish
        self.travel(hours=1)
        async with self.open("/events/news/") as stream:
            await apublish("news", "hello")
            assert (await stream.next()).data == "hello"
"""


def run(folder: Path, *options: str, is_configured: bool = True, plugin: bool = True, **files: str) -> str:
    """Run pytest in a new project, and return its output."""
    for name, text in {"settings": SETTINGS, "urls": URLS, **files}.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    if is_configured:
        environment["DJANGO_SETTINGS_MODULE"] = "settings"
    loaded = ["-p", "streams.pytest_plugin"] if plugin else []
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *loaded, *options],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-10_000:]
    return done.stdout


def test_with_pytest_django(tmp_path: Path) -> None:
    plugins = ("-p", "pytest_django.plugin", "-p", "pytest_asyncio.plugin")
    plugins += ("-o", "asyncio_default_fixture_loop_scope=function")
    out = run(tmp_path, *plugins, test_async=ASYNC.replace("MARK", "asyncio"), test_sync=SYNC)
    assert "7 passed" in out


def test_with_anyio(tmp_path: Path) -> None:
    body = ASYNC.replace("MARK", "anyio") + ANYIO_BACKEND
    assert "2 passed" in run(tmp_path, "-p", "pytest_django.plugin", "-p", "anyio", test_async=body)


def test_without_pytest_django(tmp_path: Path) -> None:
    assert "2 passed" in run(tmp_path, test_plain=WITHOUT_PYTEST_DJANGO)


def test_project_without_django(tmp_path: Path) -> None:
    """The plugin imports neither Django nor Streams' own modules, and adds no option, marker or hook."""
    test = """
import sys
def test_imports():
    found = {name for name in sys.modules if name.split(".")[0] in ("django", "asgiref", "streams")}
    assert found == {"streams", "streams.pytest_plugin"}
"""
    assert "1 passed" in run(tmp_path, is_configured=False, test_it=test)


def test_entry_point_names_the_plugin() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"streams": "streams.pytest_plugin"}
    entry = importlib.metadata.EntryPoint("streams", declared["streams"], "pytest11")
    assert entry.load() is sys.modules["streams.pytest_plugin"]
