"""Server-side request forgery: no request makes this server or its upstream connect to another address.

The addresses in the requests are those of a canary, which counts connections.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.relay.conftest import Relay
from tests.relay.steps import COMPLETION, END, HEAD, Step, chunk, event, piece, whole
from tests.system.attacks.conftest import Attacked, Canary
from tests.system.attacks.raw import ask, request

pytestmark = pytest.mark.once


def user(content: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def keys(url: str) -> Iterator[dict[str, Any]]:
    """Yield request fields that some API or library would treat as an address to call or fetch."""
    for name in (
        *(
            "base_url",
            "api_base",
            "api_url",
            "url",
            "uri",
            "endpoint",
            "host",
            "proxy",
            "proxies",
            "webhook",
            "callback",
        ),
        *("callback_url", "metadata", "store", "file_url", "files", "file_ids", "attachments", "web_search_options"),
        *(
            "search_parameters",
            "enable_search",
            "plugins",
            "functions",
            "prediction",
            "audio",
            "modalities",
            "mcp_servers",
        ),
        *("extra_body", "extra_headers", "extra_query", "headers", "api_key", "api_version", "organization", "project"),
        *(
            "previous_response_id",
            "conversation",
            "background",
            "service_tier",
            "prompt_cache_key",
            "safety_identifier",
        ),
    ):
        yield {name: url}
        yield {name: {"url": url}}
    for model in (
        url,
        f"m1@{url}",
        "../m1",
        "m1/../../x",
        f"m1\r\nHost: {url}",
        "m1?x=",
        f"http:{url}",
        "",
        {"url": url},
    ):
        yield {"model": model}
    yield {"tools": [{"type": "web_search", "url": url}]}
    yield {"tools": [{"type": "mcp", "server_url": url}]}
    yield {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "file_search"}]}
    yield {"stream_options": {"include_usage": True, "webhook": url}}


def parts(url: str) -> Iterator[object]:
    """Yield message contents that an upstream might fetch."""
    image = {"type": "image_url"}
    for address in (
        *(
            url,
            f" {url}",
            url.upper(),
            url.replace("http:", "hTTp:"),
            url.replace("http:", "https:"),
            "file:///etc/passwd",
        ),
        *("//127.0.0.1/x", "ftp://127.0.0.1/x", "gopher://127.0.0.1:1/_x", "oss://bucket/x", "s3://bucket/x", "blob:x"),
        *(
            f"data:text/html,{url}",
            f"data:,{url}",
            f"data :image/png,{url}",
            f"url({url})",
            f"\tdata:image/png;base64,{url}",
        ),
        *(None, "", 7, [url], {"url": url}),
    ):
        yield [{**image, "image_url": {"url": address}}]
        yield [{**image, "image_url": address}]
        yield [{"type": "input_audio", "input_audio": {"data": address, "format": "wav"}}]
        yield [{"type": "video_url", "video_url": {"url": address}}]
        yield [{"type": "file", "file": {"file_url": address}}]
        yield [{"type": "input_image", "image_url": address}]
    good = {"url": "data:image/png;base64,AA=="}
    yield [{**image, "image_url": {**good, "fallback": url}}]
    yield [{**image, "image_url": good, "url": url}]
    yield [{**image, "image_url": good, "file_url": url}]
    yield [{"type": "text", "text": "x", "image_url": {"url": url}}]
    yield [{"type": "text", "text": {"url": url}}]
    yield {"type": "image_url", "image_url": {"url": url}}
    yield [[{**image, "image_url": {"url": url}}]]


def sounds(address: object) -> bool:
    """Return True if this could be the base64 text of a sound. No upstream fetches an address without a scheme."""
    return isinstance(address, str) and "://" not in address


async def test_request_that_names_an_address_is_refused_and_the_upstream_never_has_it(
    relaying: Relay, canary: Canary
) -> None:
    bodies = [{**each, "messages": user("x")} if "messages" not in each else each for each in keys(canary.url)]
    bodies += [{"messages": user(part)} for part in parts(canary.url) if not is_sound_by_value(part)]
    bodies += [
        {"messages": [{"role": "user", "content": "x", key: canary.url}]}
        for key in ("image_url", "file_url", "audio", "attachments", "url", "function_call", "tool_resources")
    ]
    name = "ssrf"
    for body in bodies:
        for path in ("/ai/v1/chat/completions", "/ai/generations/"):
            headers = {"Authorization": f"Bearer {relaying.keys['ann']}", "Content-Type": "application/json"}
            data = json.dumps({"user": name, **body}).encode()
            answer = ask(relaying.server.port, request(path, headers, method="POST", body=data))
            assert answer.status in (400, 404), (body, answer.text)
    assert await relaying.upstream.seen(name) == []
    assert canary.touched() == 0


def is_sound_by_value(part: object) -> bool:
    sound = part[0].get("input_audio") if isinstance(part, list) and isinstance(part[0], dict) else None
    return isinstance(sound, dict) and sounds(sound["data"])


async def test_upstream_that_points_elsewhere_is_not_followed(relaying: Relay, canary: Canary) -> None:
    for status in (300, 301, 302, 303, 305, 307, 308):
        for location in (
            canary.url,
            f"//127.0.0.1:{canary.port}/",
            f"http://localhost:{canary.port}/v1/chat/completions",
        ):
            for stream in (True, False):
                steps = whole(status, "moved", ["Location", location], ["Refresh", f"0; url={location}"])
                found, body, headers = await relaying.answer(steps, stream=stream)
                assert (found, json.loads(body)["error"]["code"]) == (502, "upstream-malformed")
                assert not {"location", "refresh"} & set(headers)
                assert str(canary.port).encode() not in body
    hints = [["Location", canary.url], ["Content-Location", canary.url], ["Link", f"<{canary.url}>; rel=preload"]]
    hints += [["Alt-Svc", f'h2="127.0.0.1:{canary.port}"'], ["Refresh", f"0; url={canary.url}"]]
    hints += [["X-Accel-Redirect", "/admin/"], ["X-Sendfile", "/etc/passwd"], ["Proxy-Authenticate", "Basic"]]
    for steps in (whole(200, COMPLETION, *hints), whole(401, {"error": {"message": canary.url}}, *hints)):
        _, _, headers = await relaying.answer(steps, stream=False)
        assert not {name.lower() for name, _ in hints} & set(headers)
    # If an answer contains a tool call, only the client can make that call.
    call = {"id": "1", "type": "function", "function": {"name": "fetch", "arguments": json.dumps({"url": canary.url})}}
    steps: list[Step] = [HEAD, chunk(event("x").replace('"content": "x"', f'"tool_calls": [{json.dumps(call)}]')), *END]
    assert (await relaying.answer(steps))[0] == 200
    assert canary.touched() == 0


async def test_upstream_is_asked_where_the_settings_say_and_by_no_proxy(relaying: Relay, canary: Canary) -> None:
    """The request's own headers do not change the address either."""
    misleading = {
        "Host": "127.0.0.1",
        "Proxy": canary.url,  # CGI turns this header into HTTP_PROXY
        "X-Forwarded-Host": f"127.0.0.1:{canary.port}",
        "Forwarded": f"host=127.0.0.1:{canary.port}",
        "X-Base-Url": canary.url,
        "OpenAI-Base-Url": canary.url,
        "X-Upstream": canary.url,
    }
    asked = relaying.asking([HEAD, piece("Hi"), *END])
    asked.headers |= misleading
    await (await (await asked.ask()).head()).rest()
    assert asked.status == 200
    seen = await relaying.seen(asked)
    assert seen["line"] == "POST /v1/chat/completions HTTP/1.1"
    assert dict(seen["headers"])["host"] == f"127.0.0.1:{relaying.upstream.port}"
    assert str(canary.port) not in json.dumps(seen)
    assert canary.touched() == 0


