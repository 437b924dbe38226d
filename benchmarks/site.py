"""The measured site: Streams with Django's stock handler, and views that publish and report."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

import streams.asgi

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

application = get_asgi_application()
direct = streams.asgi.get_asgi_application()
direct_way = streams.asgi.get_asgi_application(direct=True, skip_middleware=["project.middleware.StaticFiles"])

from django.contrib import admin  # noqa: E402
from django.contrib.auth import get_user_model, login  # noqa: E402
from django.db import connection, connections  # noqa: E402
from django.db.backends.signals import connection_created  # noqa: E402

from benchmarks.bare import payload  # noqa: E402
from streams import NewMessage, apublish, publish_many  # noqa: E402
from streams.tokens import make_token  # noqa: E402

queries = {"count": 0}


def _count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    queries["count"] += 1
    return execute(sql, params, many, context)


def _watch(connection: Any, **kwargs: Any) -> None:
    if _count not in connection.execute_wrappers:
        connection.execute_wrappers.append(_count)


connection_created.connect(_watch)


async def burst(request: HttpRequest) -> JsonResponse:
    """Publish `n` events from this process: `rate` per second, or as fast as possible if the rate is 0.

    With `channels`, they go to news.0, news.1 and so on in turn.
    """
    n, rate, channels = int(request.GET["n"]), float(request.GET["rate"]), int(request.GET.get("channels", 1))

    async def publish(i: int) -> None:
        await apublish(f"news.{i % channels}" if channels > 1 else "news", payload(i))

    if not rate:
        for start in range(0, n, 100):  # a hundred concurrent publishers, each with one message
            await asyncio.gather(*(publish(i) for i in range(start, min(n, start + 100))))
        return JsonResponse({})
    loop = asyncio.get_running_loop()
    start = loop.time()
    for i in range(n):
        await publish(i)
        await asyncio.sleep(max(0.0, start + (i + 1) / rate - loop.time()))
    return JsonResponse({})


def fill(request: HttpRequest) -> JsonResponse:
    """Publish `n` events in large transactions."""
    n = int(request.GET["n"])
    for start in range(0, n, 1000):
        publish_many([NewMessage("news", payload(i)) for i in range(start, min(n, start + 1000))])
    return JsonResponse({})


def read_rows(request: HttpRequest) -> JsonResponse:
    """Read the messages of `news` with a bare cursor of the database, and return the time that it takes."""
    with connection.cursor() as cursor:
        start = time.perf_counter()
        cursor.execute(
            "SELECT position, channel, event, data FROM streams_message WHERE channel = 'news' ORDER BY position"
        )
        rows = cursor.fetchall()
        seconds = time.perf_counter() - start
    return JsonResponse({"rows": len(rows), "seconds": seconds})


@csrf_exempt
async def publish_one(request: HttpRequest) -> JsonResponse:
    """Publish without authorization or validation of the request: a minimal view that a site could write."""
    message = await apublish("bench", json.loads(request.body)["data"])
    return JsonResponse({"id": message.position}, status=201)


def counted(request: HttpRequest) -> JsonResponse:
    """Return the number of queries that this process has made on all its connections."""
    return JsonResponse({**queries, "connections": len(connections.all(initialized_only=True))})


def log_in(request: HttpRequest) -> HttpResponse:
    user, _ = get_user_model().objects.get_or_create(username="bench")
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return JsonResponse({"pk": user.pk})


def token(request: HttpRequest) -> JsonResponse:
    """Return a token for the channel `private`."""
    return JsonResponse({"token": make_token(read=["private"])})


async def plain(request: HttpRequest) -> StreamingHttpResponse:
    """A plain StreamingHttpResponse for a logged-in user, without Streams."""
    user = await request.auser()  # type: ignore[attr-defined]
    if not user.is_authenticated:
        return StreamingHttpResponse(status=403)
    return await plain_for_all(request)


async def plain_for_all(request: HttpRequest) -> StreamingHttpResponse:
    """A plain StreamingHttpResponse that uses neither the session nor Streams."""

    async def silence() -> AsyncIterator[bytes]:
        yield b":\n"
        await asyncio.Event().wait()

    return StreamingHttpResponse(silence(), content_type="text/event-stream")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("burst/", burst),
    path("fill/", fill),
    path("rows/", read_rows),
    path("queries/", counted),
    path("log-in/", log_in),
    path("plain/", plain),
    path("plain-for-all/", plain_for_all),
    path("token/", token),
    path("events/", include("streams.urls")),
    path("ai/", include("streams.relay.urls")),
    path("api/", include("streams.api.urls")),
    path("publish/", publish_one),
]
