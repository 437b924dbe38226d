"""A site with LoginRequiredMiddleware: the policy decides about access, and no redirect contains a token."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import AsyncClient, override_settings
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from streams.tokens import make_token

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("_site"),
]


@pytest.fixture
def _site() -> Any:
    middleware = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    with override_settings(MIDDLEWARE=middleware, STREAMS={**settings.STREAMS, "PUBLIC_CHANNELS": ["news"]}):
        yield


async def test_middleware_redirects_other_views() -> None:
    """The other tests of this file would get this redirect if a view were not exempt."""
    response = await AsyncClient().get("/test/process/?token=secret")
    assert response.status_code == 302
    assert "token" in response.headers["Location"]


async def test_anonymous_visitor_reads_a_public_channel() -> None:
    for path in ("/events/news/", "/events/?channel=news"):
        response = await AsyncClient().get(path)
        assert (response.status_code, response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        await response.aclose()


@pytest.mark.parametrize("path", ["/events/job.1/", "/events/?channel=job.1"])
async def test_private_channel_is_refused_without_a_redirect(path: str) -> None:
    response = await AsyncClient().get(path)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "forbidden"


async def test_token_opens_a_stream_and_is_in_no_location() -> None:
    token = make_token(read=["job.1"])
    response = await AsyncClient().get(f"/events/job.1/?token={token}")
    assert response.status_code == 200
    assert "Location" not in response.headers
    await response.aclose()
    refused = await AsyncClient().get(f"/events/job.2/?token={token}")
    assert refused.status_code == 403
    assert "Location" not in refused.headers


async def test_subclass_of_the_site_is_exempt() -> None:
    with override_settings(ROOT_URLCONF="tests.views.urls"):
        response = await AsyncClient().get("/scores/7/")
    assert (response.status_code, response.headers.get("Location")) == (403, None)


async def test_signed_in_user_reads_the_own_channel() -> None:
    user = await User.objects.acreate(username="ann")
    client = AsyncClient()
    await client.aforce_login(user)
    response = await client.get(f"/events/user.{user.pk}/")
    assert response.status_code == 200
    await response.aclose()


def _views(patterns: Any, namespaces: tuple[str, ...] = ()) -> list[tuple[str, URLPattern]]:
    found: list[tuple[str, URLPattern]] = []
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            found += _views(pattern.url_patterns, (*namespaces, *filter(None, [pattern.namespace])))
        else:
            found.append((":".join((*namespaces, pattern.name or "")), pattern))
    return found


OURS = [
    (name, pattern)
    for name, pattern in _views(get_resolver("tests.support.urls").url_patterns)
    if name.partition(":")[0] in ("streams", "streams_api", "streams_relay")
]


def test_views_of_all_three_apps_are_tested() -> None:
    assert {name.partition(":")[0] for name, _ in OURS} == {"streams", "streams_api", "streams_relay"}
    assert len(OURS) >= 20


@pytest.mark.parametrize(("name", "pattern"), OURS, ids=[name for name, _ in OURS])
async def test_no_view_of_ours_redirects(name: str, pattern: URLPattern) -> None:
    url = reverse(name, args=["news" if "stream" in name else "0" * 32] * len(pattern.pattern.converters))
    for method in ("get", "post", "head", "options"):
        response = await getattr(AsyncClient(), method)(f"{url}?token=streams.secret")
        assert response.status_code not in (301, 302), method
        assert "Location" not in response.headers
        if response.streaming:
            await response.aclose()
