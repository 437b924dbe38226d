"""The image, the compose file and the systemd unit restrict the site, and the site runs under these restrictions."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
import yaml

from tests.support.clients import StreamClient
from tests.support.services import free_port, missing, redis, sandbox, wait_until
from tests.support.sites import BIN, ROOT, Server, Site
from tests.system.servers.holdings import publish

pytestmark = pytest.mark.once

FOLDER = ROOT / "docs" / "operations" / "deploying"
UNIT = FOLDER / "site@.service"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


async def serves(server: Server) -> None:
    """Assert that the server streams, publishes, accepts a body too large for memory, and ends in time."""
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    await publish(server, "news", n=2)
    assert len(await client.read_until(2)) == 2
    # Django puts a body of this size into a temporary file, before it asks for the CSRF token.
    assert await asyncio.to_thread(_upload, server, 3_000_000) == 403
    await asyncio.to_thread(server.stop, signal.SIGTERM, patient=True)
    await client.read_for(60)
    assert re.search(rb"retry: \d+\n$", client.raw)
    client.abort()


def _upload(server: Server, size: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/events/news/", b"x" * size)
    status = connection.getresponse().status
    connection.close()
    return status


# --- The image ---


def test_image_runs_locked_versions_as_an_unprivileged_user() -> None:
    assert re.search(r"^FROM python:3\.\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^RUN pip install .*--require-hashes -r requirements\.lock$", DOCKERFILE, re.MULTILINE)
    instructions = [line.split()[0] for line in DOCKERFILE.splitlines() if re.match("[A-Z]+ ", line)]
    assert instructions.index("USER") > max(n for n, name in enumerate(instructions) if name in ("RUN", "COPY"))
    [user] = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert int(user) > 0
    assert f"--uid {user}" in DOCKERFILE


async def test_server_of_the_image_runs_on_a_read_only_root_without_capabilities(
    postgres_site: Site, tmp_path: Path
) -> None:
    """It runs in a mount namespace with its own /tmp. All other file systems are read-only, as in compose.yaml."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    enter = "mount --make-rprivate / && mount -t tmpfs tmpfs $0 && mount -o remount,bind,ro / && exec "
    enter += "setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "
    enter += '"$@"'
    unshare = ["unshare", "--mount", "sh", "-c", enter, str(temporary)]
    if os.geteuid() != 0 or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this user is not allowed to make a mount namespace")
    refused = subprocess.run([*unshare, "touch", str(ROOT / "written")], capture_output=True, text=True)
    assert "Read-only file system" in refused.stderr

    [command] = re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)
    port = free_port()
    argv = [{"0.0.0.0": "127.0.0.1", "8000": str(port)}.get(word, word) for word in json.loads(command)]
    env = {**postgres_site.env, "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    server = Server([*unshare, str(BIN / argv[0]), *argv[1:]], port, env, tmp_path / "log").start()
    try:
        await serves(server)
    finally:
        server.stop()


# --- The compose file ---


@pytest.mark.parametrize("name", SERVICES)
def test_container_is_hardened_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] > 0
    assert ("ports" in service) == (name == "nginx"), "only nginx is to be reachable from outside"
    if "build" in service:
        assert service["image"] == "site:local"
    else:
        assert service["user"] == {"nginx": "nginx", "db": "postgres", "redis": "redis"}[name]
        assert re.fullmatch(r"\w+:\d+(\.\d+)+", service["image"]), "not an exact version"


def test_nginx_of_the_compose_file_writes_to_its_tmpfs(tmp_path: Path) -> None:
    """Every user can write to /tmp. A tmpfs elsewhere has the owner and the mode of the image's folder."""
    service = SERVICES["nginx"]
    assert service["tmpfs"] == ["/tmp"]
    script = service["command"][-1].partition(" && exec nginx ")[0]
    made = tmp_path / "nginx.conf"
    script = script.replace("/site.conf", str(FOLDER / "nginx.conf")).replace("/tmp/nginx.conf", str(made))
    subprocess.run(["sh", "-c", script], check=True)
    paths = re.findall(r"^ *(?:pid|\w+_temp_path) (\S+);", made.read_text(), re.MULTILINE)
    assert len(paths) == 6
    assert {str(Path(path).parent) for path in paths} == {"/tmp"}


def test_redis_of_the_compose_file_wants_its_password() -> None:
    """The test replaces the variables as Compose does, and starts Redis with the file's command."""
    program = redis.program()
    if program is None:
        missing("Redis", "redis-server")
    password, port = "a1b2c3", free_port()
    words = [word.replace("${REDIS_PASSWORD:?}", password) for word in SERVICES["redis"]["command"]]
    url = SERVICES["web1"]["environment"]["REDIS_URL"].replace("${REDIS_PASSWORD:?}", password)
    url = url.replace("redis:6379", f"127.0.0.1:{port}")
    argv = [str(program), *words[1:], "--port", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        client = redis_client.Redis.from_url(url)
        wait_until(lambda: _answers(client), "Redis's start")
        with pytest.raises(redis_client.AuthenticationError):
            redis_client.Redis(port=port).ping()
        for given, is_healthy in ((password, True), ("wrong", False)):
            check = SERVICES["redis"]["healthcheck"]["test"][1].replace("redis-cli", f"redis-cli -p {port}")
            done = subprocess.run(["sh", "-c", check], env={**os.environ, "REDISCLI_AUTH": given}, capture_output=True)
            assert (done.returncode == 0) == is_healthy
    finally:
        process.terminate()
        process.wait(30)


def _answers(client: redis_client.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis_client.ConnectionError:
        return False


# --- The systemd unit ---


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        missing("systemd-analyze", "systemd")
    assert found is not None
    return found


def test_unit_is_little_exposed(systemd_analyze: str) -> None:
    """systemd rates units from 10 (unsafe) to 0. Without the directives of its last paragraphs, this unit gets 7.9."""
    argv = [systemd_analyze, "security", "--offline=true", str(UNIT)]
    judged = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "SYSTEMD_COLORS": "0"})
    found = re.search(r"Overall exposure level for \S+: ([\d.]+) (\w+)", judged.stdout)
    assert found is not None, judged.stderr
    assert float(found[1]) <= 1.5
    assert found[2] == "OK"


async def test_server_runs_under_the_restrictions_of_the_unit(
    systemd_analyze: str, postgres_site: Site, tmp_path: Path
) -> None:
    """The system call filter, the address families and MemoryDenyWriteExecute apply; see services/sandbox.py."""
    restricted = [sys.executable, sandbox.__file__, str(UNIT)]
    code = "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"
    refused = subprocess.run([*restricted, sys.executable, "-c", code], capture_output=True, text=True)
    assert "PermissionError" in refused.stderr  # the restrictions apply
    code = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"
    refused = subprocess.run([*restricted, sys.executable, "-c", code], capture_output=True, text=True)
    assert "PermissionError" in refused.stderr

    port = free_port()
    [started] = sandbox.directives(UNIT)["ExecStart"]
    argv = shlex.split(started.replace("%i", str(port)).replace("/srv/site/.venv/bin", str(BIN)))
    server = Server([*restricted, *argv], port, postgres_site.env, tmp_path / "log").start()
    try:
        await serves(server)
    finally:
        server.stop()
    assert "PermissionError" not in server.log.read_text()
    assert "Operation not permitted" not in server.log.read_text()
