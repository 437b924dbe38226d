"""Small inputs that would use much memory: compressed bodies, endless answers, and deeply nested JSON."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import psutil
import pytest

from tests.relay.conftest import Relay
from tests.relay.steps import CHUNKED, END, HEAD, Step, chunk, piece, raw, whole
from tests.system.attacks.conftest import Attacked
from tests.system.attacks.raw import ask, request

pytestmark = pytest.mark.once

MEBIBYTE = 2**20

# 16 KiB that inflate to 16 MiB. A gzip file can have any number of members: 640 of them are 10 MiB, and inflate to
# 10 GiB.
MEMBER = gzip.compress(b"\0" * 16 * MEBIBYTE)
MEMBERS = 640

# Far below the inflated size of any bomb, and above the memory that a process needs for its other work.
BOUND = 32 * MEBIBYTE


class Growth:
    """The growth of the server process's memory since this object was created."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._before = self._rss()

    def _rss(self) -> int:
        return int(self._process.memory_info().rss)

    def __int__(self) -> int:
        return self._rss() - self._before


def bomb(status: int, content_type: str, *headers: list[str]) -> list[Step]:
    head: Step = ["head", status, [["Content-Type", content_type], *headers]]
    return [head, ["repeat", MEMBERS, [["send", raw(MEMBER)]]], ["close"]]


