"""CORS headers: only pages of the listed origins can read the site's answers.

tests/system/browser/test_other_origins.py tests the same with real browsers.
"""

from __future__ import annotations

import pytest

from tests.support.sites import Site
from tests.system.attacks.conftest import LISTED, Attacked
from tests.system.attacks.raw import Answer, request

pytestmark = pytest.mark.once

STREAM = "/events/news/"

STRANGERS = (
    "https://evil.example",
    "null",  # a sandboxed frame, a file or a redirect, which any site can create
    "https://app.example.evil.example",
    "https://evilapp.example",
    "https://sub.app.example",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.",
    "https://APP.example",  # browsers send lower case
    "https://app.example@evil.example",
    "https://evil.example/https://app.example",
    "https://evil.example#https://app.example",
    "https://[app.example",
    "app.example",
    "//app.example",
    "*",
    "",
)

PREFLIGHT = {
    "Access-Control-Request-Method": "GET",
    "Access-Control-Request-Headers": "last-event-id,cache-control,idempotency-key,authorization",
}


def cors(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers if name.startswith("access-control-")}


def preflight(attacked: Attacked, path: str, origin: str) -> dict[str, str]:
    answer = attacked.ask(request(path, {"Origin": origin, **PREFLIGHT}, method="OPTIONS"))
    assert answer.status == 200
    return cors(answer)


def test_origin_that_is_not_listed_is_told_nothing(attacked: Attacked) -> None:
    for origin in STRANGERS:
        answer = attacked.stream(STREAM, {"Origin": origin})
        assert (answer.status, cors(answer)) == (200, {}), origin
        assert preflight(attacked, STREAM, origin) == {}, origin
    for name in ("Referer", "X-Forwarded-Host", "X-Forwarded-Origin", "Sec-WebSocket-Origin"):
        assert cors(attacked.stream(STREAM, {name: LISTED})) == {}


def test_listed_origin_is_named_with_credentials_and_never_by_a_star(attacked: Attacked) -> None:
    allowed = {
        "access-control-allow-origin": LISTED,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "Retry-After",
    }
    for path in (STREAM, "/events/?channel=news", "/random"):
        answer = attacked.stream(path, {"Origin": LISTED}, until=b"\n")
        assert (answer.status, cors(answer)) == (200, allowed)
    for path in ("/events/user.1/", "/events/no%20channel/", "/ai/v1/chat/completions", "/ai/generations/1/"):
        answer = attacked.get(path, {"Origin": LISTED})
        assert answer.status >= 400
        assert cors(answer) == allowed  # so that a page can read the error


def test_preflight_lets_headers_of_clients_of_streams_pass(attacked: Attacked) -> None:
    headers = preflight(attacked, STREAM, LISTED)
    assert headers["access-control-allow-origin"] == LISTED
    assert headers["access-control-allow-credentials"] == "true"
    named = {name.strip().lower() for name in headers["access-control-allow-headers"].split(",")}
    assert set(PREFLIGHT["Access-Control-Request-Headers"].split(",")) <= named
    assert "*" not in "".join(headers.values())


def test_no_cache_gives_one_origins_answer_to_another(attacked: Attacked) -> None:
    for origin in (LISTED, "https://evil.example", None):
        headers = {} if origin is None else {"Origin": origin}
        for path in (STREAM, "/events/user.1/", "/ai/v1/models"):
            varies = attacked.stream(path, headers).header("vary") or ""
            assert "origin" in varies.lower().replace(" ", "").split(",")


def test_pages_are_for_no_other_origin_whose_scripts_would_find_a_csrf_token_in_them(attacked: Attacked) -> None:
    for path in ("/", "/chat/", "/admin/", "/admin/streams/broadcast/add/", "/listeners/"):
        answer = attacked.get(path, {"Origin": LISTED, "Cookie": attacked.editor.cookie})
        assert (answer.status, cors(answer)) == (200, {})


def test_endpoint_that_is_open_to_every_origin_takes_none_with_cookies(attacked: Attacked) -> None:
    """`/chat/send` sends its own headers. With `*`, a browser withholds the answer to a request with cookies."""
    for origin in (LISTED, "https://evil.example", "null"):
        asked = request("/chat/send", {"Origin": origin}, method="POST", body=b'{"msg": "hello"}')
        preflight = request("/chat/send", {"Origin": origin, **PREFLIGHT}, method="OPTIONS")
        for data in (asked, preflight):
            answer = attacked.ask(data)
            assert answer.status == 200
            assert cors(answer)["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in cors(answer)


def test_site_that_lists_no_origin_tells_none(sqlite_site: Site) -> None:
    attacked = Attacked(sqlite_site, sqlite_site.serve())
    for origin in (LISTED, "null", "https://evil.example"):
        assert cors(attacked.stream(STREAM, {"Origin": origin})) == {}
        assert preflight(attacked, STREAM, origin) == {}


@pytest.mark.parametrize("listed", ["*", "null", "app.example", f"{LISTED},//evil.example"])
def test_list_that_would_let_in_the_origin_of_a_sandboxed_frame_is_refused(sqlite_site: Site, listed: str) -> None:
    """django-cors-headers compares only scheme and host, so an entry without both would match the origin `null`."""
    sqlite_site.env["CORS_ALLOWED_ORIGINS"] = listed
    refused = sqlite_site.manage("diffsettings", check=False)
    assert refused.returncode != 0
    assert "CORS_ALLOWED_ORIGINS must be origins such as https://app.example" in refused.stderr
