"""Streams end when their reader loses access: in every process at once by notices, and otherwise by a recheck."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission

from streams import disconnect
from streams.models import ChannelSettings
from streams.tokens import make_token
from tests.support import clients
from tests.support.clients import StreamClient
from tests.support.services.postgres import PostgresServer
from tests.support.sites import Server, Site, copy_sqlite, finish
from tests.system.servers.conftest import DIRECT

pytestmark = pytest.mark.once

# The promise is one second. A busy test machine can add to it.
BOUND_SECONDS = 10.0

NOTIFIERS = {
    "postgres": "streams.notifiers.postgres.PostgresNotifier",
    "redis": "streams.notifiers.channel_layer.ChannelLayerNotifier",
}

Setup = tuple[Site, Server, Server]


def site_on(kind: str, request: pytest.FixtureRequest, folder: Any) -> Site:
    needed = request.getfixturevalue(kind)
    if isinstance(needed, PostgresServer):
        name = needed.create_database(template=request.getfixturevalue("migrated_postgres"))
        return Site(needed.dsn(name), folder, needed)
    copy_sqlite(request.getfixturevalue("migrated_sqlite"), folder / "db.sqlite3")
    site = Site(f"sqlite:///{folder / 'db.sqlite3'}", folder)
    site.env["REDIS_URL"] = needed.url
    return site


@pytest.fixture(params=NOTIFIERS)
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """Run two processes that recheck only every ten minutes, so that streams end by a notice."""
    site = site_on(request.param, request, tmp_path_factory.mktemp("site"))
    site.settings(NOTIFIER={"BACKEND": NOTIFIERS[request.param]}, RECHECK_SECONDS=600, RETRY_MILLISECONDS=100)
    yield site, site.serve(), site.serve("uvicorn", DIRECT)
    site.close()


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    clients.leave_all()


# --- Changes in a third process, such as a queue's worker -------------------------------------------------------------


def prepare() -> None:
    """Create users with access to the channels that they read in the test, and print tokens and primary keys."""
    user_model = get_user_model()
    made = {name: user_model.objects.create_user(name, is_staff=name in ("staff", "member")) for name in PEOPLE}
    made["staff"].user_permissions.add(Permission.objects.get(codename="view_message"))
    group = Group.objects.create(name="readers")
    group.permissions.add(Permission.objects.get(codename="view_message"))
    made["member"].groups.add(group)
    made["fellow"].groups.add(Group.objects.create(name="fellows"))
    for channel, access in (("internal", "logged-in"), ("club", "groups")):
        ChannelSettings.objects.create(channel=channel, access=access).groups.set(
            Group.objects.filter(name="fellows") if access == "groups" else []
        )
    tokens = {"token": make_token(read=["job.*"]), "of_user": make_token(read=["job.2"], user=made["tokened"])}
    print(json.dumps({**tokens, "pks": {name: user.pk for name, user in made.items()}}))


PEOPLE = (
    "deactivated",
    "repassworded",
    "deleted",
    "staff",
    "member",
    "fellow",
    "insider",
    "kicked",
    "unseen",
    "tokened",
    "by",
)


def change(pks: str, token: str) -> None:
    """Revoke the access of each user, each in another way."""
    user_model = get_user_model()
    users = {name: user_model.objects.get(pk=pk) for name, pk in json.loads(pks).items()}
    users["deactivated"].is_active = False
    users["deactivated"].save()
    users["repassworded"].set_password("new")
    users["repassworded"].save(update_fields=["password"])
    users["deleted"].delete()
    users["staff"].user_permissions.clear()
    Group.objects.get(name="readers").permissions.clear()
    users["fellow"].groups.clear()
    ChannelSettings.objects.filter(channel="internal").get().delete()
    disconnect(user=users["kicked"], channel="user." + str(users["kicked"].pk))
    disconnect(user=users["unseen"].pk)
    disconnect(token=token)
    users["tokened"].is_active = False
    users["tokened"].save()


# --- The tests --------------------------------------------------------------------------------------------------------


async def test_what_is_taken_back_ends_streams_of_all_processes_at_once(setup: Setup) -> None:
    site, one, other = setup
    made = json.loads(finish(site.call(prepare)))
    pks, token = made["pks"], made["token"]
    sessions = {name: one.log_in(name) for name in (*PEOPLE, "leaving")}
    leaving_pk = site.execute("SELECT id FROM auth_user WHERE username = 'leaving'")[0][0]
    paths = {
        **{name: f"/events/user.{pks[name]}/" for name in ("deactivated", "repassworded", "deleted", "kicked")},
        "staff": "/events/anything/",
        "member": "/events/?channel=news&channel=anything",
        "fellow": "/events/club/",
        "unseen": "/events/news/",  # a public channel: the server did not load the user when the stream was opened
        "insider": "/events/internal/",
        "leaving": f"/events/user.{leaving_pk}/",
    }
    bystanders = {"by": f"/events/user.{pks['by']}/", "anybody": "/events/news/", "deactivated": "/events/news/"}

    streams: dict[tuple[str, int], StreamClient] = {}
    for server in (one, other):
        for name, path in paths.items():
            streams[name, server.port] = await opened(server, path, Cookie=sessions[name])
        streams["token", server.port] = await opened(server, f"/events/job.1/?token={token}")
        streams["of_user", server.port] = await opened(
            server, "/events/job.2/", Authorization=f"Bearer {made['of_user']}"
        )
    left_alone = [
        await opened(server, path, **({"Cookie": sessions[name]} if name in sessions else {}))
        for server in (one, other)
        for name, path in bystanders.items()
    ]
    await asyncio.sleep(1)  # the first stream does not wait until the notifier listens

    began = time.monotonic()
    finish(site.call(change, json.dumps(pks), token))
    one.json_as(sessions["leaving"], "/test/logout/")
    async with asyncio.timeout(BOUND_SECONDS):
        await asyncio.gather(*(ended(stream) for stream in streams.values()))
    print(f"{len(streams)} streams had ended after {time.monotonic() - began:.2f} s, the changes included.")
    for (name, _), stream in streams.items():
        last = stream.control[-1]
        assert (last.event, json.loads(last.data)["code"]) == ("stream-error", "revoked"), name

    for (name, port), stream in streams.items():
        again = StreamClient(port, stream.path, stream.headers)
        await again.connect()
        if name in ("kicked", "unseen"):  # only disconnected; the user still has access
            assert again.status == 200
        else:
            assert again.status == 403, name
    for stream in left_alone:
        await stream.read_for(0.2)
        assert not [event for event in stream.control if event.event == "stream-error"], stream.path


async def opened(server: Server, path: str, **headers: str) -> StreamClient:
    stream = await StreamClient(server.port, path, headers).connect()
    assert stream.status == 200, (path, await stream.chunk())
    await stream.read_control(1)
    return stream


async def ended(stream: StreamClient) -> None:
    while await stream.read():
        pass


@pytest.mark.parametrize("how", ["update", "session"])
async def test_what_no_notice_tells_of_is_found_by_asking_again(sqlite_site: Site, how: str) -> None:
    """Neither update() nor a session that expires sends a signal."""
    server = sqlite_site.settings(RECHECK_SECONDS=1).serve()
    cookie = server.log_in("ann")
    pk = sqlite_site.execute("SELECT id FROM auth_user")[0][0]
    stream = await opened(server, f"/events/user.{pk}/", Cookie=cookie)
    public = await opened(server, "/events/news/", Cookie=cookie)
    await stream.read_for(2)
    assert len(stream.control) == 1, "a recheck that finds no change should not end the stream"
    statement = "UPDATE auth_user SET is_active = 0" if how == "update" else "DELETE FROM django_session"
    sqlite_site.execute(statement)
    async with asyncio.timeout(BOUND_SECONDS):
        await ended(stream)
    assert (await StreamClient(server.port, stream.path, stream.headers).connect()).status == 403
    await public.read_for(0.2)
    assert len(public.control) == 1


async def test_stream_goes_on_while_the_database_cannot_be_asked(sqlite_site: Site) -> None:
    """An outage is not a revocation. Changes that were made during the outage apply after it."""
    server = sqlite_site.settings(RECHECK_SECONDS=1, POLL_SECONDS=0.2).serve()
    cookie = server.log_in("ann")
    pk = sqlite_site.execute("SELECT id FROM auth_user")[0][0]
    stream = await opened(server, f"/events/user.{pk}/", Cookie=cookie)
    sqlite_site.execute("ALTER TABLE auth_user RENAME TO away")
    await stream.read_for(2.5)
    assert not [event for event in stream.control if event.event == "stream-error"]
    sqlite_site.execute("UPDATE away SET is_active = 0")
    sqlite_site.execute("ALTER TABLE away RENAME TO auth_user")
    async with asyncio.timeout(4 * BOUND_SECONDS):
        await ended(stream)


async def test_asking_again_leaves_nothing_behind(sqlite_site: Site) -> None:
    """After several rechecks, the streams hold no threads."""
    server = sqlite_site.settings(
        RECHECK_SECONDS=0.5, POLL_SECONDS=600, PRESENCE_SECONDS=None, PRUNE_SECONDS=None
    ).serve()
    cookie = server.log_in("ann")
    pk = sqlite_site.execute("SELECT id FROM auth_user")[0][0]
    streams = [await opened(server, f"/events/user.{pk}/", Cookie=cookie) for _ in range(20)]
    await asyncio.gather(*(stream.read_for(4) for stream in streams))
    held = server.json("/test/process/")
    assert held["subscribers"] == 20
    assert held["threads"] < 20, held["python_threads"]


HANGS = """
import asyncio, threading, time
from asgiref.sync import sync_to_async
from streams.delivery import rechecks

