"""Cross-site request forgery: requests that another site's page makes a browser send with the user's cookies.

The test tries every URL of the site, also of views that are added later. Requests without cookies are tested with each
API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from django.urls import URLPattern, URLResolver

from project.urls import urlpatterns
from tests.support.sites import Site
from tests.system.attacks.conftest import Attacked, Person, make_user
from tests.system.attacks.raw import TOKEN, Answer, form, request

pytestmark = pytest.mark.once

EVIL = "https://evil.example"

# Values for the arguments in the URLs.
ARGUMENTS = {
    "app_label": "streams",
    "content_type_id": "1",
    "object_id": "1",
    "channel": "news",
    "id": "0" * 32,
    "url": "x",
}

# These views ignore the user, so a forged request cannot act for one.
WITHOUT_COOKIES = {
    "/chat/send": "without an upstream it answers all users alike, and stores nothing",
    "/admin/jsi18n/": "a catalogue of translations, the same for every method",
}


def addresses(patterns: list[URLPattern | URLResolver], before: str = "/") -> Iterator[str]:
    """Yield a path for each of the URL patterns, with a value for each argument."""
    for each in patterns:
        route = str(each.pattern)
        if isinstance(each, URLResolver):
            yield from addresses(each.url_patterns, before + _filled(route))
        elif "(?P<" in route:  # the admin's catch-all view and its index of an app
            yield before + ("streams/" if "app_label" in route else "nothing/here/")
        else:
            yield before + _filled(route)


def _filled(route: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda match: ARGUMENTS.get(match[1], "1"), route)


ADDRESSES = sorted(set(addresses(urlpatterns)))


def state(attacked: Attacked) -> list[object]:
    """Return the row counts of all tables that a forged request could change."""
    tables = [
        *("streams_message", "streams_broadcast", "streams_channelsettings", "streams_revokedtoken", "auth_user"),
        *("auth_group", "django_admin_log", "streams_relay_generation", "streams_relay_usage"),
    ]
    return [attacked.site.execute(f"SELECT count(*) FROM {table}") for table in tables]


@pytest.fixture
def editor(attacked: Attacked) -> Person:
    """Publish a message that a forged request could change, and return a superuser."""
    attacked.site.manage("publish", "news", "something")
    return attacked.editor


def test_the_addresses_were_found() -> None:
    assert {
        "/publish/",
        "/chat/send",
        "/api/messages/",
        "/api/tokens/",
        "/ai/generations/",
        "/admin/logout/",
        "/admin/streams/broadcast/add/",
    } <= {*ADDRESSES}
    assert len(ADDRESSES) > 50


def forgeries(cookie: str, path: str) -> list[bytes]:
    """Return requests that another site's page could make a browser send: by a form, a script, or a guessed token."""
    json_body = json.dumps({"messages": [{"role": "user", "content": "x"}], "msg": "x", "data": "x"}).encode()
    fields = {"data": "forged", "event": "message", "_save": "1", "post": "yes", "action": "delete_selected"}
    plain = {"Cookie": cookie, "Content-Type": "text/plain", "Origin": EVIL}  # like a form, without a preflight
    return [
        form(path, fields, {"Cookie": cookie, "Origin": EVIL, "Referer": f"{EVIL}/"}),
        request(path, plain, method="POST", body=json_body),
        # A browser sends this only after a preflight, which is refused. Without the preflight, the token is missing.
        request(path, {**plain, "Content-Type": "application/json"}, method="POST", body=json_body),
        form(path, {**fields, "csrfmiddlewaretoken": TOKEN}, {"Cookie": cookie}),
        form(path, {**fields, "csrfmiddlewaretoken": "a" * 32}, {"Cookie": f"{cookie}; csrftoken={TOKEN}"}),
        # A valid token, as from a subdomain that can set cookies. Then the Origin header reveals the forgery.
        form(
            path, {**fields, "csrfmiddlewaretoken": TOKEN}, {"Cookie": f"{cookie}; csrftoken={TOKEN}", "Origin": EVIL}
        ),
        form(
            path, {**fields, "csrfmiddlewaretoken": TOKEN}, {"Cookie": f"{cookie}; csrftoken={TOKEN}", "Origin": "null"}
        ),
    ]


