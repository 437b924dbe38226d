"""EventStreamView as a client meets it: by Django's AsyncClient, and by the bare ASGI protocol."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.handlers.asgi import ASGIHandler
from django.db import OperationalError, connections
from django.db.backends.utils import CursorWrapper
from django.http import HttpRequest
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path

from streams import NewMessage, apublish, apublish_many, log
from streams.delivery.hub import Hub
from streams.delivery.subscriber import open_streams
from streams.log import retention
from streams.models import Channel, LogHead, Message
from streams.policies import BasePolicy, DefaultPolicy
from streams.protocol.sse import HEARTBEAT, DecodedEvent, EventStreamDecoder
from streams.runtime import executor
from streams.testing import read_events
from streams.views import EventStreamView, _lifetime

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]

SECONDS = 20.0  # a bound for what happens at once

PUBLIC = {"PUBLIC_CHANNELS": ["*"]}


# --- Views of a site's own --------------------------------------------------------------------------------------------


class Scores(EventStreamView):
    """Chooses its channels by the URL, and sends the state first."""

    def get_channels(self, request: HttpRequest, **kwargs: Any) -> Sequence[str]:
        return [f"score.{kwargs['match']}", "score.all"]

    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        users = await get_user_model().objects.acount()
        return {"match": self.kwargs["match"], "channels": channels, "users": users}


class PublishesMeanwhile(EventStreamView):
    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        await apublish(channels[0], "while the snapshot was made")
        return "state\r\nof two lines"


class FailsInItsSnapshot(EventStreamView):
    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        raise ZeroDivisionError("a secret of the site")


class FailsToEncodeItsSnapshot(EventStreamView):
    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        return b"no JSON"


class Short(EventStreamView):
    timeout = 0.3


class Misconfigured(EventStreamView):
    timeout = 0


class OwnCursor(EventStreamView):
    def get_cursor(self, request: HttpRequest) -> str | None:
        return request.GET.get("since")


class OwnPolicy(EventStreamView):
    def get_policy(self) -> BasePolicy:
        return BasePolicy()


urlpatterns = [
    path("events/", include("streams.urls")),
    path("scores/<int:match>/", Scores.as_view()),
    path("meanwhile/<str:channel>/", PublishesMeanwhile.as_view()),
    path("fails/<str:channel>/", FailsInItsSnapshot.as_view()),
    path("unencodable/<str:channel>/", FailsToEncodeItsSnapshot.as_view()),
    path("short/<str:channel>/", Short.as_view()),
    path("misconfigured/<str:channel>/", Misconfigured.as_view()),
    path("own-cursor/<str:channel>/", OwnCursor.as_view()),
    path("own-policy/<str:channel>/", OwnPolicy.as_view()),
]


# --- Clients ----------------------------------------------------------------------------------------------------------


class Opened:
    """An answer, and its body as it comes."""

    def __init__(self, status: int, headers: dict[str, str], chunks: AsyncIterator[bytes]) -> None:
        self.status = status
        self.headers = headers
        self.raw = b""
        self.retry: int | None = None
        self._chunks = chunks
        self._decoder = EventStreamDecoder()
        self._events: list[DecodedEvent] = []

    async def chunk(self) -> bytes:
        """The next piece of the body; b"" at its end."""
        async with asyncio.timeout(SECONDS):
            chunk = await anext(self._chunks, b"")
        self.raw += chunk
        self._events += self._decoder.feed(chunk)
        self.retry = self._decoder.retry_milliseconds
        return chunk

    async def take(self, count: int) -> list[tuple[str, str, str]]:
        """The next events, those of the stream itself too, as (type, id, data); fewer where the stream ends before."""
        async with asyncio.timeout(SECONDS):  # over all: a stream may have nothing but heartbeats
            while len(self._events) < count and await self.chunk():
                pass
        taken, self._events = self._events[:count], self._events[count:]
        return [(event.event, event.id, event.data) for event in taken]

    async def rest(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            while await self.chunk():
                pass
        return self.raw

    async def json(self) -> Any:
        return json.loads(await self.rest())


@asynccontextmanager
async def by_asgi(url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> AsyncIterator[Opened]:
    """One request to Django's ASGI handler, as a server makes it; the client leaves at the end of the block."""
    raw_path, _, query = url.partition("?")
    sent = {"host": "testserver", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(raw_path).decode(),
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
    }
    requests = iter([{"type": "http.request", "body": b"", "more_body": False}])
    gone = asyncio.Event()
    sending: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive() -> dict[str, Any]:
        if (request := next(requests, None)) is not None:
            return request
        await gone.wait()
        return {"type": "http.disconnect"}

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            message = await sending.get()
            assert message["type"] == "http.response.body"
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    serving = asyncio.create_task(ASGIHandler()(scope, receive, sending.put))  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(SECONDS):
            start = await sending.get()
        assert start["type"] == "http.response.start"
        answered = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
        yield Opened(start["status"], answered, chunks())
    finally:
        gone.set()
        async with asyncio.timeout(SECONDS):
            await serving


