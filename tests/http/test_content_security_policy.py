"""A strict Content-Security-Policy, by the middleware of Django 6 and by django-csp: streams and pages have it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import django
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site
from django.contrib.auth.models import User
from django.test import AsyncClient, Client

from streams import apublish
from streams.testing import read_events

pytestmark = pytest.mark.django_db(transaction=True)

POLICY = {"default-src": ["'none'"], "script-src": ["'self'"], "style-src": ["'self'"], "connect-src": ["'self'"]}

PAGES = ["broadcast/", "broadcast/add/", "monitor/?channel=news", "message/", "channelsettings/", "node/"]

# Scripts, except data and those in a file; style elements and attributes; and handlers of events.
INLINE = re.compile(r"<script(?![^>]*(?: src=| type=\"application/json\"))[^>]*>|<style|<[^>]* style=|<[^>]* on[a-z]+=")


# The settings of each implementation that is installed.
IMPLEMENTATIONS: dict[str, dict[str, Any]] = {}
if find_spec("csp"):
    IMPLEMENTATIONS["csp.middleware.CSPMiddleware"] = {"CONTENT_SECURITY_POLICY": {"DIRECTIVES": POLICY}}
if django.VERSION >= (6, 0):
    IMPLEMENTATIONS["django.middleware.csp.ContentSecurityPolicyMiddleware"] = {"SECURE_CSP": POLICY}


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True)
def _policy(request: pytest.FixtureRequest, settings: Any) -> None:
    settings.MIDDLEWARE = [request.param, *site.MIDDLEWARE]
    for name, value in IMPLEMENTATIONS[request.param].items():
        setattr(settings, name, value)


async def test_stream_has_the_policy() -> None:
    response = await AsyncClient().get("/events/news/")
    assert "connect-src 'self'" in response.headers["Content-Security-Policy"]
    await apublish("news", "one")
    assert [event.data for event in await read_events(response, 1)] == ["one"]


def test_admin_pages_have_nothing_inline() -> None:
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    for page in PAGES:
        response = client.get(f"/admin/streams/{page}")
        assert response.status_code == 200
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        assert INLINE.findall(response.text) == [], page


async def test_page_of_the_api_keeps_its_own_policy() -> None:
    response = await sync_to_async(Client().get)("/api/docs/")
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src")
