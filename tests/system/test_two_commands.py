"""`make run` and the other targets work in a fresh clone. `make test-system` runs these tests."""

from __future__ import annotations

import asyncio
import http.cookiejar
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import StreamClient
from tests.support.services import accepts, free_port, missing, wait_until
from tests.support.sites import ROOT

pytestmark = [pytest.mark.once, pytest.mark.slow]


class Clone:
    """A copy of the files that a clone contains. It uses the tests' virtual environment, which saves minutes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        # No other variables, so that none of them configures the site or its log.
        self.env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}

    def make(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", f"VENV={sys.prefix}", *args], cwd=self.folder, env=self.env, text=True, capture_output=True
        )

    def run(self) -> str:
        """Start `make run`, wait until it serves, and return its output so far."""
        self.log = self.folder.parent / "output"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                ["make", "run", f"PORT={self.port}", f"VENV={sys.prefix}"],
                cwd=self.folder,
                env=self.env,
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that all processes are stopped together, as by Ctrl-C in a terminal
            )
        wait_until(lambda: self._ended() or accepts(self.port), "make run", 300)
        return self.log.read_text()

    def reload(self) -> float:
        """Change a module, wait until the server has restarted, and return how many seconds that took."""
        started = self.log.read_text().count("Listening on TCP address")
        time.sleep(3)  # the reloader checks once a second, and its first check only records the files
        began = time.monotonic()
        os.utime(self.folder / "project" / "pages.py")
        wait_until(
            lambda: self.log.read_text().count("Listening on TCP address") > started and accepts(self.port),
            "the start after a change",
        )
        return time.monotonic() - began

    def _ended(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(self.log.read_text())
        return False

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGINT)
            self._process.wait(timeout=60)
            self._process = None
            wait_until(lambda: not accepts(self.port), "the end of the server")


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    if shutil.which("make") is None:
        missing("make", "make")
    folder = tmp_path / "clone"
    folder.mkdir()
    clone = Clone(folder)
    yield clone
    clone.stop()


class Visitor:
    """An HTTP client that keeps cookies and submits forms."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        )

    def get(self, path: str) -> str:
        with self._opener.open(f"{self.url}{path}", timeout=60) as response:
            return str(response.read().decode())

    def submit(self, path: str, action: str, **fields: str) -> str:
        """Fill in the form on the page at `path`."""
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.get(path))
        assert token is not None
        data = urllib.parse.urlencode({**fields, "csrfmiddlewaretoken": token.group(1)}).encode()
        with self._opener.open(f"{self.url}{action}", data=data, timeout=60) as response:
            return str(response.read().decode())


async def test_make_run_serves_a_site_to_log_in_to_and_keeps_its_data(clone: Clone) -> None:
    printed = clone.run()
    assert f"http://127.0.0.1:{clone.port}/admin/" in printed
    found = re.search(r"Name: (\S+)  Password: (\S+)", printed)
    assert found is not None
    name, password = found.groups()

    visitor = Visitor(clone.port)
    page = visitor.submit("/admin/login/?next=/", "/admin/login/?next=/", username=name, password=password)
    assert "Publish</button>" in page
    stream = await StreamClient(clone.port, "/events/news/").connect()
    await stream.read_control(1)
    page = visitor.submit("/", "/publish/", event="message", data="Hello from a form")
    assert "Published as event 1." in page
    [event] = await stream.read_until(1)
    assert (event.id, event.data) == ("1", "Hello from a form")

    clone.stop()
    again = clone.run()
    assert f"The user {name} already exists" in again
    assert "Password:" not in again
    assert "Installing" not in again
    page = visitor.get("/")  # still logged in, because the secret key is the same
    assert "Hello from a form" in page
    assert "Publish</button>" in page
    await stream.connect()
    visitor.submit("/", "/publish/", event="message", data="second")
    events = await stream.read_until(2)
    assert [event.id for event in events] == ["1", "2"]
    await stream.close()
    await asyncio.sleep(3)  # daphne checks once a second for failed requests
    assert "Traceback" not in clone.log.read_text()
    assert "Warning" not in clone.log.read_text()


async def test_autoreload_with_open_tabs_is_as_fast_as_without(clone: Clone) -> None:
    clone.run()
    idle = await asyncio.to_thread(clone.reload)
    tabs = [await StreamClient(clone.port, "/events/news/").connect() for _ in range(20)]
    for tab in tabs:
        await tab.read_control(1)
    busy = await asyncio.to_thread(clone.reload)
    assert busy < idle + 3, f"{busy:.1f} s with open tabs, {idle:.1f} s without"
    for tab in tabs:
        await tab.read_for(5)  # the stream has ended
        await tab.connect()
        await tab.close()


def test_env_file_is_for_its_owner_alone_and_is_never_overwritten(clone: Clone) -> None:
    clone.make("env")
    file = clone.folder / ".env"
    first = file.read_text()
    assert re.fullmatch(r"DEBUG=true\nSECRET_KEY=\S{60,}\n", first)
    assert file.stat().st_mode & 0o077 == 0
    clone.make("env")
    assert file.read_text() == first


def test_make_alone_says_what_can_be_done(clone: Clone) -> None:
    printed = clone.make().stdout
    for target in ("run", "test", "test-system", "lint", "format", "bench", "clean"):
        assert re.search(rf"^  {target} +\S", printed, re.MULTILINE)
    assert not (clone.folder / ".env").exists()


def test_old_python_is_refused_with_the_way_out(clone: Clone) -> None:
    old = clone.folder / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    refused = clone.make("run", f"PYTHON={old}", "VENV=new")
    assert refused.returncode != 0
    assert "Streams needs Python 3.11 or newer" in refused.stderr
    assert "make PYTHON=" in refused.stderr
