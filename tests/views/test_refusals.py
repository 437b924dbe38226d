"""Requests that get an error: bad or too many channels, no permission, too many streams."""

from __future__ import annotations

import gc
from urllib.parse import unquote_to_bytes

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError
from django.http import HttpRequest
from django.test import AsyncClient, Client, override_settings

from streams import apublish
from streams.delivery.hub import Hub
from streams.delivery.subscriber import open_streams
from streams.policies import BasePolicy, DefaultPolicy
from streams.views import EventStreamView
from tests.views.support import PUBLIC, Opening, by_asgi, message, refusal, without_access_rules

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.views.urls"),
    pytest.mark.usefixtures("public_channels"),
]


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
async def test_bad_channel_is_refused(opening: Opening, quoted: str, channel: str) -> None:
    """The error names the rule and the value."""
    text = f"Channel names use A-Z a-z 0-9 . _ - and at most 99 characters; got {channel!r}."
    async with opening(f"/events/{quoted}/") as answer:
        assert await refusal(answer) == (400, "invalid-channel", text)
    async with opening(f"/events/?channel=good&channel={quoted}") as answer:
        assert await refusal(answer) == (400, "invalid-channel", text)


async def test_channel_beyond_ascii_is_refused() -> None:
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


async def test_missing_channel_is_refused(opening: Opening) -> None:
    async with opening("/events/") as answer:
        assert await refusal(answer) == (
            400,
            "missing-channel",
            "Name the channels to read, as in ?channel=news&channel=weather.",
        )


async def test_too_many_channels_are_refused(opening: Opening) -> None:
    fifty = "&".join(f"channel=c{number}" for number in range(50))
    async with opening(f"/events/?{fifty}&channel=c0") as stream:
        assert stream.status == 200, "a repeated channel counts once"
    async with opening(f"/events/?{fifty}&channel=one-more") as answer:
        assert await refusal(answer) == (
            400,
            "too-many-channels",
            "A stream has at most 50 channels (STREAMS['MAX_CHANNELS_PER_STREAM']); got 51.",
        )


@override_settings(STREAMS={**PUBLIC, "MAX_CHANNELS_PER_STREAM": 1})
async def test_channels_are_bounded_by_setting(opening: Opening) -> None:
    async with opening("/events/?channel=a&channel=b") as answer:
        assert (await refusal(answer))[:2] == (400, "too-many-channels")


async def test_slash_in_channel_matches_no_url(opening: Opening) -> None:
    for quoted in ("a%2Fb", "a%2F", "..%2Fadmin"):
        async with opening(f"/events/{quoted}/") as answer:
            assert answer.status == 404


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_dots_are_ordinary_channel_names(opening: Opening) -> None:
    """`..` in a path is an ordinary channel name, and opens no other URL."""
    for quoted in ("..", "%2e%2e", ".", "..."):
        async with opening(f"/events/{quoted}/") as answer:
            status, code, text = await refusal(answer)
            assert (status, code) == (403, "forbidden")
            assert text.startswith(f"You do not have permission to read {unquote_to_bytes(quoted).decode()}. ")


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_refused_channel_is_named(opening: Opening) -> None:
    async with opening("/events/?channel=news&channel=secret&channel=user.7") as answer:
        assert await refusal(answer) == (
            403,
            "forbidden",
            "You do not have permission to read secret, user.7. To open a channel to everyone, add it to "
            "STREAMS['PUBLIC_CHANNELS'] (patterns such as 'score.*' match too), or choose its readers in the admin. "
            "For other rules, set STREAMS['POLICY'].",
        )
    assert Hub.running() is None


class PolicyWithoutADatabase(BasePolicy):
    """A policy that queries a database that does not answer."""

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        raise OperationalError("the server at db.example does not answer")


@override_settings(STREAMS={"POLICY": f"{__name__}.PolicyWithoutADatabase"})
async def test_undecided_policy_asks_client_to_retry(opening: Opening) -> None:
    async with opening("/events/news/") as answer:
        status, code, text = await refusal(answer)
        assert (status, code) == (503, "undecided")
        assert text.endswith("The database does not answer. Try again later.")
        assert "db.example" not in text
        assert int(answer.headers["retry-after"]) > 0
    assert Hub.running() is None


async def test_subclass_chooses_its_policy(opening: Opening) -> None:
    async with opening("/own-policy/news/") as answer:
        assert await refusal(answer) == (403, "forbidden", "You do not have permission to read news.")


def test_default_policy_is_used_otherwise() -> None:
    assert type(EventStreamView().get_policy()) is DefaultPolicy


@override_settings(STREAMS={"PUBLIC_CHANNELS": []})
async def test_session_opens_users_own_channel() -> None:
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


async def test_public_channel_needs_no_session_query(queries: list[str]) -> None:
    user = await get_user_model().objects.acreate(username="one")
    client = AsyncClient()
    await client.aforce_login(user)
    queries.clear()
    async with by_asgi("/events/news/", headers={"cookie": f"sessionid={client.cookies['sessionid'].value}"}) as stream:
        await stream.take(1)
    assert queries, "the log was read"
    assert [sql for sql in queries if "django_session" in sql or "auth_user" in sql] == []


@override_settings(STREAMS={"PUBLIC_CHANNELS": []})
async def test_refused_stream_reads_no_log(queries: list[str]) -> None:
    async with by_asgi("/events/news/") as answer:
        assert answer.status == 403
    assert without_access_rules(queries) == []


async def test_excess_stream_waits_for_another() -> None:
    gc.collect()  # remove the streams of other tests, whose event loops are closed
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


def test_stream_under_wsgi_is_refused() -> None:
    answer = Client().get("/events/news/")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "asgi-required"
    assert "Serve the site's `asgi.application` with daphne" in answer.json()["error"]["message"]
