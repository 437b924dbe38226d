"""Keys, passwords, session keys and tokens never appear in an answer or in the log, even if DEBUG is on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.services import free_port
from tests.support.sites import Site, finish
from tests.system.attacks.conftest import Attacked, make_token, site_in
from tests.system.attacks.raw import Answer, form, request

pytestmark = pytest.mark.once

SITE_KEY = "the-key-of-this-site-is-no-ones-business"
OLD_KEY = "the-key-that-it-had-before-is-neither"
API_KEY = "sk-upstream-key-of-the-site-0123456789"
REDIS_PASSWORD = "redis-password-of-the-site"
POSTGRES_PASSWORD = "postgres-password-of-the-site"

SESSION = "session0of0somebody0session0of0so"

SECRETS = (SITE_KEY, OLD_KEY, API_KEY, REDIS_PASSWORD, POSTGRES_PASSWORD)

PAGES = (
    *("/", "/chat/", "/random/", "/listeners/", "/none/", "/admin/", "/admin/none/", "/events/", "/events/news/"),
    *("/events/user.1/", "/events/no%20name/", "/events/news/?replay=x", "/events/news/?last_event_id=x"),
    *("/ai/v1/models", "/ai/v1/chat/completions", f"/ai/generations/{'0' * 32}/", "/ai/none/", "/static/none.js"),
    *("/test/attacks/fails/", "/test/attacks/fails/?how=stream", "/test/attacks/fails/?how=relay", "/%ff", "/?%00"),
)


def assert_tells_none(answer: Answer | str, *more: str) -> None:
    text = answer if isinstance(answer, str) else f"{answer.headers}\n{answer.text}"
    for secret in (*SECRETS, *more):
        for spelling in (secret, quote(secret), json.dumps(secret)[1:-1], secret.replace("-", "\\u002d")):
            assert spelling not in text, text[max(0, text.index(spelling) - 300) :][:600]


def with_secrets(site: Site) -> Site:
    """Configure the site with all of SECRETS. No server listens at the configured addresses."""
    closed_port = free_port()
    options = {"base_url": f"http://127.0.0.1:{closed_port}/v1", "api_key": API_KEY, "models": ["m1"]}
    backend = "streams.relay.upstreams.OpenAICompatible"
    site.settings(
        UPSTREAMS={"default": {"BACKEND": backend, "OPTIONS": options}},
        NOTIFIER={"BACKEND": "streams.notifiers.channel_layer.ChannelLayerNotifier"},
        PRESENCE_SECONDS=0.2,
    )
    site.env |= {
        "SECRET_KEY": SITE_KEY,
        "TEST_SECRET_KEY_FALLBACKS": json.dumps([OLD_KEY]),
        "REDIS_URL": f"redis://:{REDIS_PASSWORD}@127.0.0.1:{closed_port}/0",
        "CHAT_API_KEY": API_KEY,
        "LOG_LEVEL": "DEBUG",
    }
    return site


@pytest.fixture(scope="module", params=["false", "true"], ids=["production", "debug"])
def secretive(
    request: pytest.FixtureRequest, migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Attacked]:
    site = site_in(tmp_path_factory.mktemp("secretive"), migrated_sqlite)
    yield Attacked(site, with_secrets(site).serve(DEBUG=request.param))
    site.close()


def test_no_answer_tells_a_secret_of_the_sites(secretive: Attacked) -> None:
    person = secretive.user("reader")
    session = person.cookie.partition("=")[2]
    token = make_token(secretive.site, json.dumps({"read": ["job.1"], "seconds": 600}))
    for path in PAGES:
        for headers in ({}, {"Cookie": f"{person.cookie}; theme=dark"}, {"Authorization": f"Bearer {token}"}):
            answer = secretive.stream(path, headers)
            assert_tells_none(answer, session, *([token] if "Authorization" in headers else []))
    editor = secretive.editor
    for path in ("broadcast/", "monitor/", "node/", "node/data/", "message/diagnosis/", "channelsettings/"):
        answer = secretive.get(f"/admin/streams/{path}", {"Cookie": editor.cookie})
        assert answer.status == 200
        assert_tells_none(answer, editor.cookie.partition("=")[2])
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
    for path in ("/ai/v1/chat/completions", "/ai/generations/", "/chat/send"):
        assert_tells_none(secretive.ask(request(path, {"Content-Type": "application/json"}, method="POST", body=body)))
    assert_tells_none(secretive.ask(form("/publish/", {"data": "x"}, {"Cookie": editor.cookie})))
    assert_tells_none(secretive.get("/", {"Host": "evil.example"}))


def test_errors_are_told_without_their_details(secretive: Attacked) -> None:
    for how in ("view", "stream", "relay"):
        answer = secretive.get(f"/test/attacks/fails/?how={how}")
        assert answer.status == (200 if how == "stream" else 500)
        assert_tells_none(answer)


def test_log_holds_none(secretive: Attacked) -> None:
    token = make_token(secretive.site, json.dumps({"read": ["job.1"], "seconds": 600}))
    person = secretive.user("reader")
    session = person.cookie.partition("=")[2]
    for path in (f"/events/job.1/?token={token}", f"/events/job.2/?token={token}", f"/none/?token={token}"):
        secretive.stream(path, {"Cookie": person.cookie, "Authorization": f"Bearer {token}"})
    secretive.get(f"/test/attacks/fails/?token={token}", {"Cookie": person.cookie})
    log = secretive.server.log.read_text()
    assert "the view failed" in log  # with its stack, for the site's operators
    assert_tells_none(log, session, token)


def test_database_that_does_not_answer_tells_no_password(migrated_sqlite: Path, tmp_path: Path) -> None:
    site = site_in(tmp_path, migrated_sqlite)
    url = f"postgresql://somebody:{POSTGRES_PASSWORD}@127.0.0.1:{free_port()}/things"
    try:
        for debug in ("false", "true"):
            attacked = Attacked(site, with_secrets(site).serve(DEBUG=debug, DATABASE_URL=url))
            for path in ("/", "/admin/", "/admin/streams/node/", "/ai/v1/models"):
                answer = attacked.get(path, {"Cookie": f"sessionid={SESSION}"})
                assert answer.status in (500, 503)
                assert_tells_none(answer, SESSION)
            log = attacked.server.log.read_text()
            assert "OperationalError" in log
            assert_tells_none(log, SESSION)
            attacked.server.stop()
    finally:
        site.close()


REPRS = """
import django.conf, pprint
from streams.conf import settings, configured
from streams.relay.conf import settings as relay
from streams.relay.upstreams import get_upstream
from streams.notifiers import get_notifier
from streams.tokens import make_token, read_token
print(repr(settings), repr(relay), repr(type(relay).UPSTREAMS), repr(get_upstream()), str(get_upstream()))
print(repr(django.conf.settings), repr(get_notifier()), repr(django.conf.settings._wrapped))
"""


def test_nothing_shows_one_when_it_is_printed(sqlite_site: Site) -> None:
    site = with_secrets(sqlite_site)
    assert_tells_none(finish(site.script(REPRS)))
    good = site.manage("check", "--deploy")
    assert "WARNINGS" in good.stderr
    assert_tells_none(good.stdout + good.stderr)
    # The same holds for a value that a system check refuses.
    broken = {"BACKEND": "streams.relay.upstreams.OpenAICompatible", "OPTIONS": {"api_key": API_KEY, "x": 1}}
    for upstreams in ({"default": broken}, {"other": broken}, API_KEY):
        refused = site.settings(UPSTREAMS=upstreams).manage("check", check=False)
        assert refused.returncode != 0
        assert "UPSTREAMS" in refused.stderr
        assert_tells_none(refused.stdout + refused.stderr)
