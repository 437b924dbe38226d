"""Servers in Python: the bare ASGI app and Streams on several ASGI servers, and the peers on uvicorn."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks import rig
from benchmarks.peers.base import Peer
from tests.support.sites import PYTHON, ROOT, SERVERS

HERE = Path(__file__).parent

# The peers' packages have an environment of their own, which `make bench` creates.
PEERS_BIN = HERE / ".venv" / "bin"

ASGI_SERVERS = ("uvicorn", "granian", "daphne")
assert set(ASGI_SERVERS) <= set(SERVERS)


class App(Peer):
    """An ASGI application in the project's environment."""

    def __init__(self, name: str, server: str, app: str, path: str) -> None:
        self.name, self.path = f"{name}, {server}", path
        self._server, self._app = server, app

    def versions(self) -> Mapping[str, str]:
        names = [self._server, "django", *(["uvloop"] if self._server != "daphne" else [])]
        return {name: importlib.metadata.version(name) for name in names}

    def prepare(self, folder: Path) -> None:
        argv = [PYTHON, "manage.py", "migrate", "-v0"]
        subprocess.run(argv, env=self.environment(folder), cwd=ROOT, check=True)

    def command(self, port: int, folder: Path) -> list[str]:
        return rig.asgi_command(self._server, self._app, port)

    def environment(self, folder: Path) -> Mapping[str, str]:
        return rig.environment(f"sqlite:///{folder}/db.sqlite3")


class BareApp(App):
    def versions(self) -> Mapping[str, str]:
        return {name: version for name, version in super().versions().items() if name != "django"}

    def prepare(self, folder: Path) -> None:
        pass  # it has no database


BARE = tuple(BareApp("bare ASGI app", server, "benchmarks.bare:application", "/") for server in ASGI_SERVERS)
STREAMS = tuple(
    App(name, server, f"benchmarks.site:{app}", "/events/news/")
    for server in ASGI_SERVERS
    for name, app in (("Streams", "application"), ("Streams with streams.asgi", "direct"))
)


class PythonPeer(Peer):
    """A peer in the peers' environment, on uvicorn."""

    package: str
    app: str
    others: tuple[str, ...] = ()  # further packages whose versions matter

    def missing(self) -> str:
        found = [*PEERS_BIN.parent.glob(f"lib/python*/site-packages/{self.package.replace('-', '_')}")]
        return "" if found else f"`make bench` installs {self.package} from PyPI"

    def versions(self) -> Mapping[str, str]:
        code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
        names = [self.package, "uvicorn", "uvloop", *self.others]
        done = subprocess.run([PEERS_BIN / "python", "-c", code, *names], check=True, capture_output=True, text=True)
        return dict(zip(names, done.stdout.split(), strict=True))

    def command(self, port: int, folder: Path) -> list[str]:
        uvicorn = [str(PEERS_BIN / "python"), "-m", "uvicorn", self.app]
        return [*uvicorn, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]


class SSEStarlette(PythonPeer):
    name, path = "sse-starlette, uvicorn", "/"
    package, app, others = "sse-starlette", "benchmarks.peers.sse_starlette_app:application", ("starlette",)


class DjangoEventstream(PythonPeer):
    """django-eventstream, with its storage in the database, because Streams stores each message too."""

    name, path = "django-eventstream, uvicorn", "/events/news/"
    package, app, others = "django-eventstream", "benchmarks.peers.eventstream_app:application", ("django",)

    def prepare(self, folder: Path) -> None:
        argv = [PEERS_BIN / "python", "-m", "django", "migrate", "-v0"]
        subprocess.run(argv, env=self.environment(folder), cwd=ROOT, check=True)

    def environment(self, folder: Path) -> Mapping[str, str]:
        settings = {"DJANGO_SETTINGS_MODULE": "benchmarks.peers.eventstream_app"}
        return {**os.environ, **settings, "EVENTSTREAM_DATABASE": str(folder / "db.sqlite3"), "PYTHONPATH": str(ROOT)}
