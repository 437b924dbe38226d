"""The admin and the relay find the URLs of a site that has included them in namespaces of its own."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import clear_url_caches, include, path, set_urlconf

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _nested() -> Iterator[None]:
    module: Any = ModuleType("urls_of_a_site")
    live = [path("events/", include("streams.urls")), path("ai/", include("streams.relay.urls"))]
    other = [path("ai/", include("streams.relay.urls"))]
    module.urlpatterns = [
        path("live/", include((live, "live"))),
        path("other/", include((other, "other"))),
        path("admin/", admin.site.urls),
    ]
    with override_settings(ROOT_URLCONF=module):
        yield
    set_urlconf(None)
    clear_url_caches()


def test_admin_pages_open_streams_in_nested_namespace() -> None:
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    page = client.get("/admin/streams/monitor/?channel=news").text
    assert '"stream": "/live/events/?channel=news"' in page
    assert "/live/events/" in html.unescape(client.get("/admin/streams/broadcast/add/").text)


@pytest.mark.parametrize("mount", ["live", "other"])
def test_answer_has_the_urls_of_its_own_mount(mount: str, settings: Any) -> None:
    settings.STREAMS = {"RELAY_ACCESS": "streams.relay.access.Everyone", "GENERATION_WORKER": "command"}
    question = {"messages": [{"role": "user", "content": "Hi"}]}
    response = Client().post(f"/{mount}/ai/generations/", json.dumps(question), content_type="application/json")
    assert response.status_code == 201
    answer = response.json()
    for name in ("url", "events_url", "cancel_url", "regenerate_url"):
        assert answer[name].startswith(f"/{mount}/ai/generations/{answer['id']}/")
    assert Client().get(answer["url"]).json()["events_url"].startswith(f"/{mount}/ai/")
