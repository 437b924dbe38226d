"""The configured upstreams: their valid options, their connections, and keeping their API keys secret."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import subprocess
import warnings
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import AsyncClient

from streams.exceptions import HTTPError, InvalidSetting
from streams.presence.slots import Slot
from streams.relay import upstreams
from streams.relay.access import Principal
from streams.relay.limits import _slots, take_slot
from streams.relay.models import Usage
from streams.relay.proxy.answers import open_answer
from streams.relay.proxy.exchange import Exchange
from streams.relay.upstreams import OpenAICompatible, get_upstream
from streams.relay.usage import record_soon
from tests.relay.answering import GivenUpstream
from tests.relay.conftest import SECRET, UpstreamProcess
from tests.relay.steps import END, HEAD, piece
from tests.support.services import free_port
from tests.support.sites import PYTHON, ROOT

OPTIONS: dict[str, Any] = {"base_url": "https://api.example.com/v1/", "api_key": SECRET, "models": ["m1"]}
BACKEND = "streams.relay.upstreams.OpenAICompatible"


def with_upstream(settings: Any, options: object, **more: Any) -> None:
    settings.STREAMS = {
        **settings.STREAMS,
        "UPSTREAMS": {"default": {"BACKEND": BACKEND, "OPTIONS": options}},
        **more,
    }


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"timeout": 5}, "timeout"),
        ({"base_url": None}, "base_url"),
        ({"base_url": "api.example.com"}, "base_url"),
        ({"base_url": "ftp://api.example.com"}, "base_url"),
        ({"base_url": "https://user:password@api.example.com"}, "base_url"),
        ({"base_url": "https://api.example.com:port"}, "base_url"),
        ({"base_url": "https://api.example.com/?key=x"}, "base_url"),
        ({"base_url": "https://"}, "base_url"),
        ({"api_key": f"{SECRET}\nX-Header: x"}, "api_key"),
        ({"api_key": 5}, "api_key"),
        ({"models": []}, "models"),
        ({"models": "m1"}, "models"),
        ({"models": [5]}, "models"),
        ({"max_tokens_key": "tokens"}, "max_tokens_key"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name_and_without_the_key(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidSetting, match=named) as caught:
        OpenAICompatible("default", {**OPTIONS, **wrong})
    assert SECRET not in str(caught.value)
    assert "password" not in str(caught.value)


def test_checks_report_them(settings: Any) -> None:
    with_upstream(settings, {**OPTIONS, "models": []})
    [message] = [message for message in run_checks() if message.id == "streams_relay.E002"]
    assert "'models'" in message.msg
    assert SECRET not in message.msg


def test_malformed_upstreams_are_reported_without_what_they_hold(settings: Any) -> None:
    with_upstream(settings, [SECRET])
    [message] = [message for message in run_checks() if "UPSTREAMS" in message.msg]
    assert SECRET not in message.msg


def test_key_is_in_no_representation() -> None:
    upstream = OpenAICompatible("default", OPTIONS)
    assert repr(upstream) == str(upstream) == "<OpenAICompatible 'default'>"
    assert upstream.hide(f"Bearer {SECRET}!") == "Bearer [key]!"
    assert OpenAICompatible("default", {**OPTIONS, "api_key": ""}).hide("text") == "text"
    for word in ("none", "EMPTY", "null"):  # self-hosted servers get such placeholders
        assert OpenAICompatible("default", {**OPTIONS, "api_key": word}).hide(f"it is {word}") == f"it is {word}"


def test_aiohttp_is_loaded_only_where_it_is_used() -> None:
    code = "import sys, django; django.setup(); from streams.relay import urls; print('aiohttp' in sys.modules)"
    env = {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
    with pytest.raises(AttributeError, match="Nothing"):
        _ = upstreams.Nothing


def test_upstream_that_is_nowhere_is_unreachable_and_not_named(caplog: pytest.LogCaptureFixture) -> None:
    for host in (f"127.0.0.1:{free_port()}", "nowhere.invalid"):
        upstream = OpenAICompatible("default", {**OPTIONS, "base_url": f"http://{host}/v1"})
        with pytest.raises(HTTPError) as caught:
            asyncio.run(open_answer(upstream, {"stream": True, "model": "m1"}))
        assert (caught.value.status, caught.value.code) == (502, "upstream-unreachable")
        assert host not in str(caught.value)
        assert host.split(":")[0] in caplog.text
    assert SECRET not in caplog.text


def test_upstream_that_takes_no_connection_is_given_up(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RELAY_CONNECT_SECONDS": 0.2}

    # No process accepts connections, and the backlog is full.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        port = server.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        upstream = OpenAICompatible("default", {**OPTIONS, "base_url": f"http://127.0.0.1:{port}"})
        with pytest.raises(HTTPError) as caught:
            asyncio.run(open_answer(upstream, {"stream": True, "model": "m1"}))
    assert (caught.value.status, caught.value.code) == (504, "upstream-unreachable")


def test_each_event_loop_has_connections_of_its_own_and_closes_them_at_its_end(upstream: UpstreamProcess) -> None:
    made = OpenAICompatible("default", {**OPTIONS, "base_url": f"http://127.0.0.1:{upstream.port}/v1"})

    async def main() -> str:
        messages = [{"role": "user", "content": json.dumps([HEAD, piece("Hi"), *END])}]
        answer = await open_answer(made, {"stream": True, "model": "m1", "messages": messages})
        text = "".join([piece.text async for piece in answer])
        await answer.aclose()
        return text

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [asyncio.run(main()) for _ in range(3)] == ["Hi"] * 3
        assert made._sessions == {}
        gc.collect()


# --- Without configuration ---


async def test_script_answers_where_there_is_no_upstream() -> None:
    message = {"role": "user", "content": "Why?"}
    answer = await get_upstream().send({"model": "scripted", "stream": False, "messages": [message]})
    assert b"Why?" in b"".join([chunk async for chunk in answer])


@pytest.mark.django_db
async def test_demo_site_answers_everyone_by_the_script(settings: Any) -> None:
    upstream = {"BACKEND": "streams.relay.upstreams.ScriptedUpstream", "OPTIONS": {"answer": "a b", "seconds": 0.001}}
    settings.STREAMS = {**settings.STREAMS, "UPSTREAMS": {"default": upstream}}
    usage = {"stream_options": {"include_usage": True}}
    payload = {"stream": True, "messages": [{"role": "user", "content": "Why?"}], **usage}
    response: Any = await AsyncClient().post("/ai/v1/chat/completions", payload, content_type="application/json")
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    body = b"".join([chunk async for chunk in response])
    assert body.endswith(b"data: [DONE]\n\n")
    assert b'"content":"a "' in body
    assert b'"usage"' in body


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("header_delay_seconds", [0.01, 5])
async def test_stream_that_is_stopped_ends_at_once_and_gives_all_back(header_delay_seconds: float) -> None:
    upstream = upstreams.ScriptedUpstream("default", {"seconds": 0.2})
    before = _slots.total()
    exchange = Exchange(Principal(None, "test"), upstream, {"model": "scripted", "stream": True, "messages": []})
    exchange.start()
    await exchange.wait_for_answer(header_delay_seconds)
    assert await anext(exchange)
    waiting = asyncio.create_task(anext(exchange, b"the end"))
    await asyncio.sleep(0.05)
    exchange.stop()
    last = await asyncio.wait_for(waiting, 5)
    assert b'"code":"restarting"' in last
    assert last.endswith(b"data: [DONE]\n\n")
    assert await anext(exchange, b"the end") == b"the end"
    async with asyncio.timeout(5):
        while (
            _slots.total() > before or not await Usage.objects.filter(outcome="cancelled", is_estimated=True).aexists()
        ):
            await asyncio.sleep(0.02)


@pytest.mark.django_db
@pytest.mark.parametrize("stream", [True, False])
async def test_failure_that_nobody_foresaw_is_told_without_its_details(
    settings: Any, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    settings.STREAMS = {
        **settings.STREAMS,
        "UPSTREAMS": {"default": {"BACKEND": f"{__name__}.FailingUpstream", "OPTIONS": {}}},
    }
    payload = {"stream": stream, "messages": [{"role": "user", "content": "Why?"}]}
    before = _slots.total()
    response = await AsyncClient().post("/ai/v1/chat/completions", payload, content_type="application/json")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")
    assert SECRET.encode() not in response.content
    assert "LookupError" in caplog.text
    assert _slots.total() == before


class FailingUpstream(upstreams.ScriptedUpstream):
    async def send(self, body: Any) -> Any:
        raise LookupError(SECRET)


@pytest.mark.once
@pytest.mark.parametrize(
    ("env", "access"),
    [
        ({}, "Everyone"),
        ({"CHAT_BASE_URL": "https://api.example.com/v1"}, "LoggedIn"),
        ({"CHAT_BASE_URL": "https://api.example.com/v1", "CHAT_OPEN_TO_ALL": "true"}, "Everyone"),
    ],
)
def test_demo_site_takes_its_upstream_from_the_environment(env: dict[str, str], access: str) -> None:
    code = "import json; from project.settings import STREAMS; print(json.dumps(STREAMS))"
    base = {"SECRET_KEY": "x", "ENV_FILE": os.devnull, "CHAT_API_KEY": SECRET, "CHAT_MODELS": "m1,m2"}
    found = json.loads(subprocess.check_output([PYTHON, "-c", code], cwd=ROOT, env={**base, **env}))
    assert found["RELAY_ACCESS"] == f"streams.relay.access.{access}"
    assert ("UPSTREAMS" in found) == bool(env)
    if env:
        options = found["UPSTREAMS"]["default"]["OPTIONS"]
        assert options == {"base_url": env["CHAT_BASE_URL"], "api_key": SECRET, "models": ["m1", "m2"]}


# --- Usage and slots after answers ---


@pytest.mark.django_db(transaction=True)
async def test_database_that_takes_no_usage_spoils_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answer = {"caller": "user 1", "upstream": "default", "model": "m1", "outcome": "done", "chunks": 2, "seconds": 1.0}
    await record_soon(user_id=None, usage=None, **answer)
    assert "could not" not in caplog.text
    await record_soon(user_id=None, usage=None, **{**answer, "model": None})
    assert "Could not record the usage" in caplog.text
    assert await Usage.objects.acount() == 1


def test_slots_return_when_released_or_collected(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RELAY_MAX_STREAMS": 2, "RELAY_MAX_STREAMS_PER_USER": 1}
    before = _slots.total()
    first: Slot | None = take_slot("user 1")
    for key in ("user 1", "user 1"):
        with pytest.raises(HTTPError, match="PER_USER"):
            take_slot(key)
    second = take_slot("user 2")
    with pytest.raises(HTTPError, match="RELAY_MAX_STREAMS'"):
        take_slot("user 3")
    second.release()
    second.release()
    assert _slots.total() == before + 1
    del first
    gc.collect()
    assert _slots.total() == before


@pytest.mark.django_db(transaction=True)
async def test_answer_that_failed_before_the_view_waited_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A client can disconnect after the upstream has failed, and before the view looks at the answer."""
    given = GivenUpstream([b'data: {"error": {"message": "no"}}\n\n'])
    exchange = Exchange(Principal(None, "test"), given, {"model": "small", "stream": True})
    exchange.start()
    assert exchange._opening is not None
    await asyncio.wait([exchange._opening])
    await exchange.aclose()
    del exchange
    gc.collect()
    await asyncio.sleep(0)
    assert "never retrieved" not in caplog.text
