"""Every text has a translation that keeps its placeholders, and the compiled catalogues are up to date."""

from __future__ import annotations

import gettext
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client, override_settings

from streams.broadcasts import lifecycle
from streams.models import Broadcast
from tests.support.services import missing
from tests.support.sites import BIN, ROOT

LOCALES = sorted((ROOT / "streams" / "locale").iterdir())
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%%|\{\w+\}|</?\w+>")


def catalogue(path: Path) -> dict[object, str]:
    """Return the texts of a compiled catalogue. A plural form has the key (msgid, number)."""
    with path.open("rb") as file:
        found: dict[object, str] = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    return {key: text for key, text in found.items() if key}


def run(*command: str, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def tools() -> None:
    if shutil.which("xgettext") is None:
        missing("gettext", "gettext")


def test_there_is_simplified_chinese() -> None:
    assert [locale.name for locale in LOCALES] == ["zh_Hans"]


@pytest.mark.once
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("locale", LOCALES, ids=lambda locale: locale.name)
def test_every_text_of_the_source_is_translated(locale: Path, tmp_path: Path) -> None:
    package = tmp_path / "streams"
    shutil.copytree(ROOT / "streams", package, ignore=shutil.ignore_patterns("__pycache__"))
    django_admin = str(BIN / "django-admin")
    run(django_admin, "makemessages", "-l", locale.name, "--no-location", "--no-obsolete", cwd=package)
    source = package / "locale" / locale.name / "LC_MESSAGES" / "django.po"
    output = run("msgfmt", "--check-format", "--statistics", "-o", "/dev/null", str(source), cwd=tmp_path)
    assert re.fullmatch(r"\d+ translated messages\.\n", output), (
        f"{output}; `make messages` brings the catalogues up to date"
    )


@pytest.mark.once
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("locale", LOCALES, ids=lambda locale: locale.name)
def test_the_catalogue_is_compiled_as_it_stands(locale: Path, tmp_path: Path) -> None:
    folder = locale / "LC_MESSAGES"
    run("msgfmt", "-o", str(tmp_path / "django.mo"), str(folder / "django.po"), cwd=tmp_path)
    assert catalogue(folder / "django.mo") == catalogue(tmp_path / "django.mo")


@pytest.mark.parametrize("locale", LOCALES, ids=lambda locale: locale.name)
def test_what_is_filled_in_stays(locale: Path) -> None:
    wrong = []
    for key, text in catalogue(locale / "LC_MESSAGES" / "django.mo").items():
        source = key[0] if isinstance(key, tuple) else key
        assert isinstance(source, str)
        expected, found = sorted(PLACEHOLDER.findall(source)), sorted(PLACEHOLDER.findall(text))
        # The English singular can spell the number out, so a plural's translation can have more placeholders.
        if expected != found and not (isinstance(key, tuple) and set(expected) <= set(found)):
            wrong.append((source, text))
    assert wrong == []


@pytest.mark.django_db
def test_the_pages_speak_chinese() -> None:
    client = Client()
    client.force_login(User.objects.create(username="editor", is_staff=True, is_superuser=True))
    broadcast = Broadcast.objects.create(title="t", channels=["news"], payload="x")
    desk = "/admin/streams/broadcast"
    shown = {"New broadcast": f"{desk}/add/", "Send now…": f"{desk}/{broadcast.pk}/change/"}
    shown |= {
        "Send this broadcast now?": f"{desk}/{broadcast.pk}/send/",
        "Why was a message not received?": "/admin/streams/message/",
    }
    shown |= {"Live monitor": "/admin/streams/monitor/", "Processes": "/admin/streams/node/"}
    # Error messages of the core are translated as well.
    shown |= {"is not a valid channel name": "/admin/streams/monitor/?channel=a!b"}
    shown |= {"a!b” is not a valid channel name": "/admin/streams/message/?channel=a!b"}
    for english, url in shown.items():
        assert english in client.get(url).text, url
        with override_settings(LANGUAGE_CODE="zh-hans"):
            page = client.get(url).text
        assert english not in page, url
        assert len(re.findall("[\u4e00-\u9fff]", page)) > 50, url
    lifecycle.send(broadcast.pk, by=None)
    send_url = f"{desk}/{broadcast.pk}/send/"
    refusal = "This broadcast was already sent"
    assert refusal in client.post(send_url, {"revision": "1"}, follow=True).text
    with override_settings(LANGUAGE_CODE="zh-hans"):
        assert refusal not in client.post(send_url, {"revision": "1"}, follow=True).text
