"""JSON bodies: valid ones are parsed, and all others get a clear error and never a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client, RequestFactory, override_settings

from streams.api.requests.bodies import parse_json, read_json
from streams.exceptions import HTTPError
from streams.models import Message
from tests.api.callers import CHANNEL_MESSAGES, DISCONNECT, FAST, MESSAGES, TOKENS, bearer, code, key, post, user

NOT_JSON = {
    b"": "Expecting value",
    b"{": "line 1, column 2",
    b'{"data": NaN}': "NaN is not a JSON value",
    b'{"data": [-Infinity]}': "-Infinity is not a JSON value",
    b'{"data": 1e999}': "1e999 is larger than any number here",
    b'{"data": ' + b"9" * 5000 + b"}": "integer",
    b'{"data": 1, "data": 2}': "names 'data' twice",
    b'{"data": {"a": 1, "a": 2}}': "names 'a' twice",
    b'{"data": "\xff"}': "it is not UTF-8, at byte 10",
    '{"data": 1}'.encode("utf-16"): "it is not UTF-8",
    b"\xef\xbb\xbf{}": "BOM",
    b'{"data": ' + b"[" * 200_000 + b"]" * 200_000 + b"}": "nested too deeply",
    b'{"data": 1} {}': "Extra data",
}


@pytest.mark.parametrize(("body", "problem"), NOT_JSON.items(), ids=lambda value: repr(value)[:30])
def test_what_is_no_json_is_refused_with_the_place_or_the_reason(body: bytes, problem: str) -> None:
    with pytest.raises(HTTPError) as refusal:
        parse_json(body)
    assert (refusal.value.status, refusal.value.code) == (400, "invalid-json")
    assert problem in str(refusal.value)


@pytest.mark.django_db
@pytest.mark.parametrize("path", [CHANNEL_MESSAGES, FAST])
@pytest.mark.parametrize(
    "data", ["\0", "\ud800", {"a": "\udfff"}, {"\ud800": 1}, "a\0b"], ids=["nul", "lone", "inner", "name", "amid"]
)
def test_data_that_no_database_stores_is_400_and_names_the_field(path: str, data: Any) -> None:
    answer = post(path, {"data": data}, bearer())
    assert code(answer) == (400, "invalid-request")
    assert set(answer.json()["error"]["fields"]) == {"data"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "data", [None, True, 0, -1.5, 10**300, "", "text", [], {}, {"a": ["\0", None]}, "\r\n"], ids=repr
)
@pytest.mark.parametrize("path", [CHANNEL_MESSAGES, FAST])
def test_any_json_is_published_as_publish_would(path: str, data: Any) -> None:
    assert post(path, {"data": data}, bearer()).status_code == 201
    text = Message.objects.get().data
    assert text == data.replace("\r\n", "\n") if isinstance(data, str) else json.loads(text) == data


@pytest.mark.django_db
@pytest.mark.parametrize("depth", [900, 2_000, 20_000, 100_000])
def test_deep_json_is_published_or_refused(depth: int) -> None:
    for path in (CHANNEL_MESSAGES, FAST):
        answer = post(path, b'{"data": ' + b"[" * depth + b"]" * depth + b"}", bearer())
        assert answer.status_code in (201, 400)


WRONG = {
    CHANNEL_MESSAGES: [[], None, 1, '"text"', {}, {"data": 1, "evnt": "x"}, {"data": 1, "event": 5}],
    FAST: [[], None, {"event": "x"}, {"data": 1, "event": None}, {"data": 1, "event": "stream-x"}],
    MESSAGES: [
        {},
        {"messages": None},
        {"messages": []},
        {"messages": {}},
        {"messages": [1]},
        {"messages": [{"channel": 5, "data": 1}]},
        {"messages": [{"channel": "a/b", "data": 1}]},
        {"messages": [{"channel": "a", "data": 1, "idempotency_key": "\0"}]},
        {"messages": [{"channel": "a", "data": 1, "idempotency_key": 5}]},
        {"messages": [{"channel": "a", "data": 1, "event": "a\nb"}]},
    ],
    TOKENS: [
        {},
        {"read": "news"},
        {"read": [5]},
        {"read": ["a b"]},
        {"read": ["\ud800"]},
        {"read": ["x"], "seconds": True},
        {"read": ["x"], "seconds": 0},
        {"read": ["x"], "seconds": 10**400},
        {"read": ["x"], "seconds": "60"},
        {"read": ["x"], "user": True},
        {"read": ["x"], "user": "\0"},
        {"read": ["x"], "user": "\ud800"},
        {"read": [f"c{n}" for n in range(51)]},
    ],
    DISCONNECT: [
        {},
        {"user": None},
        {"user": [1]},
        {"channel": ""},
        {"token": "a b"},
        {"token": 5},
        {"token": "x" * 65},
    ],
}


@pytest.mark.django_db
def test_wrong_types_and_names_are_400_everywhere() -> None:
    root = key(user("root", is_superuser=True, is_staff=True))
    for path, bodies in WRONG.items():
        for body in bodies:
            answer = post(path, body, bearer() if path == FAST else root)
            assert code(answer) == (400, "invalid-request"), (path, body, answer.content)
    assert not Message.objects.exists()


@pytest.mark.django_db
def test_a_wrong_message_among_many_is_named_by_its_place() -> None:
    answer = post(MESSAGES, {"messages": [{"channel": "a", "data": 1}, {"channel": "a b", "data": 1}]}, bearer())
    assert answer.json()["error"]["fields"].keys() == {"messages[1].channel"}
    many = post(MESSAGES, {"messages": [{"channel": "a b", "data": 1}] * 500}, bearer()).json()["error"]
    assert len(many["fields"]) == 20
    assert "one of 500 problems" in many["message"]


# --- Sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("path", [CHANNEL_MESSAGES, FAST, MESSAGES])
def test_request_beyond_the_limit_is_413_before_it_is_read(path: str) -> None:
    with override_settings(STREAMS={"MAX_REQUEST_BYTES": 100}):
        answer = post(path, b"[" * 101, bearer())
        assert code(answer) == (413, "request-too-large")
        assert "STREAMS['MAX_REQUEST_BYTES']" in answer.json()["error"]["message"]


@pytest.mark.django_db
def test_request_is_not_held_to_the_limit_for_forms() -> None:
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=1000, STREAMS={"MAX_MESSAGE_BYTES": 10_000}):
        for path in (CHANNEL_MESSAGES, FAST):
            assert post(path, {"data": "x" * 5000}, bearer()).status_code == 201


@pytest.mark.parametrize("length", ["9" * 400, "101"])
def test_told_length_alone_is_enough(length: str) -> None:
    request = RequestFactory().generic("POST", "/", b"{}", "application/json", CONTENT_LENGTH=length)
    with override_settings(STREAMS={"MAX_REQUEST_BYTES": 100}), pytest.raises(HTTPError, match="at most 100 bytes"):
        read_json(request)


def test_body_that_was_read_before_is_read_again() -> None:
    request = RequestFactory().post("/", b'{"a": 1}', "application/json")
    assert read_json(request) == read_json(request) == {"a": 1}
    assert request.body == b'{"a": 1}'


@pytest.mark.django_db
def test_message_beyond_the_limit_is_413_and_names_the_setting() -> None:
    with override_settings(STREAMS={"MAX_MESSAGE_BYTES": 10}):
        for path, body in (
            (CHANNEL_MESSAGES, {"data": "x" * 11}),
            (FAST, {"data": ["x" * 11]}),
            (MESSAGES, {"messages": [{"channel": "a", "data": "ok"}, {"channel": "a", "data": "é" * 6}]}),
        ):
            answer = post(path, body, bearer())
            assert code(answer) == (413, "message-too-large")
            assert "MAX_MESSAGE_BYTES" in answer.json()["error"]["message"]
    assert not Message.objects.exists()


@pytest.mark.django_db
def test_too_many_messages_are_400_and_name_the_setting() -> None:
    with override_settings(STREAMS={"MAX_MESSAGES_PER_REQUEST": 2}):
        answer = post(MESSAGES, {"messages": [{"channel": "a", "data": 1}] * 3}, bearer())
    assert code(answer) == (400, "too-many-messages")
    assert "MAX_MESSAGES_PER_REQUEST" in answer.json()["error"]["message"]


# --- Media types ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("path", [CHANNEL_MESSAGES, FAST])
def test_only_json_in_utf8_is_parsed(path: str) -> None:
    client = Client(headers=bearer())
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "a/b;c"):
        assert code(client.post(path, b'{"data": 1}', content_type=kind)) == (415, "unsupported-media-type")
    assert code(client.post(path, b'{"data": 1}', content_type="application/json; charset=latin-1"))[0] == 415
    for kind in ("application/json; charset=UTF-8", "Application/JSON"):
        assert client.post(path, b'{"data": "\xc3\xa9"}', content_type=kind).status_code == 201
    assert set(Message.objects.values_list("data", flat=True)) == {"é"}
