"""Validation of a client's request, and the body that the upstream receives for it."""

from __future__ import annotations

from typing import Any

import pytest

from streams.exceptions import HTTPError
from streams.relay.proxy.requests import check_request, parse_payload, wants_usage
from streams.relay.upstreams import get_upstream
from tests.relay.answering import GivenUpstream

UPSTREAM = GivenUpstream([])
MESSAGES = [{"role": "user", "content": "Hi"}]


def checked(**payload: Any) -> dict[str, Any]:
    return check_request({"messages": MESSAGES, **payload}, UPSTREAM)


def refusal(payload: object) -> HTTPError:
    with pytest.raises(HTTPError) as caught:
        check_request(payload, UPSTREAM)
    return caught.value


def test_smallest_request_gets_a_model_and_a_limit() -> None:
    assert checked() == {"model": "small", "messages": MESSAGES, "max_tokens": 4096}


def test_stream_ends_with_its_usage_whatever_the_client_says() -> None:
    body = checked(stream=True, stream_options={"include_usage": False})
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert not wants_usage({"stream_options": {"include_usage": False}})
    assert not wants_usage({})
    assert wants_usage({"stream_options": {"include_usage": True}})
    assert "stream" not in checked(stream=False)


def test_harmless_keys_pass_as_they_are_and_null_is_as_good_as_absent() -> None:
    harmless = {
        "temperature": 0.2,
        "stop": ["x"],
        "seed": 5,
        "enable_thinking": False,
        "response_format": {"type": "text"},
    }
    assert checked(**harmless, top_p=None, service_tier=None).items() >= harmless.items()
    assert "top_p" not in checked(top_p=None)


@pytest.mark.parametrize(
    "key",
    [
        "base_url",
        "api_base",
        "api_key",
        "key",
        "extra_headers",
        "store",
        "metadata",
        "service_tier",
        "functions",
        "x" * 999,
    ],
)
def test_unknown_keys_are_refused_by_name(key: str) -> None:
    error = refusal({"messages": MESSAGES, key: "x"})
    assert error.status == 400
    assert key[:90] in str(error)
    assert len(str(error)) < 1000


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"messages": []}, "invalid-messages"),
        ({"messages": "Hi"}, "invalid-messages"),
        ({"messages": ["Hi"]}, "invalid-messages"),
        ({"messages": [{"content": "Hi"}]}, "invalid-messages"),
        ({"messages": [{"role": "root", "content": "Hi"}]}, "invalid-messages"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, "invalid-messages"),
        ({"messages": [{"role": "user"}]}, "invalid-messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid-messages"),
        ({"messages": [{"role": "user", "content": "Hi", "url": "x"}]}, "unknown-key"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "invalid-messages"),
        ({"messages": [{"role": "user", "content": [{"type": []}]}]}, "invalid-messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "invalid-messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "video": "b"}]}]}, "unknown-key"),
        ({"messages": MESSAGES * 201}, "too-many-messages"),
        ({"n": 2}, "invalid-n"),
        ({"stream": "yes"}, "invalid-stream"),
        ({"stream_options": 5}, "invalid-stream-options"),
        ({"stream_options": {"other": 1}}, "invalid-stream-options"),
        ({"model": 5}, "invalid-model"),
        ({"max_tokens": 4097}, "invalid-max-tokens"),
        ({"max_tokens": 0}, "invalid-max-tokens"),
        ({"max_tokens": "9"}, "invalid-max-tokens"),
        ({"max_tokens": True}, "invalid-max-tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 4097}, "invalid-max-tokens"),
        ({"tools": [{"type": "web_search"}]}, "invalid-tools"),
        ({"tools": {}}, "invalid-tools"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any], code: str) -> None:
    error = refusal({"messages": MESSAGES, **wrong})
    assert (error.status, error.code) == (400, code)


@pytest.mark.parametrize("payload", [None, [], "text", 5])
def test_a_request_is_an_object(payload: object) -> None:
    assert refusal(payload).status == 400


