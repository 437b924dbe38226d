"""Cross-site scripting: text from a user never becomes an element, an attribute or a script of a page.

tests/system/browser/test_hostile_pages.py tests the parts of pages that scripts build.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.sites import finish
from tests.system.attacks.conftest import Attacked, site_in
from tests.system.attacks.hostile import HOSTILE, LINK, MARK, SHORT, fill
from tests.system.attacks.raw import TOKEN, Answer, form, request

pytestmark = pytest.mark.once

# Content types that a browser never renders as a page.
DATA = ("application/json", "text/plain", "text/javascript", "text/event-stream")

# The query parameters that the pages use.
QUERY = (
    *(
        "channel",
        "event",
        "text",
        "q",
        "day",
        "after",
        "before",
        "message",
        "user",
        "last_event_id",
        "ids",
        "id",
        "next",
    ),
    *(
        "o",
        "p",
        "all",
        "e",
        "_changelist_filters",
        "_popup",
        "_to_field",
        "replay",
        "token",
        "state",
        "model",
        "upstream",
    ),
)

MODELS = {
    "BACKEND": "streams.relay.upstreams.ScriptedUpstream",
    "OPTIONS": {"models": [SHORT, LINK], "answer": HOSTILE, "seconds": 0},
}


class Found(HTMLParser):
    """Find elements, attributes, addresses and scripts in a page that come from the attacker's text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.hits: list[str] = []
        self._in_script = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            is_address = name in ("href", "src", "action", "formaction", "data", "srcdoc", "xlink:href")
            is_script = name.startswith("on") and "hack" in (value or "")
            if MARK in name or is_script or (is_address and _runs(value or "")):
                self.hits.append(f"<{tag} {name}={value!r}>")
        self._in_script = tag == "script" and dict(attrs).get("type") != "application/json"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script and "hack" in data:
            self.hits.append(data)


def _runs(address: str) -> bool:
    scheme = unescape(address).strip().lower().replace("\t", "").replace("\n", "").partition(":")[0]
    return scheme in ("javascript", "vbscript", "data") and "hack" in address


@pytest.fixture(scope="module")
def site(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Attacked, list[str], str]]:
    """Yield a site full of the attacker's text, the addresses of its pages, and a superuser's cookie."""
    made = site_in(tmp_path_factory.mktemp("hostile"), migrated_sqlite)
    made.settings(UPSTREAMS={"default": MODELS})
    attacked = Attacked(made, made.serve())
    cookie = attacked.editor.cookie
    yield attacked, json.loads(finish(made.call(fill))), cookie
    made.close()


def assert_is_harmless(answer: Answer, where: str) -> None:
    kind = (answer.header("content-type") or "").partition(";")[0]
    assert answer.header("x-content-type-options") == "nosniff", where
    if kind == "text/html":
        assert Found(answer.text).hits == [], where
    else:
        assert kind in DATA or not answer.body, (where, kind)


def test_page_that_shows_what_others_have_written_has_nothing_of_theirs_in_it(
    site: tuple[Attacked, list[str], str],
) -> None:
    attacked, pages, cookie = site
    showing = set()
    for path in pages:
        answer = attacked.get(path, {"Cookie": cookie})
        assert answer.status == 200, path
        assert_is_harmless(answer, path)
        if MARK in answer.text:
            showing.add(path)
    without = {path for path in pages if path not in showing}
    # The other pages do not show any text of users.
    assert without <= {
        *("/chat/", "/random/", "/admin/streams/", "/admin/streams_relay/", "/admin/streams/monitor/"),
        *(
            "/admin/streams/broadcast/audience/?channel=news",
            "/admin/streams/message/prune/",
            "/admin/streams/message/diagnosis/",
        ),
        *(path for path in pages if path.endswith(("/reached/", "/add/", "/schedule/"))),
        *(f"/admin/streams/channelsettings/news/{page}/" for page in ("history", "delete")),
    }


