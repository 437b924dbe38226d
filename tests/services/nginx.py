"""A real nginx with the very file of docs/deploying: only ports and folders are others."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.services import accepts, free_port, wait_until

CONFIGURATION = Path(__file__).resolve().parent.parent.parent / "docs" / "deploying" / "nginx.conf"


def program() -> str | None:
    """The nginx of this machine, if it has one."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class NginxServer:
    """nginx before the servers on `ports`, of which there are as many as the file has."""

    def __init__(self, ports: Sequence[int]) -> None:
        found = program()
        assert found is not None
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="streams-nginx-"))
        self.folder.chmod(0o755)  # its workers are another user, where it is started by root
        self._process: subprocess.Popen[bytes] | None = None
        path = self.folder / "nginx.conf"
        path.write_text(configured(CONFIGURATION.read_text(), self.port, ports, self.folder))
        self._command = [found, "-c", str(path), "-e", str(self.folder / "error.log"), "-g", "daemon off;"]

    def start(self) -> NginxServer:
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        wait_until(self._accepts, "nginx's start")
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _accepts(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"nginx ended at once:\n{self.errors()}")
        return accepts(self.port)

    def errors(self) -> str:
        """What it has complained of."""
        return "".join(path.read_text() for name in ("output", "error.log") if (path := self.folder / name).exists())

    def remove(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)


def configured(text: str, port: int, ports: Sequence[int], folder: Path) -> str:
    """The site's file with other ports and folders. Each place must be there, or a test would run with another file."""
    replacements = [("listen 80;", f"listen 127.0.0.1:{port};", 1)]
    replacements += [(name, f"{folder}/", None) for name in ("/run/", "/var/log/nginx/", "/var/lib/nginx/")]
    replacements += [(f"127.0.0.1:{8001 + n} ", f"127.0.0.1:{number} ", 1) for n, number in enumerate(ports)]
    for old, new, times in replacements:
        found = text.count(old)
        assert found == times if times else found, f"{CONFIGURATION.name} has {old!r} {found} times"
        text = text.replace(old, new)
    assert len(re.findall(r"^ *server 127\.", text, re.MULTILINE)) == len(ports)
    return text
