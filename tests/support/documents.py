"""Follow the steps of a document: run its commands and write its files, exactly as they are written."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tests.support.distribution import Environment
from tests.support.services import accepts, free_port, missing, wait_until
from tests.support.sites import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"(?:# |<!-- )([\w/]+\.\w+).*\n")


def blocks(document: str, heading: str = "") -> list[tuple[str, str]]:
    """Return (language, text) of each code block of a document, or of one of its sections."""
    text = (ROOT / document).read_text()
    if heading:
        [text] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return BLOCK.findall(text)


class Reader:
    """A user who follows a document in a folder.

    `wheel` replaces the distribution's name in `pip install`, and `port` replaces 8000. Nothing else is changed.
    """

    def __init__(self, environment: Environment, folder: Path, wheel: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.port = free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self._wheel = wheel
        self._log = folder / "server.log"
        self._deletions: dict[str, Path] = {}

    def delete_after(self, line: str, name: str) -> None:
        """Delete a file of the project right after a command, as if the command had not made it."""
        self._deletions[line] = self.folder / name

    def write(self, name: str, text: str) -> None:
        """Write a file that the document shows. Settings are added at the end."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if path.name == "settings.py" else "") + text)

    def follow(self, language: str, text: str) -> None:
        """Do what a code block shows, except for a command that does not end, such as curl."""
        if file := FILE.match(text):
            self.write(file[1], text)
        elif language == "sh":
            for line in text.splitlines():
                self.type(line)
        else:
            assert language == "python", language
            self.environment.run("python manage.py shell", self.folder, input=text)

    def type(self, line: str) -> str:
        """Type a line into a terminal. Return its output."""
        if line.startswith("cd "):
            self.folder /= line.removeprefix("cd ")
            return ""
        if line == "python manage.py runserver":
            self.start(line)
            return ""
        line = line.replace("django-sse-streams", str(self._wheel)) if line.startswith("pip install ") else line
        done = self.environment.run(line, self.folder)
        if line in self._deletions:
            self._deletions[line].unlink()
        return done.stdout + done.stderr

    def start(self, line: str = "python manage.py runserver") -> None:
        """Start the server, in a process group of its own, because its reloader starts another process."""
        with self._log.open("ab") as log:
            self.server = subprocess.Popen(
                [*line.split(), str(self.port)],
                cwd=self.folder,
                env=self.environment.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: self._ended() or accepts(self.port), "the server's start")

    def _ended(self) -> bool:
        assert self.server is not None
        assert self.server.poll() is None, self._log.read_text()[-4000:]
        return False

    def stop(self) -> None:
        """Press Ctrl-C in the server's terminal."""
        if self.server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGINT)
            self.server.wait(30)
            self.server = None

    @contextlib.contextmanager
    def watching(self, command: str) -> Iterator[Callable[[str], None]]:
        """Run a command that does not end by itself. Yield a function that waits for a line of its output."""
        if shutil.which("curl") is None:
            missing("curl", "curl")
        command = command.strip().replace(":8000", f":{self.port}")
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"], env=self.environment.env, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            yield lambda expected: _wait_for_line(process.stdout, expected)  # type: ignore[arg-type]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _wait_for_line(output: IO[str], expected: str) -> None:
    for line in output:
        if line.rstrip("\n") == expected:
            return
    raise AssertionError(f"the output ended without the line {expected!r}")
