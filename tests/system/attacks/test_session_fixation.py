"""Session fixation: an attacker plants a known session on a victim, who then logs in while streams are open.

A stream outlives other requests of its session, so a login must not change the user of an open stream.
"""

from __future__ import annotations

import pytest

from tests.support.clients import StreamClient
from tests.support.sites import finish
from tests.system.attacks.conftest import Attacked, make_user
from tests.system.attacks.raw import TOKEN, form
from tests.system.servers.holdings import publish

pytestmark = pytest.mark.once

PASSWORD = "the password of the victim"

ANONYMOUS_SESSION = """
from django.contrib.sessions.backends.db import SessionStore
session = SessionStore()
session["cart"] = [1]
session.create()
print(session.session_key)
"""


def log_in(attacked: Attacked, name: str, session: str) -> str:
    """Log in with the admin's form, as a browser with this session does, and return the new session key."""
    fields = {"username": name, "password": PASSWORD, "csrfmiddlewaretoken": TOKEN, "next": "/admin/"}
    answer = attacked.ask(form("/admin/login/", fields, {"Cookie": f"csrftoken={TOKEN}; sessionid={session}"}))
    assert answer.status == 302
    [cookie] = [value for key, value in answer.headers if key == "set-cookie" and value.startswith("sessionid=")]
    return cookie.split(";")[0].partition("=")[2]


async def test_attacker_who_knows_the_session_before_the_login_reads_nothing_after_it(attacked: Attacked) -> None:
    victim = f"user.{make_user(attacked.site, 'victim', PASSWORD, is_staff=True)}"
    attacker = attacked.user("attacker")
    port = attacked.server.port
    planted = {
        "an anonymous one": finish(attacked.site.script(ANONYMOUS_SESSION)).strip(),
        "the attacker's own": attacker.cookie.partition("=")[2],
        "one that is made up": "a" * 32,
    }
    for kind, session in planted.items():
        headers = {"Cookie": f"sessionid={session}"}
        # These streams are opened before the victim logs in, and stay open after it.
        listening = await StreamClient(port, f"/events/?channel=news&channel={attacker.channel}", headers).connect()
        public = await StreamClient(port, "/events/news/", headers).connect()
        assert (listening.status == 200) is (kind == "the attacker's own")
        await public.read_control(1)

        renewed = log_in(attacked, "victim", session)
        assert renewed != session, kind
        own = await StreamClient(port, f"/events/{victim}/", {"Cookie": f"sessionid={renewed}"}).connect()
        assert own.status == 200
        await own.read_control(1)

        assert attacked.stream(f"/events/{victim}/?replay=10", headers).status == 403, kind
        assert attacked.stream(f"/events/{victim}/", {**headers, "Last-Event-ID": "1"}).status == 403, kind
        assert attacked.stream(f"/events/?channel=news&channel={victim}", headers).status == 403, kind
        assert attacked.get("/admin/", headers).status == 302, kind  # to the login
        private = await publish(attacked.server, victim)
        await own.read_until(1)
        last = await publish(attacked.server, "news")
        again = await StreamClient(port, "/events/news/", headers, last_event_id=public.last_event_id).connect()
        for client in (public, again):
            await client.read_until(1)
            assert [int(event.id) for event in client.events] == [last]
        await listening.read_for(0.1 if listening.status == 200 else 0)
        assert private not in [int(event.id) for event in listening.events]
        assert [int(event.id) for event in own.events] == [private]
        for client in (listening, public, again, own):
            client.abort()


async def test_stream_of_a_session_is_that_of_its_user_who_ever_logs_in_over_it(attacked: Attacked) -> None:
    """Two users log in one after another in one browser. The first user's stream gets no event of the second user."""
    make_user(attacked.site, "second", PASSWORD, is_staff=True)
    first = attacked.user("first")
    stream = await StreamClient(attacked.server.port, f"/events/{first.channel}/", {"Cookie": first.cookie}).connect()
    assert stream.status == 200
    await stream.read_control(1)
    renewed = log_in(attacked, "second", first.cookie.partition("=")[2])
    second = f"user.{attacked.user('second').pk}"
    assert attacked.stream(f"/events/{second}/", {"Cookie": f"sessionid={renewed}"}).status == 200
    assert attacked.stream(f"/events/{first.channel}/", {"Cookie": f"sessionid={renewed}"}).status == 403
    assert attacked.stream(f"/events/{first.channel}/", {"Cookie": first.cookie}).status == 403
    assert attacked.stream(f"/events/{second}/", {"Cookie": first.cookie}).status == 403
    await publish(attacked.server, second)
    await stream.read_for(0.3)
    assert stream.events == []
    stream.abort()