@asynccontextmanager
async def by_client(url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> AsyncIterator[Opened]:
    """One request by Django's AsyncClient."""
    response = await AsyncClient().generic(method, url, headers=headers)
    sent = {name.lower(): value for name, value in response.headers.items()}
    if response.streaming:
        try:
            yield Opened(response.status_code, sent, aiter(response))
        finally:
            await response.aclose()
    else:

        async def content() -> AsyncIterator[bytes]:
            yield response.content

        yield Opened(response.status_code, sent, content())


Opening = Callable[..., AbstractAsyncContextManager[Opened]]


@pytest.fixture(params=[by_asgi, by_client], ids=["asgi", "client"])
def opening(request: pytest.FixtureRequest) -> Opening:
    """Opens a URL, once by the bare protocol and once by Django's test client."""
    found: Opening = request.param
    return found


@pytest.fixture(autouse=True)
def _public() -> Iterator[None]:
    with override_settings(STREAMS=PUBLIC):
        yield


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SQL that this process executes from now on, in all of its threads."""
    seen: list[str] = []
    execute = CursorWrapper.execute

    def recorded(self: CursorWrapper, sql: str, params: Any = None) -> Any:
        seen.append(sql)
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", recorded)
    return seen


def beside_access_rules(seen: list[str]) -> list[str]:
    """Without the one question that each request asks, and of which a process outside of tests keeps the answer."""
    return [sql for sql in seen if "streams_channelsettings" not in sql]


async def fill(*channels: str) -> None:
    """Publish one message to each of the channels, in order; its data are channel and position."""
    await apublish_many([NewMessage(channel, f"{channel} {at}") for at, channel in enumerate(channels, 1)])


async def prune(**keep: Any) -> None:
    with override_settings(STREAMS={**PUBLIC, **keep}):
        await sync_to_async(retention.prune)()


def checkpoint(position: int) -> tuple[str, str, str]:
    return "stream-checkpoint", str(position), "{}"


def message(position: int, data: str) -> tuple[str, str, str]:
    return "message", str(position), data


# --- One channel ------------------------------------------------------------------------------------------------------


async def test_stream_begins_at_once_with_retry_and_checkpoint_in_one_block(opening: Opening) -> None:
    await fill("news", "other")
    async with opening("/events/news/") as stream:
        assert await stream.chunk() == b"retry: 3000\nevent: stream-checkpoint\nid: 2\ndata: {}\n\n"


@override_settings(STREAMS={**PUBLIC, "RETRY_MILLISECONDS": 250})
async def test_retry_is_the_settings(opening: Opening) -> None:
    async with opening("/events/news/") as stream:
        await stream.take(1)
        assert stream.retry == 250


async def test_answer_has_the_headers_of_an_event_stream(opening: Opening) -> None:
    async with opening("/events/news/") as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-cache, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"
        assert not {"connection", "content-length", "content-encoding", "set-cookie"} & stream.headers.keys()


async def test_live_messages_of_the_channel_come_in_order_and_no_others(opening: Opening) -> None:
    async with opening("/events/news/") as stream:
        assert await stream.take(1) == [checkpoint(0)]
        await apublish("news", "one\ntwo")
        await apublish("other", "not this")
        await apublish("news", {"title": "Grüße"}, event="add")
        assert await stream.take(2) == [message(1, "one\ntwo"), ("add", "3", '{"title":"Grüße"}')]


async def test_what_is_published_after_the_answer_and_before_the_first_byte_is_in_the_stream() -> None:
    async with by_client("/events/news/") as stream:
        await apublish("news", "just after")
        assert await stream.take(2) == [checkpoint(0), message(1, "just after")]


async def test_messages_from_before_are_not_sent_to_a_client_without_a_cursor(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/") as stream:
        await apublish("news", "new")
        assert await stream.take(2) == [checkpoint(2), message(3, "new")]


# --- Cursors ----------------------------------------------------------------------------------------------------------


async def test_replay_goes_on_after_the_last_event_id_and_ends_with_a_checkpoint(opening: Opening) -> None:
    await fill("news", "news", "other", "news", "other")
    async with opening("/events/news/", headers={"Last-Event-ID": "1"}) as stream:
        replayed = [checkpoint(1), message(2, "news 2"), message(4, "news 4"), checkpoint(5)]
        assert await stream.take(4) == replayed
        await apublish("news", "live")
        assert await stream.take(1) == [message(6, "live")]


async def test_cursor_may_stand_in_the_query(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/?last_event_id=1") as stream:
        assert await stream.take(3) == [checkpoint(1), message(2, "news 2"), checkpoint(2)]


async def test_header_comes_before_the_query(opening: Opening) -> None:
    """A browser that reconnects repeats the URL of its first request."""
    await fill("news", "news", "news")
    async with opening("/events/news/?last_event_id=0", headers={"Last-Event-ID": "2"}) as stream:
        assert await stream.take(3) == [checkpoint(2), message(3, "news 3"), checkpoint(3)]


async def test_empty_header_is_none_and_the_query_counts(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/?last_event_id=1", headers={"Last-Event-ID": ""}) as stream:
        assert await stream.take(2) == [checkpoint(1), message(2, "news 2")]


async def test_empty_cursor_in_the_query_is_none(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/?last_event_id=") as stream:
        assert await stream.take(1) == [checkpoint(2)]


async def test_cursor_at_the_head_replays_nothing_and_says_so(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/", headers={"Last-Event-ID": "2"}) as stream:
        assert await stream.take(2) == [checkpoint(2), checkpoint(2)]


async def test_cursor_zero_is_the_beginning_of_the_log(opening: Opening) -> None:
    await fill("news", "other")
    async with opening("/events/news/?last_event_id=0") as stream:
        assert await stream.take(3) == [checkpoint(0), message(1, "news 1"), checkpoint(2)]


async def test_leading_zeros_do_not_change_a_cursor(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/?last_event_id=001") as stream:
        assert await stream.take(2) == [checkpoint(1), message(2, "news 2")]


async def test_subclass_may_take_its_cursor_from_elsewhere(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/own-cursor/news/?since=1&last_event_id=0", headers={"Last-Event-ID": "0"}) as stream:
        assert await stream.take(2) == [checkpoint(1), message(2, "news 2")]


# --- Several channels -------------------------------------------------------------------------------------------------


async def test_several_channels_come_in_log_order_with_one_cursor(opening: Opening) -> None:
    await fill("b", "a", "c", "b", "a")
    async with opening("/events/?channel=a&channel=b", headers={"Last-Event-ID": "1"}) as stream:
        replayed = [checkpoint(1), message(2, "a 2"), message(4, "b 4"), message(5, "a 5"), checkpoint(5)]
        assert await stream.take(5) == replayed
        await fill("c", "b", "a", "b")
        assert await stream.take(3) == [message(7, "b 2"), message(8, "a 3"), message(9, "b 4")]


async def test_channel_that_is_named_twice_comes_once(opening: Opening) -> None:
    async with opening("/events/?channel=a&channel=b&channel=a") as stream:
        await fill("a", "b")
        assert await stream.take(3) == [checkpoint(0), message(1, "a 1"), message(2, "b 2")]


async def test_channel_in_the_path_comes_before_the_querys(opening: Opening) -> None:
    async with opening("/events/a/?channel=b") as stream:
        await fill("b", "a")
        assert await stream.take(2) == [checkpoint(0), message(2, "a 2")]


async def test_subclass_chooses_its_channels(opening: Opening) -> None:
    async with opening("/scores/7/?last_event_id=0") as stream:
        await stream.take(2)
        await fill("score.8", "score.all", "score.7")
        assert await stream.take(2) == [message(2, "score.all 2"), message(3, "score.7 3")]


# --- ?replay=N --------------------------------------------------------------------------------------------------------


async def test_replay_brings_the_newest_messages_first_and_then_a_checkpoint(opening: Opening) -> None:
    await fill("news", "news", "other", "news", "other")
    async with opening("/events/news/?replay=2") as stream:
        assert await stream.take(4) == [checkpoint(1), message(2, "news 2"), message(4, "news 4"), checkpoint(5)]
        await apublish("news", "live")
        assert await stream.take(1) == [message(6, "live")]


async def test_replay_counts_over_all_channels_of_the_stream(opening: Opening) -> None:
    await fill("a", "b", "a", "c", "b")
    async with opening("/events/?channel=a&channel=b&replay=3") as stream:
        assert await stream.take(5) == [
            checkpoint(1),
            message(2, "b 2"),
            message(3, "a 3"),
            message(5, "b 5"),
            checkpoint(5),
        ]


async def test_replay_of_more_than_there_is_brings_what_there_is(opening: Opening) -> None:
    await fill("other", "news")
    async with opening("/events/news/?replay=1000") as stream:
        assert (await stream.take(3))[1:] == [message(2, "news 2"), checkpoint(2)]


async def test_replay_of_an_empty_channel_is_a_checkpoint(opening: Opening) -> None:
    await fill("other")
    async with opening("/events/news/?replay=5") as stream:
        assert await stream.take(2) == [checkpoint(1), checkpoint(1)]


async def test_replay_of_none_brings_none(opening: Opening) -> None:
    await fill("news")
    async with opening("/events/news/?replay=0") as stream:
        await apublish("news", "live")
        assert await stream.take(2) == [checkpoint(1), message(2, "live")]


async def test_replay_is_for_clients_without_a_cursor(opening: Opening) -> None:
    await fill("news", "news", "news")
    async with opening("/events/news/?replay=3", headers={"Last-Event-ID": "2"}) as stream:
        assert await stream.take(3) == [checkpoint(2), message(3, "news 3"), checkpoint(3)]


async def test_replay_of_a_pruned_channel_is_no_gap(opening: Opening) -> None:
    await fill("news", "news", "news")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/news/?replay=3") as stream:
        assert (await stream.take(3))[1:] == [message(3, "news 3"), checkpoint(3)]


async def test_replay_of_a_quiet_and_a_pruned_channel_is_no_gap(opening: Opening) -> None:
    """A client without a cursor has missed nothing, however far its replay reaches back."""
    await fill("quiet", "busy", "busy", "busy")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/?channel=quiet&channel=busy&replay=2") as stream:
        assert await stream.take(4) == [checkpoint(0), message(1, "quiet 1"), message(4, "busy 4"), checkpoint(4)]


@pytest.mark.parametrize("asked", ["-1", "x", "1.5", "", "%D9%A3", "1001", "9" * 5000, "1e2", "%2B1", "0x1", "1%00"])
async def test_bad_replay_is_refused(opening: Opening, asked: str) -> None:
    async with opening(f"/events/news/?replay={asked}") as answer:
        shown = unquote_to_bytes(asked).decode()[:100]
        assert (answer.status, await answer.json()) == (
            400,
            {
                "error": {
                    "code": "invalid-replay",
                    "message": "replay is a whole number from 0 to 1000 (STREAMS['MAX_REPLAY_MESSAGES']); "
                    f"got {shown!r}.",
                }
            },
        )


@override_settings(STREAMS={**PUBLIC, "MAX_REPLAY_MESSAGES": 2})
async def test_replay_is_bounded_by_the_setting(opening: Opening) -> None:
    async with opening("/events/news/?replay=2") as stream:
        assert stream.status == 200
    async with opening("/events/news/?replay=3") as answer:
        assert answer.status == 400


# --- Refusals ---------------------------------------------------------------------------------------------------------


async def refusal(opened: Opened) -> tuple[int, str, str]:
    """Status, code and message of an answer in the one shape that all refusals have."""
    body = await opened.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message"]
    assert opened.headers["content-type"] == "application/json"
    assert opened.headers["cache-control"] == "no-store", "a refusal that was cached would outlive its reason"
    return opened.status, body["error"]["code"], body["error"]["message"]


@pytest.mark.parametrize(
    ("quoted", "channel"),
    [
        ("news%20room", "news room"),
        ("news%0A", "news\n"),
        ("news%00", "news\0"),
        ("a%5Cb", "a\\b"),
        ("a%252Fb", "a%2Fb"),
        ("a*", "a*"),
        ("x" * 100, "x" * 100),
    ],
)
async def test_bad_channel_is_refused_with_the_rule_and_the_value(opening: Opening, quoted: str, channel: str) -> None:
    text = f"Channel names use A-Z a-z 0-9 . _ - and at most 99 characters; got {channel!r}."
    async with opening(f"/events/{quoted}/") as answer:
        assert await refusal(answer) == (400, "invalid-channel", text)
    async with opening(f"/events/?channel=good&channel={quoted}") as answer:
        assert await refusal(answer) == (400, "invalid-channel", text)


async def test_channel_of_letters_beyond_ascii_is_refused() -> None:
    async with by_asgi("/events/n%C3%A9ws/") as answer:
        status, code, text = await refusal(answer)
        assert (status, code) == (400, "invalid-channel")
        assert text.endswith("got 'néws'.")


async def test_longest_channel_is_streamed(opening: Opening) -> None:
    async with opening(f"/events/{'x' * 99}/") as stream:
        assert stream.status == 200


async def test_empty_channel_is_refused(opening: Opening) -> None:
    async with opening("/events/?channel=") as answer:
        assert (await refusal(answer))[:2] == (400, "invalid-channel")


async def test_missing_channel_is_refused_with_the_remedy(opening: Opening) -> None:
    async with opening("/events/") as answer:
        assert await refusal(answer) == (
            400,
            "missing-channel",
            "Name the channels to read, as in ?channel=news&channel=weather.",
        )


async def test_too_many_channels_are_refused(opening: Opening) -> None:
    most = "&".join(f"channel=c{number}" for number in range(50))
    async with opening(f"/events/?{most}&channel=c0") as stream:
        assert stream.status == 200, "each counts once"
    async with opening(f"/events/?{most}&channel=one-more") as answer:
        assert await refusal(answer) == (
            400,
            "too-many-channels",
            "A stream has at most 50 channels (STREAMS['MAX_CHANNELS_PER_STREAM']); got 51.",
        )


@override_settings(STREAMS={**PUBLIC, "MAX_CHANNELS_PER_STREAM": 1})
async def test_number_of_channels_is_bounded_by_the_setting(opening: Opening) -> None:
    async with opening("/events/?channel=a&channel=b") as answer:
        assert (await refusal(answer))[:2] == (400, "too-many-channels")


async def test_slash_in_a_channel_matches_no_url(opening: Opening) -> None:
    for quoted in ("a%2Fb", "a%2F", "..%2Fadmin"):
        async with opening(f"/events/{quoted}/") as answer:
            assert answer.status == 404


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_dots_in_a_path_are_a_name_like_any_other_and_lead_nowhere(opening: Opening) -> None:
    for quoted in ("..", "%2e%2e", ".", "..."):
        async with opening(f"/events/{quoted}/") as answer:
            status, code, text = await refusal(answer)
            assert (status, code) == (403, "forbidden")
            assert text.startswith(f"You may not read {unquote_to_bytes(quoted).decode()}. ")


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_refused_channel_is_named_and_the_remedy_too(opening: Opening) -> None:
    async with opening("/events/?channel=news&channel=secret&channel=user.7") as answer:
        assert await refusal(answer) == (
            403,
            "forbidden",
            "You may not read secret, user.7. To open a channel to everyone, add it to STREAMS['PUBLIC_CHANNELS'] "
            "(patterns such as 'score.*' match too), or say in the admin who may read it; to decide otherwise, set "
            "STREAMS['POLICY'].",
        )
    assert Hub.running() is None


class PolicyWithoutADatabase(BasePolicy):
    """Asks a database that does not answer."""

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        raise OperationalError("the server at db.example does not answer")


@override_settings(STREAMS={"POLICY": f"{__name__}.PolicyWithoutADatabase"})
async def test_where_the_policy_cannot_decide_the_client_is_told_to_come_back(opening: Opening) -> None:
    async with opening("/events/news/") as answer:
        status, code, text = await refusal(answer)
        assert (status, code) == (503, "undecided")
        assert text.endswith("The database does not answer. Try again later.")
        assert "db.example" not in text
        assert int(answer.headers["retry-after"]) > 0
    assert Hub.running() is None


async def test_subclass_may_have_a_policy_of_its_own(opening: Opening) -> None:
    async with opening("/own-policy/news/") as answer:
        assert await refusal(answer) == (403, "forbidden", "You may not read news.")


@override_settings(STREAMS={"PUBLIC_CHANNELS": []})
async def test_session_opens_the_users_own_channel() -> None:
    user = await get_user_model().objects.acreate(username="one")
    client = AsyncClient()
    await client.aforce_login(user)
    cookie = {"cookie": f"sessionid={client.cookies['sessionid'].value}"}
    async with by_asgi(f"/events/user.{user.pk}/", headers=cookie) as stream:
        await apublish(f"user.{user.pk}", "for you")
        assert (await stream.take(2))[1] == message(1, "for you")
    async with by_asgi(f"/events/user.{user.pk + 1}/", headers=cookie) as answer:
        assert answer.status == 403
    async with by_asgi(f"/events/user.{user.pk}/") as answer:
        assert answer.status == 403


async def test_public_channel_costs_no_query_for_session_and_user(queries: list[str]) -> None:
    user = await get_user_model().objects.acreate(username="one")
    client = AsyncClient()
    await client.aforce_login(user)
    queries.clear()
    async with by_asgi("/events/news/", headers={"cookie": f"sessionid={client.cookies['sessionid'].value}"}) as stream:
        await stream.take(1)
    assert queries, "the log was read"
    assert [sql for sql in queries if "django_session" in sql or "auth_user" in sql] == []


@override_settings(STREAMS={"PUBLIC_CHANNELS": []})
async def test_refused_stream_reads_nothing_of_the_log(queries: list[str]) -> None:
    async with by_asgi("/events/news/") as answer:
        assert answer.status == 403
    assert beside_access_rules(queries) == []


async def test_one_stream_too_many_is_refused_until_another_ends() -> None:
    gc.collect()  # the streams of other tests, whose event loops have gone
    limit = open_streams() + 2
    with override_settings(STREAMS={**PUBLIC, "MAX_STREAMS_PER_PROCESS": limit}):
        async with by_asgi("/events/news/") as first:
            await first.take(1)
            async with by_asgi("/events/news/") as second:
                assert second.status == 200
                async with by_asgi("/events/news/") as third:
                    assert await refusal(third) == (
                        429,
                        "too-many-streams",
                        f"This process serves its {limit} streams (STREAMS['MAX_STREAMS_PER_PROCESS']). "
                        "Try again later.",
                    )
                    assert int(third.headers["retry-after"]) > 0
            async with by_asgi("/events/news/") as again:
                assert again.status == 200


def test_stream_under_wsgi_is_refused_at_once_with_the_remedy() -> None:
    answer = Client().get("/events/news/")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "asgi-required"
    assert "Serve the site's `asgi.application` with daphne" in answer.json()["error"]["message"]


# --- Other methods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
@pytest.mark.parametrize("url", ["/events/news/", "/events/?channel=news"])
async def test_other_methods_are_refused_and_told_which_there_are(opening: Opening, method: str, url: str) -> None:
    token = "t" * 32  # without one, CsrfViewMiddleware refuses unsafe methods before the view is asked
    async with opening(url, method=method, headers={"cookie": f"csrftoken={token}", "x-csrftoken": token}) as answer:
        assert await refusal(answer) == (405, "method-not-allowed", f"A stream is read with GET; got {method}.")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_options_answers_with_the_methods(opening: Opening) -> None:
    async with opening("/events/news/", method="OPTIONS") as answer:
        assert answer.status == 200
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
        assert await answer.rest() == b""
    assert Hub.running() is None


async def test_head_says_what_get_would_and_opens_no_stream(opening: Opening, queries: list[str]) -> None:
    gc.collect()  # the streams of other tests, whose event loops have gone
    before = open_streams()
    async with opening("/events/news/", method="HEAD") as answer:
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        assert await answer.rest() == b""
    assert open_streams() == before
    assert Hub.running() is None
    assert beside_access_rules(queries) == []


@override_settings(STREAMS={"PUBLIC_CHANNELS": []})
async def test_head_is_refused_as_get_is(opening: Opening) -> None:
    for url, status in (("/events/news/", 403), ("/events/", 400), ("/events/a*/", 400)):
        async with opening(url, method="HEAD") as answer:
            assert answer.status == status
            assert await answer.rest() == b""


# --- Gaps -------------------------------------------------------------------------------------------------------------


def reset(reason: str, requested: str, *, id: int, earliest: int | None, head: int) -> tuple[str, str, Any]:
    return "stream-reset", str(id), {"reason": reason, "requested": requested, "earliest": earliest, "head": head}


async def take_reset(stream: Opened) -> tuple[str, str, Any]:
    [(event, id, data)] = await stream.take(1)
    return event, id, json.loads(data)


async def test_pruned_history_is_told_first_and_then_comes_what_is_retained(opening: Opening) -> None:
    await fill("news", "news", "news", "other", "news")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=2)
    async with opening("/events/news/", headers={"Last-Event-ID": "1"}) as stream:
        assert await take_reset(stream) == reset("pruned", "1", id=1, earliest=3, head=5)
        assert stream.raw.startswith(b"retry: 3000\nevent: stream-reset\n")
        assert await stream.take(3) == [message(3, "news 3"), message(5, "news 5"), checkpoint(5)]
        await apublish("news", "live")
        assert await stream.take(1) == [message(6, "live")]


async def test_history_that_was_pruned_to_the_end_has_no_earliest(opening: Opening) -> None:
    await fill("news", "other", "news", "other")
    await asyncio.sleep(0.005)  # SQLite's clock counts milliseconds
    await prune(RETENTION_SECONDS=0.000001)
    async with opening("/events/news/", headers={"Last-Event-ID": "1"}) as stream:
        assert await take_reset(stream) == reset("pruned", "1", id=1, earliest=None, head=4)
        assert await stream.take(1) == [checkpoint(4)]


@pytest.mark.parametrize("window", [1, 2000], ids=["from the log", "from the window"])
async def test_cursor_at_the_newest_pruned_message_has_missed_nothing(opening: Opening, window: int) -> None:
    await fill("news", "news", "news", "news")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=2)
    with override_settings(STREAMS={**PUBLIC, "WINDOW_MESSAGES": window}):
        async with opening("/events/news/", headers={"Last-Event-ID": "2"}) as stream:
            replayed = [checkpoint(2), message(3, "news 3"), message(4, "news 4"), checkpoint(4)]
            assert await stream.take(4) == replayed


async def test_one_pruned_channel_of_several_is_a_gap(opening: Opening) -> None:
    await fill("busy", "quiet", "busy", "busy")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/?channel=quiet&channel=busy", headers={"Last-Event-ID": "1"}) as stream:
        assert await take_reset(stream) == reset("pruned", "1", id=1, earliest=2, head=4)
        assert await stream.take(3) == [message(2, "quiet 2"), message(4, "busy 4"), checkpoint(4)]


async def test_quiet_channel_with_an_old_cursor_gives_no_false_reset(opening: Opening) -> None:
    await fill("quiet", "busy", "busy", "busy", "quiet", "busy")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=2)
    async with opening("/events/quiet/", headers={"Last-Event-ID": "1"}) as stream:
        assert await stream.take(3) == [checkpoint(1), message(5, "quiet 5"), checkpoint(6)]


async def test_channel_that_never_had_a_message_gives_no_false_reset(opening: Opening) -> None:
    await fill("busy", "busy", "busy")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/empty/?last_event_id=0") as stream:
        assert await stream.take(2) == [checkpoint(0), checkpoint(3)]


async def test_forgotten_channels_give_others_no_false_reset(opening: Opening) -> None:
    await fill("news", *(f"once.{n}" for n in range(9)), "news")
    await sync_to_async(log.delete_through)(10, spared=["news"], limit=100)
    await sync_to_async(log.forget_pruned_channels)(keep=0)
    async with opening("/events/news/", headers={"Last-Event-ID": "4"}) as stream:
        assert await stream.take(3) == [checkpoint(4), message(11, "news 11"), checkpoint(11)]
    async with opening("/events/once.2/", headers={"Last-Event-ID": "2"}) as stream:
        assert await take_reset(stream) == reset("pruned", "2", id=2, earliest=None, head=11)


async def test_client_that_was_told_of_a_gap_is_not_told_again_when_it_comes_back(opening: Opening) -> None:
    await fill("news", "news", "news")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/news/", headers={"Last-Event-ID": "1"}) as stream:
        assert (await stream.take(3))[0][0] == "stream-reset"
    async with opening("/events/news/", headers={"Last-Event-ID": "3"}) as stream:
        assert await stream.take(2) == [checkpoint(3), checkpoint(3)]


# int() refuses more than 4,300 digits, and no database has a column for 20.
@pytest.mark.parametrize(
    "requested",
    ["3", "1000", "9" * 18, "9" * 19, "9" * 20, "9" * 5000],
    ids=lambda requested: f"{len(requested)} digits",
)
async def test_id_above_the_head_is_of_another_log(opening: Opening, requested: str) -> None:
    await fill("news", "other")
    async with opening("/events/news/", headers={"Last-Event-ID": requested}) as stream:
        assert await take_reset(stream) == reset("unknown-id", requested[:100], id=0, earliest=1, head=2)
        assert await stream.take(2) == [message(1, "news 1"), checkpoint(2)]
        await apublish("news", "live")
        assert await stream.take(1) == [message(3, "live")]


def empty_the_log() -> None:
    for model in (Message, LogHead, Channel):
        model.objects.all().delete()


async def test_log_that_is_replaced_beneath_an_open_stream_is_another_log(opening: Opening) -> None:
    await fill("news", "other", "news")
    async with opening("/events/news/", headers={"Last-Event-ID": "0"}) as stream:
        assert await stream.take(4) == [checkpoint(0), message(1, "news 1"), message(3, "news 3"), checkpoint(3)]
        await executor.run(empty_the_log)
        await fill("news", "news")
        assert await take_reset(stream) == reset("unknown-id", "3", id=0, earliest=1, head=2)
        assert await stream.take(2) == [message(1, "news 1"), message(2, "news 2")]
        await apublish("news", "live")
        assert (await stream.take(1))[0] in (message(3, "live"), checkpoint(2))


async def test_id_for_an_empty_log_is_unknown(opening: Opening) -> None:
    async with opening("/events/news/", headers={"Last-Event-ID": "7"}) as stream:
        assert await take_reset(stream) == reset("unknown-id", "7", id=0, earliest=None, head=0)
        assert await stream.take(1) == [checkpoint(0)]


async def test_unknown_id_after_a_pruning_is_told_once(opening: Opening) -> None:
    await fill("news", "news", "news")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/news/", headers={"Last-Event-ID": "9"}) as stream:
        assert await take_reset(stream) == reset("unknown-id", "9", id=0, earliest=3, head=3)
        assert await stream.take(2) == [message(3, "news 3"), checkpoint(3)]


@pytest.mark.parametrize(
    "requested",
    [
        "abc",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x1",
        "1_000",
        "1 2",
        "null",
        "undefined",
        "1;2",
        "²",
        "٣",
        "１",
        "x" * 150,
        "1\0",
    ],
    ids=ascii,
)
async def test_malformed_id_is_told_first_and_then_comes_what_is_retained(opening: Opening, requested: str) -> None:
    await fill("news", "other")
    quoted = "".join(f"%{byte:02X}" for byte in requested.encode())
    async with opening(f"/events/news/?last_event_id={quoted}") as stream:
        assert stream.status == 200, "an EventSource gives up for good at any other"
        assert await take_reset(stream) == reset("malformed-id", requested[:100], id=0, earliest=1, head=2)
        assert await stream.take(2) == [message(1, "news 1"), checkpoint(2)]


async def test_malformed_id_in_the_header_is_told_too(opening: Opening) -> None:
    async with opening("/events/news/", headers={"Last-Event-ID": "caf\xe9"}) as stream:
        event, id, told = await take_reset(stream)
        assert (event, id, told["reason"]) == ("stream-reset", "0", "malformed-id")


@pytest.mark.parametrize("padded", ["1  ", " 1", "\t1 \t"], ids=ascii)
async def test_whitespace_around_an_id_is_ignored(opening: Opening, padded: str) -> None:
    """It does not belong to a header's value (RFC 9110, section 5.5), and not all servers remove it."""
    await fill("news", "news")
    quoted = padded.replace(" ", "%20").replace("\t", "%09")
    for url, headers in (("/events/news/", {"Last-Event-ID": padded}), (f"/events/news/?last_event_id={quoted}", {})):
        async with opening(url, headers=headers) as stream:
            assert await stream.take(3) == [checkpoint(1), message(2, "news 2"), checkpoint(2)]


async def test_blank_header_leaves_the_cursor_to_the_query(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/?last_event_id=1", headers={"Last-Event-ID": "  "}) as stream:
        assert await stream.take(3) == [checkpoint(1), message(2, "news 2"), checkpoint(2)]


# --- Snapshots --------------------------------------------------------------------------------------------------------


async def test_snapshot_comes_first_on_a_fresh_connect_in_place_of_history(opening: Opening) -> None:
    await fill("score.7", "score.all")
    async with opening("/scores/7/?replay=5") as stream:
        state = '{"match":7,"channels":["score.7","score.all"],"users":0}'
        assert (await stream.take(2)) == [checkpoint(2), ("stream-snapshot", "2", state)]
        await fill("score.7")
        live = await stream.take(2)
        assert [event for event in live if event[0] == "message"] == [message(3, "score.7 1")]


async def test_snapshot_takes_the_place_of_history_after_a_reset(opening: Opening) -> None:
    await fill("score.7", "score.7", "score.7")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=2)
    for last_id, reason in (("0", "pruned"), ("9", "unknown-id"), ("x", "malformed-id")):
        async with opening("/scores/7/", headers={"Last-Event-ID": last_id}) as stream:
            assert await take_reset(stream) == reset(reason, last_id, id=3, earliest=2, head=3)
            [(event, id, _), end] = await stream.take(2)
            assert (event, id) == ("stream-snapshot", "3")
            assert end == checkpoint(3)


async def test_client_that_can_be_replayed_gets_no_snapshot(opening: Opening) -> None:
    await fill("score.7", "score.all")
    async with opening("/scores/7/", headers={"Last-Event-ID": "1"}) as stream:
        assert await stream.take(3) == [checkpoint(1), message(2, "score.all 2"), checkpoint(2)]


async def test_what_is_published_while_the_snapshot_is_made_comes_after_it(opening: Opening) -> None:
    async with opening("/meanwhile/news/") as stream:
        assert await stream.take(3) == [
            checkpoint(0),
            ("stream-snapshot", "0", "state\nof two lines"),
            message(1, "while the snapshot was made"),
        ]


@pytest.mark.parametrize("url", ["/fails/news/", "/unencodable/news/"])
@pytest.mark.parametrize("last_event_id", ["", "x"])
async def test_snapshot_that_fails_is_logged_and_told_without_details(
    opening: Opening, url: str, last_event_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opening(url, headers={"Last-Event-ID": last_event_id}) as stream:
        assert stream.status == 200
        [(event, _, data)] = await stream.take(1)
        assert (event, json.loads(data)["code"]) == ("stream-error", "internal")
        assert await stream.take(1) == [], "the stream ends"
        assert b"secret" not in stream.raw
        assert b"bytes" not in stream.raw
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "get_snapshot" in str(record.exc_text) or "encode_data" in str(record.exc_text)


# --- Time -------------------------------------------------------------------------------------------------------------


async def test_timeout_ends_the_stream(opening: Opening) -> None:
    async with opening("/short/news/") as stream:
        assert await stream.take(1) == [checkpoint(0)]
        assert b"stream-error" not in await stream.rest()


@override_settings(STREAMS={**PUBLIC, "MAX_STREAM_SECONDS": 0.3})
async def test_no_stream_lasts_longer_than_the_site_allows(opening: Opening) -> None:
    async with opening("/events/news/") as stream:
        assert await stream.take(1) == [checkpoint(0)]
        assert b"stream-error" not in await stream.rest()


@override_settings(STREAMS={"MAX_STREAM_SECONDS": 100})
def test_streams_that_came_together_end_at_different_times() -> None:
    ends = [_lifetime(None) for _ in range(1000)]
    assert all(80 <= end <= 100 for end in ends if end is not None)
    assert min(filter(None, ends)) < 82
    assert max(filter(None, ends)) > 98
    assert _lifetime(10) == 10


@override_settings(STREAMS={**PUBLIC, "HEARTBEAT_SECONDS": 0.1})
async def test_quiet_stream_has_heartbeats_of_one_line(opening: Opening) -> None:
    async with opening("/events/news/") as stream:
        await stream.take(1)
        assert [await stream.chunk() for _ in range(3)] == [HEARTBEAT] * 3


@override_settings(STREAMS={**PUBLIC, "HEARTBEAT_SECONDS": 0.1})
async def test_heartbeat_moves_the_cursor_of_a_quiet_channel_while_others_are_busy(opening: Opening) -> None:
    async with opening("/events/quiet/") as stream:
        assert await stream.take(1) == [checkpoint(0)]
        await fill("busy", "busy")
        assert await stream.take(1) == [checkpoint(2)]
        assert await stream.chunk() == HEARTBEAT, "said once"
        await fill("busy", "quiet", "busy")
        assert await stream.take(2) == [message(4, "quiet 2"), checkpoint(5)]


# --- Transactions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["/events/news/", "/events/?channel=news", "/own-cursor/news/"])
async def test_atomic_requests_leave_streams_alone(
    opening: Opening, url: str, monkeypatch: pytest.MonkeyPatch, queries: list[str]
) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    async with opening(url) as stream:
        assert stream.status == 200
        await apublish("news", "hello")
        assert await stream.take(2) == [checkpoint(0), message(1, "hello")]


# --- Leaving ----------------------------------------------------------------------------------------------------------


async def test_client_that_leaves_leaves_nothing_behind() -> None:
    gc.collect()  # the streams of other tests, whose event loops have gone
    before = open_streams()
    async with by_asgi("/events/news/") as stream:
        await stream.take(1)
        assert open_streams() == before + 1
        assert Hub.running() is not None
    assert open_streams() == before
    assert Hub.running() is None


async def test_view_that_fails_to_make_its_response_leaves_no_stream_open() -> None:
    async with by_asgi("/misconfigured/news/") as answer:
        assert answer.status == 500
    assert Hub.running() is None


async def test_stream_that_a_test_has_read_is_closed() -> None:
    """What streams.testing.read_events promises: a hub that went on would poll while other tests run."""
    response = await AsyncClient().get("/events/news/")
    await apublish("news", "hello")
    assert [event.data for event in await read_events(response, 1)] == ["hello"]
    assert Hub.running() is None


def test_default_policy_is_asked_where_a_view_names_none() -> None:
    assert type(EventStreamView().get_policy()) is DefaultPolicy