def test_no_address_takes_what_another_sites_page_sends(attacked: Attacked, editor: Person) -> None:
    before = state(attacked)
    for path in ADDRESSES:
        if path in WITHOUT_COOKIES:
            continue
        for forgery in forgeries(editor.cookie, path):
            answer = attacked.ask(forgery)
            assert is_refused(answer), (path, forgery, answer)
    assert state(attacked) == before


def is_refused(answer: Answer) -> bool:
    # 401: the view ignores cookies. 415: it does not accept forms.
    return answer.status in (401, 403, 415) or (answer.status == 405 and answer.header("allow") is not None)


def test_reading_changes_nothing(attacked: Attacked, editor: Person) -> None:
    """A browser that follows a link on another site's page sends cookies with SameSite=Lax."""
    before = state(attacked)
    for path in ADDRESSES:
        for query in ("", "?action=delete_selected&_save=1&post=yes&confirm=1&data=forged&channel=news"):
            answer = attacked.get(path + query, {"Cookie": editor.cookie}, until=lambda body: True)
            assert answer.status < 500, path
    assert state(attacked) == before
    assert attacked.get("/admin/", {"Cookie": editor.cookie}).status == 200  # the user is still logged in


def test_override_of_the_method_makes_no_request_another(attacked: Attacked, editor: Person) -> None:
    before = state(attacked)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        attacked.get("/publish/?data=forged&event=message", {name: "POST", "Cookie": editor.cookie})
    attacked.get("/publish/?_method=POST&data=forged&event=message", {"Cookie": editor.cookie})
    for method in ("PUT", "PATCH", "DELETE", "PROPFIND", "post", "Post"):
        data = request("/publish/", {"Cookie": editor.cookie}, method=method, body=b"data=forged&event=message")
        assert attacked.ask(data).status in (400, 403, 405)
    assert state(attacked) == before


def test_nobody_is_logged_in_as_somebody_else_by_another_sites_page(attacked: Attacked) -> None:
    make_user(attacked.site, "mallory", "the password of mallory", is_staff=True)
    fields = {"username": "mallory", "password": "the password of mallory", "next": "/admin/"}
    for headers in ({}, {"Origin": EVIL}, {"Cookie": f"csrftoken={TOKEN}"}):
        answer = attacked.ask(form("/admin/login/", fields, headers))
        assert answer.status == 403
        assert "sessionid" not in (answer.header("set-cookie") or "")


def test_cookies_are_out_of_reach_of_scripts_and_of_other_sites(attacked: Attacked) -> None:
    make_user(attacked.site, "carla", "the password of carla", is_staff=True)
    fields = {"username": "carla", "password": "the password of carla", "csrfmiddlewaretoken": TOKEN}
    answer = attacked.ask(form("/admin/login/", fields, {"Cookie": f"csrftoken={TOKEN}"}))
    assert answer.status == 302
    [session] = [value for name, value in answer.headers if name == "set-cookie" and "sessionid" in value]
    assert "httponly" in session.lower()
    assert "samesite=lax" in session.lower()


SECRET = "sk-secret-of-the-relay-12345678"


def test_session_alone_asks_no_model(sqlite_site: Site) -> None:
    """If the site has an upstream and RELAY_ACCESS uses the session, `/chat/send` also requires the CSRF token."""
    options = {"base_url": "http://127.0.0.1:9/v1", "api_key": SECRET, "models": ["m1"]}
    backend = "streams.relay.upstreams.OpenAICompatible"
    sqlite_site.settings(
        UPSTREAMS={"default": {"BACKEND": backend, "OPTIONS": options}}, RELAY_ACCESS="streams.relay.access.LoggedIn"
    )
    attacked = Attacked(sqlite_site, sqlite_site.serve())
    user = attacked.user("somebody")
    for path in ("/chat/send", "/ai/v1/chat/completions", "/ai/generations/", f"/ai/generations/{'0' * 32}/cancel/"):
        for forgery in forgeries(user.cookie, path):
            answer = attacked.ask(forgery)
            assert (answer.status, answer.code) == (403, "csrf")
