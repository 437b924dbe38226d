"""The command lines in docs/operations/deploying.md serve streams and end in time, and its files agree with it."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from tests.support.clients import StreamClient
from tests.support.services import free_port
from tests.support.sites import BIN, ROOT, Server, Site
from tests.system.servers.holdings import publish

pytestmark = pytest.mark.once

DOCS = ROOT / "docs" / "operations"
TEXT = (DOCS / "deploying.md").read_text()
COMMANDS = {line.split()[0]: line for line in re.findall(r"^```sh\n(.*project\.asgi.*)\n```$", TEXT, re.MULTILINE)}


def test_command_lines_are_those_of_the_servers() -> None:
    assert list(COMMANDS) == ["uvicorn", "granian", "daphne"]


@pytest.mark.parametrize("server", COMMANDS)
async def test_command_line_serves_streams_and_ends(sqlite_site: Site, server: str) -> None:
    port = free_port()
    argv = shlex.split(COMMANDS[server].replace("8001", str(port)))
    running = Server([str(BIN / argv[0]), *argv[1:]], port, sqlite_site.env, sqlite_site.folder / "log").start()
    try:
        client = await StreamClient(port, "/events/news/").connect()
        await client.read_control(1)
        await publish(running, "news", n=2)
        assert len(await client.read_until(2)) == 2
        reading = asyncio.create_task(client.read_for(60))
        await asyncio.to_thread(running.stop, signal.SIGTERM, patient=True)
        await reading
        assert re.search(rb"retry: \d+\n$", client.raw)
        client.abort()
    finally:
        running.stop()


def test_unit_and_image_start_the_server_in_the_same_way() -> None:
    unit = (DOCS / "deploying" / "site@.service").read_text()
    [started] = re.findall(r"^ExecStart=/srv/site/\.venv/bin/(.*)$", unit, re.MULTILINE)
    assert started.replace("%i", "8001") == COMMANDS["uvicorn"]
    [image] = re.findall(r"^CMD (.*)$", (DOCS / "deploying" / "Dockerfile").read_text(), re.MULTILINE)
    command = COMMANDS["uvicorn"].replace("127.0.0.1", "0.0.0.0").replace("8001", "8000")
    assert json.loads(image) == [*shlex.split(command), "--forwarded-allow-ips", "*"]


def test_unit_has_started_when_its_server_accepts_connections() -> None:
    unit = (DOCS / "deploying" / "site@.service").read_text()
    [wait] = re.findall(r"^ExecStartPost=(.*)$", unit, re.MULTILINE)
    port = free_port()
    argv = shlex.split(wait.replace("%i", str(port)))
    waiting = subprocess.Popen([sys.executable, *argv[1:]])
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)
    with socket.create_server(("127.0.0.1", port)):
        assert waiting.wait(30) == 0


def test_health_check_of_the_image_asks_the_database(postgres_site: Site) -> None:
    image = (DOCS / "deploying" / "Dockerfile").read_text()
    [check] = re.findall(r"^HEALTHCHECK .* CMD (.*)$", image, re.MULTILINE)
    server = postgres_site.serve()
    argv = [sys.executable, *json.loads(check.replace("8000", str(server.port)))[1:]]
    healthy = subprocess.run(argv, env={**postgres_site.env, "ALLOWED_HOSTS": "localhost,127.0.0.1"})
    assert healthy.returncode == 0
    assert postgres_site.postgres is not None
    with postgres_site.postgres.hanging():
        assert subprocess.run(argv, capture_output=True).returncode == 1


def test_compose_file_turns_the_servers_of_nginx_into_its_own() -> None:
    compose = (DOCS / "deploying" / "compose.yaml").read_text()
    [script] = re.findall(r"sed '(s/.*?/.*?/)'", compose)
    _, pattern, replacement, _ = script.split("/")
    pattern = pattern.replace(r"\(", "(").replace(r"\)", ")")  # from a basic regular expression to Python's syntax
    nginx = (DOCS / "deploying" / "nginx.conf").read_text()
    servers = re.findall(r"^ *server (\S+)", re.sub(pattern, replacement, nginx), re.MULTILINE)
    assert [name for name in servers if name != "{"] == [f"web{n}:8000" for n in range(1, 5)]
    for n in range(1, 5):
        assert re.search(rf"^  web{n}: \*server$", compose, re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", TEXT))))
def test_links_lead_somewhere(link: str) -> None:
    assert (DOCS / link).exists()
