"""The JSON views for the scripts of the broadcast pages."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from streams.broadcasts import lifecycle
from streams.models import Broadcast, Message
from tests.admin.broadcasts.support import ALL, LIST, TEXT, browser, draft
from tests.admin.people import node

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("payload", "line", "column"),
    [
        ('{"a": 1, 2}', 1, 10),
        ('{\n  "a": 1\n  "b": 2\n}', 3, 3),
        ('{"a": NaN}', 1, 7),
        ('{"NaN": "NaN",\n "b": -Infinity}', 2, 7),
        ("", None, None),
        ("[" * 100_000, None, None),
    ],
    ids=["comma", "line", "nan", "infinity", "empty", "deep"],
)
def test_json_error_has_line_and_column(payload: str, line: int | None, column: int | None) -> None:
    client = browser(*ALL)
    result = client.post(f"{LIST}preview/", {**TEXT, "payload_type": "json", "payload": payload}).json()
    assert result["preview"] is None
    if line is not None:
        assert result["json_error"] == {"line": line, "column": column}
        assert f"(line {line}, column {column})" in result["errors_by_field"]["payload"][0]
    else:
        assert result["errors_by_field"]["payload"]
    answer = client.post(f"{LIST}add/", {**TEXT, "payload_type": "json", "payload": payload})
    assert answer.status_code == 422
    assert not Broadcast.objects.exists()


def test_preview_shows_exact_bytes() -> None:
    client = browser(*ALL)
    client.post(f"{LIST}test/", TEXT)  # so that the next event id is 2
    result = client.post(f"{LIST}preview/", {**TEXT, "title": "", "event": "alert", "payload": " a\r\n\nb: é\n"}).json()
    assert result["errors_by_field"] == {}
    wire = "event: alert\nid: 2\ndata:  a\ndata: \ndata: b: é\ndata: \n\n"
    assert result["preview"] == {"problem": "", "encoded": wire, "data": " a\n\nb: é\n", "bytes": len(wire.encode())}
    made = draft(event="alert", payload=" a\n\nb: é\n")
    lifecycle.send(made.pk, by=None)
    [row] = Message.objects.filter(channel="news")
    assert (row.position, row.data) == (2, " a\n\nb: é\n")


def test_test_message_uses_own_channel() -> None:
    client = browser("add_broadcast")
    user = User.objects.get()
    answer = client.post(f"{LIST}test/", {**TEXT, "channels": "news", "event": "alert"})
    assert (answer.status_code, answer.json()) == (201, {"channel": f"user.{user.pk}", "position": 1})
    [message] = Message.objects.all()
    assert (message.channel, message.event, message.published_by) == (f"user.{user.pk}", "alert", user)
    refused = client.post(f"{LIST}test/", {**TEXT, "payload": ""})
    assert (refused.status_code, refused.json()) == (422, {"errors": ["Enter the content of the message."]})


def test_suggested_channels_start_with_text() -> None:
    client = browser("add_broadcast")
    for channel in ("news", "news.sports", "weather"):
        lifecycle.send(draft(channels=[channel]).pk, by=None)
    assert client.get(f"{LIST}known/", {"q": "new"}).json() == {"channels": ["news", "news.sports"]}
    assert client.get(f"{LIST}known/", {"q": "zzz"}).json() == {"channels": []}
    for garbage in ("\0", "%", "x" * 10_000, "'; --", "\u202e"):
        assert client.get(f"{LIST}known/", {"q": garbage}).status_code == 200


def test_audience_of_garbage_is_nobody() -> None:
    client = browser("send_broadcast")
    assert client.get(f"{LIST}audience/?channel=news&channel=%00&channel=%E2%80%AE").json()["total"] == 0
    assert client.get(f"{LIST}audience/").json()["channels"] == {}
    many = "&".join(f"channel=c{n}" for n in range(900))
    assert len(client.get(f"{LIST}audience/?{many}").json()["channels"]) == lifecycle.MAX_CHANNELS


def test_zero_audience_needs_complete_counts() -> None:
    client = browser(*ALL)
    made = draft(channels=["quiet"])
    url = f"{LIST}{made.pk}/send/"
    assert ">Send, although no client is connected</button>" in client.get(url).text
    node({"news": 3}, channels_left_out=400)
    page = client.get(url).text
    assert ">Send now</button>" in page
    assert "There might be more connections than shown here" in page
    result = client.get(f"{LIST}audience/?channel=quiet").json()
    assert (result["channels"], result["total"], result["is_complete"]) == ({"quiet": 0}, 0, False)