def test_only_listed_models_may_be_asked_for() -> None:
    assert checked(model="large")["model"] == "large"
    error = refusal({"messages": MESSAGES, "model": "gpt-99"})
    assert (error.status, error.code) == (404, "model_not_found")
    assert "small, large" in str(error)


def test_length_of_an_answer_goes_by_the_upstreams_name_for_it() -> None:
    upstream = GivenUpstream([])
    upstream.max_tokens_key = "max_completion_tokens"
    body = check_request({"messages": MESSAGES, "max_tokens": 7, "max_completion_tokens": 9}, upstream)
    assert (body["max_completion_tokens"], "max_tokens" in body) == (7, False)


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("data:image/png;base64,AAAA", True),
        ("https://inside/", False),
        ("file:///etc/passwd", False),
        (" data:image/x", False),
        (None, False),
    ],
)
def test_upstreams_fetch_no_images_for_clients(url: object, fits: bool) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    if fits:
        assert checked(messages=messages)["messages"] == messages
    else:
        assert refusal({"messages": messages}).status == 400


@pytest.mark.parametrize(("data", "fits"), [("AAAA", True), ("https://inside/", False), ("oss://x", False), (5, False)])
def test_upstreams_fetch_no_sounds_for_clients(data: object, fits: bool) -> None:
    messages = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]}]
    if fits:
        assert checked(messages=messages)["messages"] == messages
    else:
        assert refusal({"messages": messages}).status == 400


def test_messages_that_an_answer_gave_may_be_sent_back() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call],
        "annotations": [],
        "audio": None,
        "refusal": None,
    }
    sent = checked(messages=[*MESSAGES, message, {"role": "tool", "tool_call_id": "1", "content": "2"}])["messages"]
    assert sent[1] == {"role": "assistant", "content": None, "tool_calls": [call]}


def test_body_must_be_json_within_its_bound(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RELAY_MAX_REQUEST_BYTES": 100_000}
    assert parse_payload(b'{"a": 1}') == {"a": 1}
    for wrong in (b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 20_000):
        with pytest.raises(HTTPError, match="JSON"):
            parse_payload(wrong)
    for wrong, problem in ((b'{"a": 1, "a": 2}', "names 'a' twice"), ("{}".encode("utf-16"), "it is not UTF-8")):
        with pytest.raises(HTTPError, match=problem):
            parse_payload(wrong)
    with pytest.raises(HTTPError) as caught:
        parse_payload(b" " * 100_001)
    assert caught.value.status == 413


def test_body_has_limited_number_of_values(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RELAY_MAX_REQUEST_BYTES": 100_000}
    with pytest.raises(HTTPError) as caught:
        parse_payload(b"[" + b"[]," * 30_000 + b"0]")
    assert (caught.value.status, caught.value.code) == (413, "too-many-values")
    assert parse_payload(b"[" + b"[]," * 9_000 + b" " * 60_000 + b"0]")


@pytest.mark.parametrize("budget", [0, 4097, 10**9, "many", True, 1.5])
def test_thinking_has_the_limit_of_an_answer(budget: object) -> None:
    assert checked(thinking_budget=4096)["thinking_budget"] == 4096
    assert refusal({"messages": MESSAGES, "thinking_budget": budget}).code == "invalid-max-tokens"


def test_unknown_model_is_told_models_of_all_upstreams(settings: Any) -> None:
    scripted = "streams.relay.upstreams.ScriptedUpstream"
    upstreams = {name: {"BACKEND": scripted, "OPTIONS": {"models": [name, "both"]}} for name in ("default", "other")}
    settings.STREAMS = {**settings.STREAMS, "UPSTREAMS": upstreams}
    with pytest.raises(HTTPError) as refused:
        check_request({"messages": MESSAGES, "model": "gpt-99"}, get_upstream())
    assert "Available: default, both, other." in str(refused.value)
