"""The steps of the README and of the tutorial work in a new project, exactly as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.services import free_port, wait_until
from tests.support.sites import ROOT

pytestmark = pytest.mark.once

FILE = re.compile(r"```\w+\n(?:# |<!-- )((?:mysite|board)/\S+).*?\n(.*?)```", re.DOTALL)


class Project:
    """A new project that contains the files shown in a document."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mysite"
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "mysite.settings"}
        subprocess.run([sys.executable, "-m", "django", "startproject", "mysite"], cwd=folder, check=True)

    def follow(self, document: str) -> None:
        """Write the files that a document shows. Settings are added at the end, as the documents require."""
        files = FILE.findall((ROOT / document).read_text())
        assert files
        for name, text in files:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text((path.read_text() if path.name == "settings.py" else "") + text)

    def manage(self, *args: str) -> str:
        argv = [sys.executable, "manage.py", *args]
        done = subprocess.run(argv, cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def serve(self, port: int) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "manage.py", "runserver", "--noreload", str(port)]
        with (self.folder / "log").open("ab") as log:
            server = subprocess.Popen(argv, cwd=self.folder, env=self.env, stdout=log, stderr=log)
        try:
            wait_until(lambda: _answers(port), "the server's start")
        except BaseException:
            server.kill()
            server.wait()
            raise
        return server


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.follow("README.md")
    return project


def test_readme_project_replays_over_a_restart(project: Project) -> None:
    assert "no issues" in project.manage("check")
    project.manage("migrate", "-v0")
    port = free_port()
    server = project.serve(port)
    try:
        page = httpx.get(f"http://127.0.0.1:{port}/").text
        [url] = re.findall(r'data-url="(.*?)"', page)
        assert url == "/events/news/?last_event_id=0"
        code = 'from streams import publish; publish("news", {"title": "Hello"})'
        project.manage("shell", "-c", code)
        assert _read(port, url, 1) == ['{"title":"Hello"}']
    finally:
        server.terminate()
        server.wait()
    project.manage("shell", "-c", code.replace("Hello", "Again"))
    server = project.serve(port)
    try:
        assert _read(port, url, 1, {"Last-Event-ID": "1"}) == ['{"title":"Again"}']
    finally:
        server.terminate()
        server.wait()


def test_tutorial_project_passes_its_own_test(project: Project) -> None:
    project.manage("startapp", "board")
    project.follow("docs/tutorial.md")
    project.manage("makemigrations", "board", "-v0")
    assert "no issues" in project.manage("check")
    assert "OK" in project.manage("test")


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
    except httpx.TransportError:
        return False


def _read(port: int, url: str, count: int, headers: dict[str, str] | None = None) -> list[str]:
    """Return the data of the first `count` messages of a stream."""
    data: list[str] = []
    with httpx.stream("GET", f"http://127.0.0.1:{port}{url}", headers=headers, timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: {}":
                data.append(line.removeprefix("data: "))
                if len(data) == count:
                    break
    return data
