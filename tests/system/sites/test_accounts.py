"""django-allauth: its pages log users in and out, and their streams end with the login."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import pytest

from tests.support.clients import StreamClient
from tests.support.sites import finish
from tests.system.sites.conftest import Start
from tests.system.sites.running import Running

pytestmark = pytest.mark.once

PASSWORD = "correct horse battery"
MAKE = f"""
import sys
from django.contrib.auth.models import User
print(User.objects.create_user(sys.argv[1], password={PASSWORD!r}).pk)
"""


@pytest.fixture(scope="module")
def running(start: Start) -> Running:
    return start("accounts", migrate=True)


async def submit(client: httpx.AsyncClient, path: str, **fields: str) -> httpx.Response:
    """Fill in a form of allauth, and send it."""
    page = await client.get(path)
    assert page.status_code == 200, page.text[-2000:]
    found = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert found is not None
    return await client.post(path, data={"csrfmiddlewaretoken": found[1], **fields})


async def own_stream(running: Running, client: httpx.AsyncClient, name: str) -> StreamClient:
    """Log in, and open the stream of the user's own channel."""
    pk = (await asyncio.to_thread(finish, running.site.script(MAKE, name))).strip()
    answer = await submit(client, "/accounts/login/", login=name, password=PASSWORD)
    assert answer.status_code == 302, answer.text
    cookie = f"sessionid={client.cookies['sessionid']}"
    stream = await running.connect(f"/events/user.{pk}/", Cookie=cookie)
    await stream.read_control(1)
    await running.publish(f"user.{pk}", "for you")
    assert [event.data for event in await stream.read_until(1)] == ["for you"]
    return stream


async def revoked(stream: StreamClient) -> None:
    """Read to the end of a stream that the user is no longer allowed to read."""
    stream.control.clear()
    async with asyncio.timeout(30):
        while await stream.read():
            pass
    assert [json.loads(event.data)["code"] for event in stream.control if event.event == "stream-error"] == ["revoked"]


async def test_logout_ends_the_stream(running: Running) -> None:
    async with running.browser() as client:
        stream = await own_stream(running, client, "ann")
        assert (await submit(client, "/accounts/logout/")).status_code == 302
    await revoked(stream)


async def test_new_password_ends_streams_of_other_sessions(running: Running) -> None:
    async with running.browser() as client, running.browser() as another:
        stream = await own_stream(running, client, "bob")
        await submit(another, "/accounts/login/", login="bob", password=PASSWORD)
        new = "staple battery horse"
        fields = {"oldpassword": PASSWORD, "password1": new, "password2": new}
        assert (await submit(another, "/accounts/password/change/", **fields)).status_code == 302
    await revoked(stream)
