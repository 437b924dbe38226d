"""The commands and programs of the documents run against a real site."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streams.tokens import make_token
from tests.docs.snippets import ROOT, documents, snippets
from tests.support.sites import Server, Site

pytestmark = pytest.mark.once

# How long a program that does not end by itself is observed after its first output, in seconds.
OBSERVED = 0.5

# Commands of the reader's machine, and of the project's own tests. The servers are run in test_deploying.py, those with
# npm in browser/front_ends, and the quickstart, which installs the distribution, in test_quickstart.py.
NOT_OURS = re.compile(
    r"^(npm|npx|cp) |pip install|systemctl|apt-get|make |\.venv/bin/python|(uvicorn|granian|daphne) .*project\.asgi"
)

ENDLESS = re.compile(r"curl -\w*N|manage\.py (subscribe|run_generations)")

# The names that programs outside of the site use and do not define.
GIVEN = "KEY = TOKEN = token = __import__('os').environ['TOKEN']\nhandle = print\n"


@pytest.fixture
def server(sqlite_site: Site) -> Server:
    upstream = {"BACKEND": "streams.relay.upstreams.ScriptedUpstream", "OPTIONS": {"models": ["qwen-max"]}}
    server = sqlite_site.settings(UPSTREAMS={"default": upstream}, PUBLIC_CHANNELS=["*"]).serve()
    server.log_in("ann")
    sqlite_site.script(
        "from django.contrib.auth.models import User\n"
        "ann = User.objects.get(username='ann'); ann.set_password('secret'); ann.save()"
    ).wait()
    return server


def environment(site: Site, server: Server) -> dict[str, str]:
    """Return the variables for a command. `python` and curl are on the path, and TOKEN opens and publishes."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with contextlib.suppress(FileExistsError):
        (site.folder / "manage.py").symlink_to(ROOT / "manage.py")
    return {
        **site.env,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "HOME": str(site.folder),
        "TOKEN": make_token(read=["*"], publish=["*"], seconds=600),
    }


def on(server: Server, code: str) -> str:
    """Return the code with the address of the test's site."""
    return re.sub(r"https://example\.com|http://127\.0\.0\.1:8000", server.url, code)


def observe(argv: list[str], env: dict[str, str], *, endless: bool) -> tuple[int, str]:
    """Run a program, and return its exit code and output. An endless one must print something, and is then ended."""
    process = subprocess.Popen(
        argv,
        cwd=env["HOME"],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    limit = threading.Timer(60, process.kill)
    limit.start()
    first = process.stdout.readline() if endless else ""
    if endless and process.poll() is None:
        time.sleep(OBSERVED)
        process.kill()
    rest = process.stdout.read()
    limit.cancel()
    code = process.wait()
    return 0 if endless and first and code == -signal.SIGKILL else code, first + rest


def test_commands_run(sqlite_site: Site, server: Server) -> None:
    env = environment(sqlite_site, server)

    def run(place: str, command: str) -> None:
        given = on(server, command).replace("-u ann", "-u ann:secret").replace("curl ", "curl -sS --fail ")
        code, output = observe(["bash", "-c", given], env, endless=bool(ENDLESS.search(command)))
        assert code == 0, f"{place}: {command}\n{output}"
        assert "Traceback" not in output, f"{place}: {command}\n{output}"

    commands = [
        (snippet.place, command)
        for document in documents("sh")
        for snippet in snippets(document, "sh")
        for command in snippet.code.replace("\\\n", " ").splitlines()
        if command.strip() and not NOT_OURS.search(command)
    ]
    assert len(commands) > 10
    with ThreadPoolExecutor(4) as pool:  # most of the time they start, or wait for events
        list(pool.map(run, *zip(*commands, strict=True)))


@pytest.mark.parametrize(
    "place",
    [snippet.place for path in documents("python") for snippet in snippets(path, "python") if snippet.calls_a_site],
)
def test_programs_run(sqlite_site: Site, server: Server, place: str) -> None:
    """Programs that call a site. A reader's program can end or wait for events, but does not fail."""
    document = ROOT / place.partition(":")[0]
    [snippet] = [each for each in snippets(document, "python") if each.place == place]
    env = environment(sqlite_site, server)
    if "openai" in snippet.code:
        env["TOKEN"] = sqlite_site.manage("create_relay_key", "ann").stdout.strip()
    publisher = sqlite_site.script(
        "import time\nfrom streams import publish\nwhile True: publish('news', 'Hello'); time.sleep(0.5)"
    )
    try:
        code, output = observe([sys.executable, "-uc", GIVEN + on(server, snippet.code)], env, endless=True)
    finally:
        publisher.kill()
    assert code == 0, output
    assert "Traceback" not in output