def test_page_that_repeats_its_address_has_nothing_of_it_in_it(site: tuple[Attacked, list[str], str]) -> None:
    attacked, pages, cookie = site
    for path in pages:
        base = path.partition("?")[0]
        for text in (SHORT, LINK):
            answer = attacked.get(f"{base}?{'&'.join(f'{name}={quote(text)}' for name in QUERY)}", {"Cookie": cookie})
            assert answer.status < 500, path
            assert_is_harmless(answer, path)
    for name in QUERY:  # one by one, because a page reports only the first invalid parameter
        for path in (
            "/admin/streams/message/",
            "/admin/streams/message/diagnosis/",
            "/admin/streams/monitor/",
            "/admin/login/",
        ):
            assert_is_harmless(attacked.get(f"{path}?{name}={quote(SHORT)}", {"Cookie": cookie}), f"{path} {name}")


def test_form_that_is_sent_back_has_nothing_in_it_but_values(site: tuple[Attacked, list[str], str]) -> None:
    attacked, _, cookie = site
    names = ("title", "channels", "channel", "event", "payload", "payload_type", "send_at", "revision", "key", "access")
    names += ("retention_seconds", "groups", "data", "username", "password", "next", "action", "_selected_action")
    fields = dict.fromkeys(names, SHORT)
    headers = {"Cookie": f"{cookie}; csrftoken={TOKEN}", "X-CSRFToken": TOKEN}
    for path in (
        *("/publish/", "/admin/login/", "/admin/streams/broadcast/add/", "/admin/streams/broadcast/preview/"),
        *(
            "/admin/streams/broadcast/1/change/",
            "/admin/streams/broadcast/1/send/",
            "/admin/streams/broadcast/1/schedule/",
        ),
        *(
            "/admin/streams/broadcast/test/",
            "/admin/streams/channelsettings/news/change/",
            "/admin/streams/message/1/send-again/",
        ),
        *("/admin/streams/message/prune/", "/admin/streams/message/"),
    ):
        answer = attacked.ask(form(path, fields, headers))
        assert answer.status < 500, path
        assert_is_harmless(answer, path)


@pytest.mark.parametrize("debug", ["false", "true"])
def test_errors_repeat_nothing_as_a_page(site: tuple[Attacked, list[str], str], debug: str) -> None:
    server = site[0].server if debug == "false" else site[0].site.serve(DEBUG=debug)
    attacked = Attacked(site[0].site, server)
    for path in (
        *(f"/{quote(HOSTILE)}", f"/{quote(SHORT)}/", f"/events/{quote(SHORT)}/", f"/events/?channel={quote(HOSTILE)}"),
        *(
            f"/events/news/?replay={quote(SHORT)}",
            f"/events/secret/?a={quote(SHORT)}",
            f"/ai/generations/{quote(SHORT)}/",
        ),
        *(f"/admin/{quote(SHORT)}/", f"/admin/streams/message/{quote(SHORT)}/change/", f"/static/{quote(SHORT)}"),
        *(f"/admin/streams/broadcast/{quote(SHORT)}/change/", f"/admin/login/?next={quote(LINK)}"),
    ):
        for headers in ({}, {"Cookie": site[2]}, {"Accept": HOSTILE.encode(), "User-Agent": HOSTILE.encode()}):
            answer = attacked.stream(path, headers)
            assert answer.status != 500
            kind = (answer.header("content-type") or "").partition(";")[0]
            assert kind in (*DATA, "text/html", ""), (path, kind)
            if kind == "text/html":
                assert Found(answer.text).hits == [], path
    bodies = [json.dumps(dict.fromkeys(keys, SHORT)).encode() for keys in (["model"], ["msg", "stream"], [SHORT])]
    bodies.append(json.dumps({"messages": [{"role": SHORT, SHORT: 1}]}).encode())
    for body in bodies:
        for path in ("/ai/v1/chat/completions", "/ai/generations/", "/chat/send"):
            answer = attacked.ask(request(path, {"Content-Type": "application/json"}, method="POST", body=body))
            assert answer.header("content-type") in ("application/json", "text/event-stream; charset=utf-8")
    for data in (
        form("/publish/", {SHORT: SHORT}),
        request("/", {"Host": SHORT}),
        form("/chat/", {}, {"Referer": SHORT}),
    ):
        assert Found(attacked.ask(data).text).hits == []