rechecks.POLICY_TIMEOUT_SECONDS = 0.3
go_on = threading.Event()

class Admission:
    decided_at, user, session_user = 0.0, None, None
    hangs = True
    def matches(self, revocation):
        return False
    shared_key = None
    def sharing_key(self):
        return None

async def are_still_authorized(pairs):
    [(admission, _)] = pairs
    if admission.hangs:
        await sync_to_async(go_on.wait)(60)
    asked.set()
    return [True]

rechecks.are_still_authorized = are_still_authorized

class Subscriber:
    recheck_at = float("inf")
    def __init__(self):
        self.admission = Admission()

async def main():
    global asked
    asked = asyncio.Event()
    subscribers = [Subscriber() for _ in range(rechecks.MAX_WORKERS + 1)]
    subscribers[-1].admission.hangs = False
    looked = rechecks.Rechecks(subscribers)
    for subscriber in subscribers:
        looked._enqueue(subscriber)
    began = time.monotonic()
    await asyncio.wait_for(asked.wait(), 30)
    go_on.set()
    looked.stop()
    print(time.monotonic() - began)

asyncio.run(main())
"""


def test_sync_policies_that_hang_hold_up_the_others_for_a_while_only(sqlite_site: Site) -> None:
    """The program exits without waiting for the hanging threads. It runs alone, without a test run's other threads."""
    assert float(finish(sqlite_site.script(HANGS))) < 20
