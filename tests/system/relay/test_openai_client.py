"""OpenAI's unmodified Python client, with the relay as its base_url."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.relay.conftest import Relay
from tests.relay.steps import COMPLETION, END, HEAD, LAST, Step, chunk, event, piece, wait, whole

pytestmark = pytest.mark.once


@pytest.fixture
async def client(relay: Relay) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{relay.server.url}/ai/v1", api_key=relay.keys["bob"], max_retries=0) as made:
        yield made


def asking(steps: list[Step], **more: Any) -> dict[str, Any]:
    """Return the arguments for create()."""
    return {"model": "m1", "messages": [{"role": "user", "content": json.dumps(steps)}], **more}


async def test_streaming(client: AsyncOpenAI) -> None:
    # Heartbeats arrive before the first event, and after an event with an id.
    steps: list[Step] = [HEAD, wait(0.8), chunk(f"id:1\n{event('Hel')}"), wait(0.5), piece("lo é\u2028"), *END]
    text, usage = "", None
    asked = asking(steps, stream=True, temperature=0.1, stream_options={"include_usage": True})
    async for part in await client.chat.completions.create(**asked):
        text += "".join(choice.delta.content or "" for choice in part.choices)
        usage = part.usage or usage
    assert text == "Hello é\u2028"
    assert usage is not None
    assert usage.total_tokens == 5


async def test_usual_loop_reads_each_choice(client: AsyncOpenAI) -> None:
    text = ""
    async for part in await client.chat.completions.create(
        **asking([HEAD, piece("Hel"), piece("lo"), *END], stream=True)
    ):
        text += part.choices[0].delta.content or ""
    assert text == "Hello"


EXTRAS = {
    "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "a"}}],
    "reasoning": "hm",
    "reasoning_details": [{"type": "reasoning.text", "text": "hm"}],
    "reasoning_content": "hm",
    "audio": None,
    "function_call": None,
    "refusal": None,
}


@pytest.mark.parametrize("exclude_none", [True, False])
@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"content": "Hello", **EXTRAS}, {"content": "Hello", "reasoning_content": "hm"}),
        ({"content": "Hello", "tool_calls": []}, {"content": "Hello"}),
        ({"content": None, "refusal": "I will not."}, {"content": None, "refusal": "I will not."}),
        ({"content": None, "reasoning": "hm"}, {"content": ""}),
    ],
)
async def test_final_message_sent_back_is_accepted(
    relay: Relay, client: AsyncOpenAI, sent: dict[str, Any], kept: dict[str, Any], exclude_none: bool
) -> None:
    message = {"role": "assistant", **sent}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    first = await client.chat.completions.create(**asking(whole(200, {**COMPLETION, "choices": [choice]})))
    history = first.choices[0].message.model_dump(exclude_none=exclude_none)
    assert set(sent) - set(history) <= {name for name, value in sent.items() if value is None}
    asked = asking(whole(200, COMPLETION), user=(name := uuid4().hex))
    asked["messages"] = [{"role": "user", "content": "Hi"}, history, *asked["messages"]]
    await client.chat.completions.create(**asked)
    [seen] = await relay.upstream.seen(name)
    assert seen["body"]["messages"][1] == {"role": "assistant", **kept}


async def test_helpers_final_message_sent_back_is_accepted(client: AsyncOpenAI) -> None:
    role = chunk(event("H").replace('"content"', '"role": "assistant", "content"'))
    async with client.chat.completions.stream(**asking([HEAD, role, piece("i"), *END])) as stream:
        message = (await stream.get_final_completion()).choices[0].message.model_dump()
    asked = asking(whole(200, COMPLETION))
    asked["messages"] = [{"role": "user", "content": "Hi"}, message, *asked["messages"]]
    assert (await client.chat.completions.create(**asked)).choices[0].message.content == "Hello"


async def test_streaming_through_its_own_helper(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(**asking([HEAD, piece("Hi"), *END])) as stream:
        completion = await stream.get_final_completion()
    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("Hi", "stop")


async def test_whole_answer(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(**asking(whole(200, COMPLETION)))
    assert completion.model_dump(exclude_unset=True) == COMPLETION


async def test_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["m1", "m2"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_upstreams_errors_are_the_clients_own(
    client: AsyncOpenAI, status: int, error: type[openai.APIStatusError], stream: bool
) -> None:
    steps = whole(status, {"error": {"message": "no", "code": "c", "type": "t", "param": "p"}}, ["X-Request-Id", "r7"])
    with pytest.raises(error) as caught:
        await client.chat.completions.create(**asking(steps, stream=stream))
    assert (caught.value.code, caught.value.request_id, caught.value.param) == ("c", "r7", "p")


async def test_our_own_refusals_are_the_clients_errors(relay: Relay, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="base_url"):
        await client.chat.completions.create(**asking([HEAD]), extra_body={"base_url": "http://127.0.0.1:1"})
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(**{**asking([HEAD]), "model": "gpt-99"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="sk-wrong").chat.completions.create(**asking([HEAD]))
    with pytest.raises(openai.APIStatusError) as large:
        await client.chat.completions.create(**asking([["send", "x" * 1_100_000]]))
    assert large.value.status_code == 413


@pytest.mark.parametrize("last", [[chunk('data: {"error": {"message": "out of memory"}}\n\n'), LAST], [["close"]]])
async def test_failure_in_the_middle_is_an_error_and_no_short_answer(client: AsyncOpenAI, last: list[Step]) -> None:
    stream = await client.chat.completions.create(**asking([HEAD, piece("Hi"), *last], stream=True))
    assert (await anext(stream)).choices[0].delta.content == "Hi"
    with pytest.raises(openai.APIError):
        await anext(stream)


async def test_cancel_lets_go_of_the_upstream(relay: Relay, client: AsyncOpenAI) -> None:
    steps: list[Step] = [HEAD, ["repeat", 1000, [piece("x"), wait(0.02)]]]
    for way in ("close", "cancel"):
        name = uuid4().hex
        stream = await client.chat.completions.create(**asking(steps, stream=True, user=name))
        await anext(stream)
        if way == "close":
            left_at = time.monotonic()
            await stream.close()
        else:
            reading = asyncio.create_task(stream.__anext__())
            await asyncio.sleep(0)
            left_at = time.monotonic()
            reading.cancel()
            await asyncio.wait([reading])
            await stream.close()
        async with asyncio.timeout(10):
            while (lost_at := (await relay.upstream.seen(name))[0]["lost_at"]) is None:
                await asyncio.sleep(0.02)
        assert lost_at - left_at < 0.5


async def test_retries_are_the_clients_and_only_before_the_stream(relay: Relay, client: AsyncOpenAI) -> None:
    name = uuid4().hex
    steps = whole(503, {"error": {"message": "busy"}}, ["Retry-After-Ms", "20"])
    with pytest.raises(openai.InternalServerError):
        await client.with_options(max_retries=2).chat.completions.create(**asking(steps, stream=True, user=name))
    assert len(await relay.upstream.seen(name)) == 3
    name = uuid4().hex
    broken: list[Step] = [HEAD, piece("Hi"), ["close"]]
    retrying = client.with_options(max_retries=2).chat.completions
    stream = await retrying.create(**asking(broken, stream=True, user=name))
    await anext(stream)
    with pytest.raises(openai.APIError):
        await anext(stream)
    assert len(await relay.upstream.seen(name)) == 1, "neither the client nor the relay retries"


async def test_the_client_that_is_not_async(relay: Relay) -> None:
    def ask() -> str:
        with OpenAI(base_url=f"{relay.server.url}/ai/v1", api_key=relay.keys["ann"]) as client:
            parts = client.chat.completions.create(**asking([HEAD, piece("Hi"), *END], stream=True))
            return "".join(choice.delta.content or "" for part in parts for choice in part.choices)

    assert await asyncio.to_thread(ask) == "Hi"