CODINGS = [
    *([["Content-Encoding", coding]] for coding in ("gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "gzip, gzip")),
    *([["Content-Encoding", coding]] for coding in ("identity, gzip", "gzip, identity", "\tgzip", "none")),
    [["Content-Encoding", "identity"], ["Content-Encoding", "gzip"]],
    [["Content-Encoding", "gzip"], ["Content-Encoding", "identity"]],
    [["Transfer-Encoding", "gzip, chunked"]],
    [["Transfer-Encoding", "gzip"]],
    [],
]


async def test_compressed_answer_is_never_inflated(relaying: Relay) -> None:
    growth = Growth(relaying.server.pid)
    for headers in CODINGS:
        status, body, answer_headers = await relaying.answer(bomb(200, "text/event-stream", *headers))
        assert status == 502 or b"upstream-" in body, headers
        assert "content-encoding" not in answer_headers
        assert len(body) < 10_000
        assert int(growth) < BOUND
    for status in (200, 401, 500):
        for stream in (True, False):
            found, body, _ = await relaying.answer(
                bomb(status, "application/json", ["Content-Encoding", "gzip"]), stream=stream
            )
            assert (found, json.loads(body)["error"]["code"]) == (502, "upstream-malformed")
            assert int(growth) < BOUND


async def test_answer_without_an_end_is_cut_off(relaying: Relay) -> None:
    """The answer is an endless body, line, comment, event or head, or an endless series of small events."""
    growth = Growth(relaying.server.pid)
    much = "x" * 100_000
    floods: dict[str, list[Step]] = {
        "a body": [["head", 200, [["Content-Type", "application/json"], CHUNKED]], ["repeat", 1000, [["chunk", much]]]],
        "an error": [["head", 500, [["Content-Type", "application/json"]]], ["repeat", 1000, [["send", much]]]],
        "a line": [HEAD, chunk("data: "), ["repeat", 1000, [["chunk", much]]]],
        "a comment": [HEAD, ["repeat", 1000, [["chunk", f": {much}\n"]]]],
        "an event": [HEAD, ["repeat", 1000, [["chunk", f"data: {much}\n"]]]],
        "a type": [HEAD, ["repeat", 1000, [["chunk", f"event: {much}\n"]]]],
        "events": [HEAD, ["repeat", 1000, [["chunk", "data: {}\n\n" * 10_000]]]],
        "a chunk's head": [HEAD, ["repeat", 1000, [["send", f"1;{much}"]]]],
        "a header": [["send", "HTTP/1.1 200 OK\r\nX-A: "], ["repeat", 1000, [["send", much]]]],
        "headers": [["send", "HTTP/1.1 200 OK\r\n"], ["repeat", 1000, [["send", f"X-A: {much[:5000]}\r\n" * 20]]]],
    }
    for what, steps in floods.items():
        status, body, _ = await relaying.answer(steps)
        # The HTTP parser chooses the error for a bad head. On a busy machine, many small events can reach the time
        # limit of an answer before its size limit.
        is_any = what in ("a chunk's head", "a header", "headers", "events")
        assert (b'"upstream-' if is_any else b'"upstream-too-large"') in body[-2000:], (
            what,
            status,
            body[-500:],
        )
        assert int(growth) < BOUND, (what, int(growth) // MEBIBYTE)


def test_compressed_request_is_never_inflated(attacked: Attacked) -> None:
    growth = Growth(attacked.server.pid)
    asked = json.dumps({"messages": [{"role": "user", "content": "x"}], "msg": "x"}).encode()
    for coding, body in (
        ("gzip", MEMBER * 60),
        ("deflate", zlib.compress(bytes(100 * MEBIBYTE))),
        ("gzip", gzip.compress(asked)),
    ):
        for path in ("/ai/v1/chat/completions", "/ai/generations/", "/chat/send"):
            headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
            answer = attacked.ask(request(path, headers, method="POST", body=body))
            assert (answer.status, answer.code) == (400, "invalid-json")
    assert int(growth) < BOUND
    assert attacked.serves()


DEEP: dict[str, bytes] = {
    "arrays": b"[" * 100_000 + b"]" * 100_000,
    "no end": b"[" * 100_000,
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "message": b'{"msg": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "content": b'{"messages": [{"role": "user", "content": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
}


def test_json_that_is_nested_a_hundred_thousand_times_is_refused(attacked: Attacked) -> None:
    for what, body in DEEP.items():
        for path in ("/ai/v1/chat/completions", "/ai/generations/", "/chat/send"):
            answer = attacked.ask(request(path, {"Content-Type": "application/json"}, method="POST", body=body))
            assert (answer.status, answer.code) == (400, "invalid-json"), what
    assert attacked.serves()


def nested(depth: int, **more: Any) -> bytes:
    """Return a request with nested JSON in a field that only the upstream validates."""
    messages = [{"role": "user", "content": json.dumps(whole(200, {"choices": []}))}]
    form = b'{"a":' * depth + b"1" + b"}" * depth
    return json.dumps({"messages": messages, **more}).encode()[:-1] + b', "response_format": ' + form + b"}"


@pytest.mark.parametrize("path", ["/ai/v1/chat/completions", "/ai/generations/"])
def test_json_that_is_nested_just_less_than_can_be_read_does_not_fail_later(relaying: Relay, path: str) -> None:
    """Code that walks the parsed value might start deeper in the call stack than the parser did."""
    statuses = {}
    for depth in (100, *range(800, 1000, 4)):
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {relaying.keys['bob']}"}
        answer = ask(relaying.server.port, request(path, headers, method="POST", body=nested(depth)))
        statuses[depth] = answer.status
        assert answer.status != 500, (depth, answer.text)
    assert (statuses[100], statuses[996]) == (201 if "generations" in path else 200, 400)


async def test_answer_that_is_nested_just_less_than_can_be_read_does_not_fail_later(relaying: Relay) -> None:
    """The answer contains an escape, because the relay decodes such an answer to search it for secrets."""
    for depth in (100, *range(400, 1000, 50)):
        deep = '{"a":' * depth + r'"\u0041"' + "}" * depth
        for steps in (
            [HEAD, piece("Hi"), chunk(f"data: {deep}\n\n"), *END],
            [HEAD, chunk(f"data: {deep}\n\n"), *END],
            whole(200, deep),
            whole(400, f'{{"error": {deep}}}'),
        ):
            for stream in (True, False):
                status, body, _ = await relaying.answer(steps, stream=stream)
                assert status in (200, 400, 502), (depth, body)
                assert b'"internal"' not in body, (depth, body)
