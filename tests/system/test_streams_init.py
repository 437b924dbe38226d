"""`streams_init` sets up new projects and those with other layouts, and then they send an event."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.distribution import Environment
from tests.support.documents import Reader
from tests.system.layouts import LAYOUTS, MANAGE

pytestmark = pytest.mark.once

INIT = "python -m streams init --public news"

# Check, migrate and publish, and receive the message from the ASGI application.
RECEIVE = """
import asyncio
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.core.management import call_command
from django.utils.module_loading import import_string
from streams import publish
call_command("check")
call_command("migrate", verbosity=0)
publish("news", "Hello")
application = import_string(settings.ASGI_APPLICATION)
headers = [(b"host", b"localhost")]
scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/events/news/", "headers": headers}
async def receive():
    communicator = ApplicationCommunicator(application, {**scope, "query_string": b"replay=1", "root_path": ""})
    await communicator.send_input({"type": "http.request"})
    received = b""
    while b"Hello" not in received:
        received += (await communicator.receive_output(20)).get("body", b"")
    print(received.decode())
asyncio.run(receive())
"""


class Folder:
    """The folder of a project, with the files that a test has put there."""

    def __init__(self, environment: Environment, path: Path, files: dict[str, str]) -> None:
        self.path = path
        self._environment = environment
        for name, text in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(text.encode())

    def run(self, command: str, **options: object) -> subprocess.CompletedProcess[str]:
        return self._environment.run(command, self.path, **options)  # type: ignore[arg-type]

    def contents(self) -> dict[str, str]:
        return {str(path.relative_to(self.path)): path.read_bytes().decode() for path in self.path.rglob("*.py")}

    def receive(self) -> str:
        return self.run("python manage.py shell", input=RECEIVE).stdout


def added(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str]]:
    """Return the lines of each file that are new or changed."""
    found = {name: [line for line in after[name].splitlines() if line not in before.get(name, "")] for name in after}
    return {name: lines for name, lines in found.items() if lines}


@pytest.mark.slow
def test_new_project_takes_the_diff_and_sends_an_event(
    installed: Environment, distribution: tuple[Path, Path], tmp_path: Path
) -> None:
    """Without --write, nothing but the diff is written, to stdout."""
    reader = Reader(installed, tmp_path, distribution[0])
    reader.type("django-admin startproject mysite")
    reader.type("cd mysite")
    before = Folder(installed, reader.folder, {}).contents()
    reader.type(f"{INIT} > changes.diff")
    assert Folder(installed, reader.folder, {}).contents() == before
    reader.type("git init -q . && git apply changes.diff")
    assert "no issues" in reader.type("python manage.py check")
    reader.type("python manage.py migrate")
    assert reader.type("python manage.py streams_init --public news") == "Nothing to change.\n"
    try:
        reader.type("python manage.py runserver")
        with reader.watching("curl -N http://127.0.0.1:8000/events/news/?replay=1") as wait_for_line:
            reader.type("python manage.py publish news Hello")
            wait_for_line("data: Hello")
    finally:
        reader.stop()


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_sends_an_event(installed: Environment, tmp_path: Path, name: str) -> None:
    """The lines are exactly those that are expected. A second run finds nothing to change."""
    layout = LAYOUTS[name]
    folder = Folder(installed, tmp_path, layout.files)
    before = folder.contents()
    done = folder.run(f"{INIT} --write", check=False)
    assert by_hand(done.stderr) == layout.by_hand
    assert done.returncode == (1 if layout.by_hand else 0), done.stderr
    assert added(before, folder.contents()) == layout.added
    assert "data: Hello\n" in folder.receive()
    changed = folder.contents()
    again = folder.run("python manage.py streams_init --public news --write", check=False)
    assert (again.stdout, by_hand(again.stderr)) == ("", layout.by_hand)
    assert folder.contents() == changed


def by_hand(output: str) -> list[str]:
    return re.findall("^To do by hand: (.*)$", output, re.MULTILINE)


def test_project_without_a_known_form_is_left_alone(installed: Environment, tmp_path: Path) -> None:
    """The text names each line to add, its place, and why the command did not add it."""
    files = {
        "manage.py": MANAGE.format("site_settings"),
        "site_settings.py": """
globals().update(
    SECRET_KEY="x", DEBUG=True, ROOT_URLCONF="site_urls", INSTALLED_APPS=["daphne", "django.contrib.contenttypes"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}, STREAMS=dict(),
)
""",
        "site_urls.py": "from django.urls import path\nurlpatterns = [path('events/<name>/', print, name='event')]\n",
        "asgi.py": "import django.core.asgi\n\napplication = django.core.asgi.get_asgi_application()\n",
    }
    folder = Folder(installed, tmp_path, files)
    before = folder.contents()
    done = folder.run(f"{INIT} --write", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert by_hand(done.stderr) == [
        "In the settings, set INSTALLED_APPS = [*INSTALLED_APPS, 'streams']. (Not done: no file was found that defines "
        "INSTALLED_APPS at its top level.)",
        "In the settings, set ASGI_APPLICATION = 'asgi.application'. (Not done: no file was found that defines "
        "ROOT_URLCONF at its top level.)",
        'If the site uses SQLite, add to the OPTIONS of DATABASES[\'default\']: "init_command": "PRAGMA '
        'journal_mode=WAL;", "transaction_mode": "IMMEDIATE" (Not done: no file was found that defines DATABASES at '
        "its top level.)",
        'In the settings, add to STREAMS: "PUBLIC_CHANNELS": ["news"] (Not done: no file was found that defines '
        "STREAMS at its top level.)",
        'In site_urls, add to urlpatterns: path("events/", include("streams.urls")) (Not done: /events/ leads to '
        "<built-in function print> already; choose another URL with --prefix.)",
        "In asgi, wrap the application in streams.asgi.get_asgi_application(…), without an argument for Django's own. "
        "(Not done: asgi.py does not import get_asgi_application from django.core.asgi.)",
    ]
    assert folder.contents() == before


def test_files_are_restored_if_the_project_fails(installed: Environment, tmp_path: Path) -> None:
    """The site has its own check, which refuses another app."""
    folder = Folder(installed, tmp_path, LAYOUTS["one file"].files)
    settings = tmp_path / "shop" / "settings.py"
    settings.write_bytes(
        settings.read_bytes() + b"\r\nif 'streams' in INSTALLED_APPS:\r\n    raise ValueError('no!')\r\n"
    )
    before = folder.contents()
    done = folder.run(f"{INIT} --write", check=False)
    assert done.returncode == 1
    assert "the project's checks fail with the changes, so that no file was changed:" in done.stderr
    assert "ValueError: no!" in done.stderr
    assert folder.contents() == before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("", "The settings cannot be loaded: run this command in the folder of manage.py"),
        ("--prefix '\")'", "a prefix is a path such as events/, of A-Z a-z 0-9 _ - and /; got '\")'"),
        (
            "--public 'news room'",
            "a channel's name uses A-Z a-z 0-9 . _ - and at most 99",
        ),
    ],
)
def test_wrong_use_is_explained(installed: Environment, tmp_path: Path, arguments: str, problem: str) -> None:
    folder = Folder(installed, tmp_path, LAYOUTS["one file"].files if arguments else {})
    done = folder.run(f"python -m streams init {arguments}", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(problem)
