"""Bodies of a hundred megabytes, and URLs and headers of a megabyte, are refused and not kept in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest

from tests.support.services import wait_until
from tests.support.sites import SERVERS
from tests.system.attacks.conftest import Attacked, site_in
from tests.system.attacks.raw import TOKEN, Answer, form, get, stream

pytestmark = pytest.mark.once

MEBIBYTE = 2**20

# BODY is larger than BOUND, the allowed growth of the process.
BODY = 100 * MEBIBYTE
BOUND = 48 * MEBIBYTE

PIECE = b"x" * MEBIBYTE


def rss(pid: int) -> int:
    """Return the resident memory of the server and its worker processes."""
    main = psutil.Process(pid)
    return sum(int(process.memory_info().rss) for process in (main, *main.children(recursive=True)))


def large(path: str, content_type: str, cookie: str, *, before: bytes = b"", chunked: bool = False) -> Iterator[bytes]:
    """Yield the pieces of a POST whose body is `before` and a hundred mebibytes."""
    head = {"Content-Type": content_type, "Cookie": f"{cookie}; csrftoken={TOKEN}", "X-CSRFToken": TOKEN}
    head |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(before) + BODY)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    yield f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{lines}\r\n".encode()
    pieces = [before, *[PIECE] * (BODY // MEBIBYTE)]
    for piece in filter(None, pieces):
        yield b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
    if chunked:
        yield b"0\r\n\r\n"


FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
MULTIPART = "multipart/form-data; boundary=b"
FILE = b'--b\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n\r\n'
FIELD = b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n'


def test_body_of_a_hundred_megabytes_is_refused_and_not_kept_in_memory(attacked: Attacked) -> None:
    editor = attacked.editor.cookie
    attempts = [
        (large("/publish/", FORM, editor, before=b"event=message&data="), (400, 413)),
        (large("/publish/", MULTIPART, editor, before=FIELD), (400, 413)),
        (large("/publish/", MULTIPART, editor, before=FILE), (400, 403, 413, 422)),
        (large("/chat/send", JSON, editor), (413,)),
        (large("/ai/v1/chat/completions", JSON, editor), (413,)),
        (large("/ai/generations/", JSON, editor, chunked=True), (413,)),
        (large("/api/messages/", JSON, ""), (413,)),
        (large("/api/messages/", JSON, editor, chunked=True), (413,)),
        (large("/api/streams/disconnect/", JSON, "", chunked=True), (413,)),
        (large("/admin/login/", FORM, "", before=b"username="), (400, 413)),
        (large("/admin/streams/broadcast/add/", FORM, editor, before=b"data="), (400, 413)),
        (large("/events/news/", FORM, editor), (400, 403, 405, 413)),
    ]
    before, messages = rss(attacked.server.pid), attacked.messages()
    for number, (data, statuses) in enumerate(attempts):
        answer = attacked.ask(data)
        assert answer.status in statuses, (number, answer.status)
        assert rss(attacked.server.pid) - before < BOUND, number
    assert attacked.messages() == messages
    assert attacked.serves()


def test_nested_lists_from_anonymous_callers_freeze_nothing(attacked: Attacked) -> None:
    """Send `[[],[],…]` of ten megabytes eight times at once, with and without a length.

    Parsing it would take seconds and gigabytes.
    """
    body = b"[" + b",".join([b"[]"] * 3_300_000) + b"]"
    head = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n{}\r\n\r\n"
    whole = head.format("/api/messages/", f"Content-Length: {len(body)}").encode() + body
    chunk = head.format("/api/streams/disconnect/", "Transfer-Encoding: chunked").encode() + (
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    )
    before, waits = rss(attacked.server.pid), []
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(attacked.ask, data) for data in [whole, chunk] * 4]
        while not all(each.done() for each in asked):
            began = time.monotonic()
            assert attacked.get("/api/health/live").status == 200
            waits.append(time.monotonic() - began)
            assert rss(attacked.server.pid) - before < 3 * BOUND
    assert [each.result().status for each in asked] == [413] * 8
    assert max(waits, default=0) < 20
    # A body of the allowed size is parsed, and answered quickly.
    small = head.format("/api/messages/", "Content-Length: 65536").encode() + body[:65_535] + b"]"
    assert attacked.ask(small).status == 400
    assert attacked.serves()


def test_form_of_very_many_fields_is_refused(attacked: Attacked) -> None:
    headers = {"Cookie": f"{attacked.editor.cookie}; csrftoken={TOKEN}", "X-CSRFToken": TOKEN}
    many = urlencode([(f"f{n}", "") for n in range(100_000)]).encode()
    for path in ("/publish/", "/admin/streams/broadcast/add/", "/admin/login/"):
        assert attacked.ask(form(path, many, headers)).status == 400
    assert attacked.get("/events/?" + "&".join(["channel=news"] * 5000)).status in (400, 414, 431)
    assert attacked.get("/events/news/?" + "&".join(f"f{n}" for n in range(5000))).status in (400, 414, 431)
    assert attacked.serves()


def test_text_of_the_largest_message_is_refused_where_it_is_longer(attacked: Attacked) -> None:
    headers = {"Cookie": f"{attacked.editor.cookie}; csrftoken={TOKEN}", "X-CSRFToken": TOKEN}
    headers["Accept"] = "application/json"
    for data in ("x" * 262_145, "é" * 131_073):
        answer = attacked.ask(form("/publish/", {"event": "message", "data": data}, headers))
        assert answer.status == 422
        assert "262144" in json.dumps(answer.json)


@pytest.mark.parametrize("server", SERVERS)
def test_megabyte_in_a_head_is_refused_by_the_server_or_by_us_and_others_are_served(
    server: str, migrated_sqlite: Path, tmp_path: Path
) -> None:
    site = site_in(tmp_path, migrated_sqlite)
    running = site.serve(server)
    port, long = running.port, "1" * MEBIBYTE
    wait_until(lambda: stream(port, "/events/news/").status == 200, "the first stream")
    before = rss(running.pid)

    def is_refused(answer: Answer) -> bool:
        return answer.status in (0, 400, 413, 414, 431)

    try:
        answer = stream(port, "/events/news/", {"Last-Event-ID": long})
        assert is_refused(answer) or (b"event: stream-reset\n" in answer.body and len(answer.body) < 2000)
        for end in (b"\r", b"\n", b"\r\n\t"):  # a line end within a header, which some servers accept
            forged = b"1" + end + end + b"data: forged" + end + end
            assert b"\ndata: forged" not in stream(port, "/events/news/", {"Last-Event-ID": forged}).body.replace(
                b"\r", b"\n"
            )
        assert is_refused(stream(port, f"/events/news/?last_event_id={long}"))
        assert is_refused(get(port, f"/events/{long}/"))
        assert is_refused(get(port, f"/events/?channel={long}"))
        assert is_refused(stream(port, f"/events/job.1/?token=streams.{long}"))
        for name in ("Cookie", "Authorization", "X-Forwarded-For", "Accept-Language"):
            answer = stream(
                port, "/events/news/", {name: f"Bearer streams.{long}" if name == "Authorization" else long}
            )
            assert is_refused(answer) or answer.status in (200, 403)
        assert stream(port, "/events/news/").status == 200
        assert rss(running.pid) - before < BOUND
        assert running.exit_code() is None
        assert "Traceback" not in running.log.read_text()
    finally:
        site.close()