def test_site_is_no_proxy(attacked: Attacked, canary: Canary) -> None:
    """The server uses only the path of an absolute URL in the request line (RFC 9112, section 3.2.2), or refuses it."""
    here = f"127.0.0.1:{canary.port}"
    for target in (f"{canary.url}/", f"{canary.url}/events/news/", here, f"//{here}/", f"@{here}/", f"/{canary.url}"):
        for method in ("GET", "CONNECT", "POST"):
            answer = attacked.stream(target, {"Host": here}, method=method)
            assert answer.status < 500, (target, answer)
    assert canary.touched() == 0
    assert attacked.serves()


def test_host_that_is_none_of_the_sites_is_refused_and_stands_in_no_answer(attacked: Attacked) -> None:
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "127.0.0.1:80:evil.example",
        "localhost.",
        "",
    ):
        for path in ("/", "/admin/", "/ai/v1/models", "/events/news/"):
            answer = attacked.stream(path, {"Host": host})
            assert "evil.example" not in str(answer.headers)
            assert "evil.example" not in answer.text
            assert answer.status in (200, 302, 400)
            if "evil" in host:
                assert answer.status == 400
    body = json.dumps({"messages": user("x")}).encode()
    headers = {"Host": "127.0.0.1:1", "X-Forwarded-Host": "evil.example", "Content-Type": "application/json"}
    answer = attacked.ask(request("/ai/generations/", headers, method="POST", body=body))
    assert answer.status == 201
    assert all(answer.json[name].startswith("/ai/") for name in ("url", "events_url", "cancel_url", "regenerate_url"))
