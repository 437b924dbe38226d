"""The command with the settings of the tests. tests/system/test_streams_init.py runs it in whole projects."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command, get_commands
from django.test import override_settings

from streams import __main__ as program
from streams.installation import asgi_file, init, project, urls_file
from streams.installation.source import CannotChange

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]


def run(**options: Any) -> tuple[str, str]:
    """Run the command. Return what it wrote to stdout and to stderr."""
    out, notes = io.StringIO(), io.StringIO()
    get_commands.cache_clear()
    try:
        call_command("streams_init", stdout=out, stderr=notes, **options)
    finally:
        get_commands.cache_clear()
    return out.getvalue(), notes.getvalue()


def test_complete_project_needs_nothing() -> None:
    assert run() == ("", "Nothing to change.\n")


def test_diff_goes_to_the_files_that_define_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/settings.py imports project/settings.py and defines only the URLconf itself."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(urls_file, "has_streams", lambda: False)
    apps = [app for app in settings.INSTALLED_APPS if app not in ("daphne", "streams")]
    with override_settings(SETTINGS_MODULE="tests.settings", INSTALLED_APPS=apps):
        del settings.ASGI_APPLICATION
        plan = init.Plan(prefix="live/", public=[])
    changed = [line for line in plan.diff().splitlines() if line.startswith("+")]
    assert changed == [
        "+++ b/project/settings.py",
        '+    "daphne",',
        '+    "streams",',
        "+++ b/tests/settings.py",
        '+ASGI_APPLICATION = "tests.support.asgi.application"',
        "+++ b/tests/support/asgi.py",
        "+from streams.asgi import get_asgi_application",
        "+++ b/tests/support/urls.py",
        '+    path("live/", include("streams.urls")),',
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"prefix": "a b"}, "A prefix is a path such as events/, of A-Z a-z 0-9 _ - and /; got 'a b'"),
        (
            {"public": [""]},
            "A channel's name uses A-Z a-z 0-9 . _ - and at most 99 characters, and a pattern also *; got ''",
        ),
    ],
)
def test_wrong_option_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(CommandError) as caught:
        run(**options)
    assert str(caught.value) == problem


def test_taken_prefix_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """/test/login/ is a page of this site."""
    monkeypatch.setattr(urls_file, "has_streams", lambda: False)
    out, notes = run(prefix="test/login")
    assert out == ""
    assert "/test/login/ leads to <function" in notes
    assert "choose another URL with --prefix" in notes


class TwoFiles(project.Project):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        (folder / "old.py").write_text("A = 1\n")
        self.file(folder / "old.py").append("B = 2\n")
        self.file(folder / "new.py").append("C = 3\n")


def test_files_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "_problem", lambda: "")
    TwoFiles(tmp_path).write()
    assert (tmp_path / "old.py").read_text() == "A = 1\n\nB = 2\n"
    assert (tmp_path / "new.py").read_text() == "C = 3\n"


@pytest.mark.parametrize("failure", ["a check fails", KeyboardInterrupt()])
def test_files_are_restored_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any) -> None:
    def problem() -> str:
        assert (tmp_path / "new.py").exists()
        if isinstance(failure, BaseException):
            raise failure
        return str(failure)

    monkeypatch.setattr(project, "_problem", problem)
    with pytest.raises((CannotChange, KeyboardInterrupt)):
        TwoFiles(tmp_path).write()
    assert (tmp_path / "old.py").read_text() == "A = 1\n"
    assert not (tmp_path / "new.py").exists()


def test_new_asgi_file_uses_the_settings_of_wsgi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shop_site"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "wsgi.py").write_text('import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.production")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    found = project.Project()
    with override_settings(ASGI_APPLICATION="shop_site.asgi.app", WSGI_APPLICATION="shop_site.wsgi.application"):
        change = asgi_file.change(found)
        assert change is not None
        change()
    [file] = found.changed()
    assert file.path.name == "asgi.py"
    assert 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.production")' in file.after().decode()
    assert "app = get_asgi_application()" in file.after().decode()


def test_program_explains_missing_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    assert program.main(["init"]) == 1
    assert "run this command in the folder of manage.py" in capsys.readouterr().err
    (tmp_path / "manage.py").write_text("print('no settings')\n")
    assert program.main(["init"]) == 1
    assert "manage.py names none; set DJANGO_SETTINGS_MODULE." in capsys.readouterr().err


def test_program_does_what_the_command_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "_set_up_django", lambda: None)
    assert program.main(["init"]) == 0
    assert capsys.readouterr() == ("", "Nothing to change.\n")
    assert program.main(["init", "--public", "a b"]) == 1
    assert "got 'a b'" in capsys.readouterr().err
