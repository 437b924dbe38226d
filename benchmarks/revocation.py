"""Revocation: the time until streams end after one user, one channel's readers or all users lose access.

One uvicorn process has private streams of a hundred users, each opened with a session. Another process revokes the
access, and sends a notice over PostgreSQL, or over Redis if the database is SQLite.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Sequence

from benchmarks import rig
from tests.support.services.redis import RedisServer
from tests.support.sites import PYTHON, ROOT

USERS = 100
STREAMS = 2000
AT_A_TIME = 50

SETUP = """
import django, json; django.setup()
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.backends.db import SessionStore
group = Group.objects.create(name="readers")
group.permissions.add(Permission.objects.get(codename="view_message"))
keys = []
for n in range(%d):
    user = User.objects.create(username=f"reader {n}", is_staff=True)
    user.groups.add(group)
    session = SessionStore()
    session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session.create()
    keys.append(session.session_key)
print(json.dumps(keys))
"""

CHANGES = {
    "a user is deactivated": "user = User.objects.get(username='reader 0'); user.is_active = False; user.save()",
    "a channel is closed to its readers": "disconnect(channel='half')",
    "a group loses its permission": "Group.objects.get(name='readers').permissions.clear()",
}

CHANGE = """
import django, time; django.setup()
from django.contrib.auth.models import Group, User
from streams import disconnect
print(time.time(), flush=True)
"""


async def _open(port: int, key: str, channel: str, ended: list[float]) -> None:
    """Open a stream, and append the time at which it ends with "revoked" to `ended`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET /events/{channel}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: sessionid={key}\r\n\r\n".encode()
    )
    if b" 200 " not in await reader.readuntil(b"\r\n\r\n"):
        raise RuntimeError("A stream was refused.")

    async def listen() -> None:
        while data := await reader.read(65_536):
            if b'"revoked"' in data:
                ended.append(time.time())
                break
        writer.close()

    _listening.add(asyncio.create_task(listen()))


_listening: set[asyncio.Task[None]] = set()


async def _measure(port: int, env: dict[str, str], keys: Sequence[str]) -> list[list[object]]:
    rows: list[list[object]] = []
    ended: list[float] = []
    channels = ["half" if n % 2 else "other" for n in range(STREAMS)]
    for start in range(0, STREAMS, AT_A_TIME):
        some = range(start, start + AT_A_TIME)
        await asyncio.gather(*(_open(port, keys[n // 2 % USERS], channels[n], ended) for n in some))
    await asyncio.sleep(8)  # all streams are rechecked once after the notifier starts to listen
    left = STREAMS
    for change, code in CHANGES.items():
        expected = {"a user is deactivated": STREAMS // USERS, "a channel is closed to its readers": left // 2}.get(
            change, left
        )
        ended.clear()
        process = await asyncio.create_subprocess_exec(
            PYTHON, "-c", CHANGE + code, env=env, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        began = float(await process.stdout.readline())
        async with asyncio.timeout(120):
            while len(ended) < expected:
                await asyncio.sleep(0.02)
        await process.wait()
        waited = sorted(moment - began for moment in ended)
        rows.append([change, left, expected, waited[len(waited) // 2], waited[-1]])
        left -= expected
    return rows


def run() -> None:
    rows: list[list[object]] = []
    for kind in ("sqlite", "postgresql"):
        redis = RedisServer() if kind == "sqlite" else None
        try:
            if redis is not None:
                redis.start()
            with rig.database(kind) as url:
                redis_env = {} if redis is None else {"REDIS_URL": redis.url}
                env = {**rig.environment(url), **redis_env}
                done = subprocess.run(
                    [PYTHON, "-c", SETUP % USERS], env=env, cwd=ROOT, check=True, capture_output=True, text=True
                )
                with rig.server("uvicorn", "benchmarks.site:application", url, **redis_env) as server:
                    found = asyncio.run(_measure(server.port, env, json.loads(done.stdout)))
                rows += [[kind, *row] for row in found]
        finally:
            if redis is not None:
                redis.remove()
    columns = ["database", "change", "open streams", "that end", "seconds, half of them", "seconds, all"]
    rig.table("How soon streams end (from the change in another process)", columns, rows)
