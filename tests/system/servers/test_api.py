"""The API on a real server and a real database: concurrent requests, chunked bodies, and a database outage."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from streams.tokens import make_token
from tests.api.callers import CHANNEL_MESSAGES, FAST, MESSAGES
from tests.support.services import wait_until
from tests.support.sites import Server, Site, finish

pytestmark = pytest.mark.once

# The tests and the site have the same SECRET_KEY, so the site accepts this token.
TOKEN = make_token(read=["*"], publish=["*"], seconds=3600)


def call(server: Server, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Return the status, the JSON and the headers. An iterator as body is sent in chunks, without a Content-Length."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    all_headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
    sent = json.dumps(body) if isinstance(body, dict) else body
    connection.request(method, path, sent, all_headers)
    response = connection.getresponse()
    found = response.status, json.loads(response.read()), response.headers
    connection.close()
    return found


def in_chunks(text: str) -> Iterator[bytes]:
    yield from (text[start : start + 7].encode() for start in range(0, len(text), 7))


def test_many_at_once_and_in_chunks(site: Site) -> None:
    server = site.settings(MAX_REQUEST_BYTES=2000).serve()
    # Idempotency keys: of eight concurrent requests with one key, one is new, on either path.
    jobs = [(CHANNEL_MESSAGES if n % 2 else FAST, {"data": f"{n // 8}"}, f"key-{n // 8}") for n in range(32)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: call(server, "POST", job[0], job[1], **{"Idempotency-Key": job[2]}), jobs))
    assert sorted(status for status, _, _ in answers) == [200] * 28 + [201] * 4
    assert {answer["id"] for _, answer, _ in answers} == {1, 2, 3, 4}

    # Chunked bodies: DRF's own parser would read them as empty.
    for path in (CHANNEL_MESSAGES, FAST):
        status, answer, _ = call(server, "POST", path, in_chunks(json.dumps({"data": "in chunks"})))
        assert (status, answer["new"]) == (201, True), answer
        status, answer, _ = call(server, "POST", path, in_chunks(json.dumps({"data": "x" * 2000})))
        assert (status, answer["error"]["code"]) == (413, "request-too-large")

    # Concurrent batches: no message is lost or repeated, and each request's messages keep their order.
    batches = [{"messages": [{"channel": "news", "data": f"{n}.{m}"} for m in range(20)]} for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: call(server, "POST", MESSAGES, body), batches))
    ids = [[each["id"] for each in answer["messages"]] for _, answer, _ in answers]
    assert sorted(place for batch in ids for place in batch) == list(range(7, 167))
    assert all(batch == sorted(batch) for batch in ids)

    history: list[Any] = []
    url = f"{CHANNEL_MESSAGES}?limit=50"
    while url:
        _, answer, _ = call(server, "GET", url)
        history += answer["messages"]
        url = answer["next"]
    assert [each["id"] for each in history] == list(range(1, 167))


ATOMIC = """
from django.conf import settings
settings.DATABASES["default"]["ATOMIC_REQUESTS"] = True
import json
from django.core.management import call_command
from django.test import Client
from streams.tokens import make_token
headers = {"authorization": "Bearer " + make_token(publish=["*"]), "host": "localhost"}
for path in ("/api/channels/news/messages/", "/api/fast/channels/news/messages/"):
    answer = Client().post(path, {"data": 1}, content_type="application/json", headers=headers)
    print(answer.status_code, answer.json()["id"])
"""


def test_answer_has_the_position_also_where_requests_are_transactions(sqlite_site: Site) -> None:
    assert finish(sqlite_site.script(ATOMIC)) == "201 1\n201 2\n"


AT_ONCE = """
import threading
from concurrent.futures import ThreadPoolExecutor
from django.test import Client
barrier = threading.Barrier(12)
def ask(path):
    client = Client(raise_request_exception=False, headers={"host": "localhost"})
    barrier.wait()
    return client.get(path).status_code
with ThreadPoolExecutor(12) as pool:
    print(list(pool.map(ask, ["/api/schema/", "/api/docs/"] * 6)))
"""


def test_first_requests_for_the_description_at_once_are_answered(sqlite_site: Site) -> None:
    """drf-spectacular initializes itself at its first use, and that code is not thread-safe."""
    assert finish(sqlite_site.script(AT_ONCE)).strip() == str([200] * 12)


BARE = """
from django.conf import settings
settings.ROOT_URLCONF = "streams.api.urls"
from django.test import Client
from streams.tokens import make_token
headers = {"authorization": "Bearer " + make_token(read=["*"], publish=["*"]), "host": "localhost"}
for path in ("/channels/news/messages/", "/fast/channels/news/messages/"):
    print(Client().post(path, {"data": 1}, content_type="application/json", headers=headers).status_code)
print(Client().get("/channels/", headers=headers).json())
"""


def test_site_without_middleware_sessions_and_drfs_app(sqlite_site: Site) -> None:
    sqlite_site.env["DJANGO_SETTINGS_MODULE"] = "tests.support.settings_bare"
    answer = finish(sqlite_site.script(BARE)).splitlines()
    assert answer == ["201", "201", "{'channels': [{'channel': 'news', 'head': 2, 'listeners': 0}], 'next': None}"]


def test_database_that_goes_away_is_503_and_back_again(postgres_site: Site) -> None:
    server, postgres = postgres_site.serve(), postgres_site.postgres
    assert postgres is not None
    assert call(server, "GET", "/api/health/ready")[1]["database"] == "ok"
    postgres.stop()
    try:
        for method, path, body in (
            ("POST", CHANNEL_MESSAGES, {"data": 1}),
            ("POST", FAST, {"data": 1}),
            ("GET", CHANNEL_MESSAGES, None),
        ):
            status, answer, headers = call(server, method, path, body)
            assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "unavailable", "5")
        status, answer, _ = call(server, "GET", "/api/health/ready")
        assert (status, answer) == (503, {"status": "unavailable", "database": "unavailable", "notifier": "idle"})
        assert call(server, "GET", "/api/health/live")[0] == 200
    finally:
        postgres.start()
    wait_until(lambda: call(server, "POST", FAST, {"data": 1})[0] == 201, "publishing to go on")
    assert call(server, "GET", "/api/health/ready")[0] == 200
    log = server.log.read_text()
    assert log.count("could not be answered, because of the database") == 1, log
    assert "The database answers again." in log
