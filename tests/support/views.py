"""Views for tests, served together with the demo site."""

import asyncio
import gc
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import psutil
from django.contrib.auth import get_user_model, login, logout
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from streams import NewMessage, apublish, apublish_many
from streams.delivery.hub import Hub
from streams.delivery.subscriber import Subscriber, open_streams


async def burst(request: HttpRequest) -> JsonResponse:
    """Publish `n` messages of `bytes` bytes to `channel` from this process."""
    n = int(request.GET.get("n", 1))
    pad = "x" * int(request.GET.get("bytes", 10))
    channel = request.GET.get("channel", "news")
    rows = await apublish_many([NewMessage(channel, {"n": i, "pad": pad}) for i in range(n)])
    return JsonResponse({"first": rows[0].position, "last": rows[-1].position})


@csrf_exempt
async def publish(request: HttpRequest) -> JsonResponse:
    """Publish the lines of the body to `channel`, all at the same time. A single line can have an Idempotency-Key."""
    key = request.headers.get("Idempotency-Key")
    channel, lines = request.GET["channel"], request.body.decode().split("\n")
    rows = await asyncio.gather(*(apublish(channel, line, idempotency_key=key) for line in lines))
    return JsonResponse({"positions": [row.position for row in rows]})


async def process(request: HttpRequest) -> JsonResponse:
    """Return the resources that this server process holds."""
    objects = 0
    if "collect" in request.GET:
        gc.collect()
        await asyncio.sleep(0)
        # Use type(), because isinstance() would evaluate a lazy user with a query, which is forbidden in an event loop.
        counted = (HttpRequest, HttpResponseBase, Subscriber)
        objects = sum(issubclass(type(thing), counted) for thing in gc.get_objects())
    me = psutil.Process()
    hub = Hub.running()
    return JsonResponse(
        {
            "pid": os.getpid(),
            "threads": me.num_threads(),
            "python_threads": sorted(thread.name for thread in threading.enumerate()),
            "tasks": len(asyncio.all_tasks()),
            "rss": me.memory_info().rss,
            "fds": me.num_fds(),
            "streams": open_streams(),
            "objects": objects,
            "subscribers": len(hub.subscribers) if hub else 0,
            "direct": sum(s._send is not None for s in hub.subscribers) if hub else 0,
            "queued_bytes": sum(s._queued_bytes + s._unsent_bytes for s in hub.subscribers) if hub else 0,
            "queued_messages": max((len(s._queue) for s in hub.subscribers), default=0) if hub else 0,
        }
    )


def log_in(request: HttpRequest) -> JsonResponse:
    """Log in as the user named in the query, who is created if necessary."""
    name = request.GET["name"]
    user, _ = get_user_model().objects.get_or_create(username=name, defaults=json.loads(request.GET.get("is", "{}")))
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return JsonResponse({"pk": user.pk})


def log_out(request: HttpRequest) -> JsonResponse:
    logout(request)
    return JsonResponse({})


_queries: list[str] = []


def queries(request: HttpRequest) -> JsonResponse:
    """Return the queries of all threads since the last request. The first request starts the recording."""
    counted = _queries.copy()
    _queries.clear()
    connection_created.connect(_count_queries, dispatch_uid="tests.support.views.queries")
    return JsonResponse({"queries": counted})


def _count_queries(*, connection: Any, **kwargs: Any) -> None:
    if _count not in connection.execute_wrappers:
        connection.execute_wrappers.append(_count)


def _count(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    _queries.append(sql)
    return execute(sql, params, many, context)
