"""Views that only tests use, served beside the demo site."""

import asyncio
import gc
import json
import os
import threading

import psutil
from django.contrib.auth import get_user_model, login
from django.http import HttpRequest, JsonResponse

from streams import NewMessage, apublish_many
from streams.hub import Hub


async def burst(request: HttpRequest) -> JsonResponse:
    """Publish `n` messages of `bytes` bytes to `channel` from this very process."""
    n = int(request.GET.get("n", 1))
    pad = "x" * int(request.GET.get("bytes", 10))
    channel = request.GET.get("channel", "news")
    rows = await apublish_many([NewMessage(channel, {"n": i, "pad": pad}) for i in range(n)])
    return JsonResponse({"first": rows[0].position, "last": rows[-1].position})


async def process(request: HttpRequest) -> JsonResponse:
    """What this server process holds."""
    if "collect" in request.GET:
        gc.collect()
        await asyncio.sleep(0)
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
            "subscribers": len(hub.subscribers) if hub else 0,
            "queued_bytes": sum(s._queued_bytes + s._unsent_bytes for s in hub.subscribers) if hub else 0,
            "queued_messages": max((len(s._queue) for s in hub.subscribers), default=0) if hub else 0,
        }
    )


def log_in(request: HttpRequest) -> JsonResponse:
    """Log in as the user named in the query; made where there is none."""
    name = request.GET["name"]
    user, _ = get_user_model().objects.get_or_create(username=name, defaults=json.loads(request.GET.get("is", "{}")))
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return JsonResponse({"pk": user.pk})
