"""Health checks for load balancers and containers: `path("health/", include("streams.health"))`.

`health/live` answers if the process runs. `health/ready` answers 200 if the process can serve requests, and 503 if not.
They need no credentials, and not Django REST framework. `api/health/…` of the HTTP API are the same checks.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from django.apps import apps
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import TooManyFieldsSent
from django.db import Error, connections, router
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from streams.exceptions import HTTPError, too_many_parameters
from streams.http.json_responses import error_response, json_response
from streams.presence import counter
from streams.runtime import executor, failures
from streams.runtime.database import non_atomic_requests

logger = logging.getLogger("streams")

DATABASE_SECONDS = 5.0
RETRY_AFTER_SECONDS = 5
ALLOWED = "GET, HEAD, OPTIONS"
NOTIFIER = "notifier"

AsyncView = Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]]


def _check(function: AsyncView) -> AsyncView:
    """Make a view that everyone can call with GET and HEAD, and that answers its errors as JSON."""

    @csrf_exempt  # it uses no cookies
    @login_not_required
    @non_atomic_requests
    @functools.wraps(function)
    async def view(request: HttpRequest) -> HttpResponse:
        try:
            if request.method in ("GET", "HEAD"):
                return await function(request)
            if request.method == "OPTIONS":
                return HttpResponse(status=204, headers={"Allow": ALLOWED, "Cache-Control": "no-store"})
            message = f"A health check is read with GET; got {request.method}."
            raise HTTPError(405, "method-not-allowed", message, headers={"Allow": ALLOWED})
        except TooManyFieldsSent:
            return error_response(too_many_parameters())
        except HTTPError as error:
            return error_response(error)

    return view


@_check
async def live(request: HttpRequest) -> HttpResponse:
    """Answer 200: the process is alive."""
    return json_response({"status": "ok"})


@_check
async def ready(request: HttpRequest) -> HttpResponse:
    """Answer 200 if the process can serve requests, or 503. It checks the database and the notifier's listener.

    Without the listener a process polls, so that it is still ready, unless the request has `?require=notifier`.
    """
    required = request.GET.get("require", NOTIFIER)
    if required != NOTIFIER:
        problem = f"The only value is `{NOTIFIER}`; got {required[:100]!r}."
        raise HTTPError(400, "invalid-request", f"require: {problem}", fields={"require": problem})
    now = counter.count()
    problem = now.notifier_problem
    notifier = "degraded" if problem else "idle" if now.head is None else "ok"
    database = await _state_of_database()
    is_ready = database == "ok" and not (problem and "require" in request.GET)
    state = {"status": "ok" if is_ready else "unavailable", "database": database, "notifier": notifier}
    if problem := failures.NOT_MIGRATED if database == "not-migrated" else problem:
        state["problem"] = problem
    if is_ready:
        return json_response(state)
    return json_response(state, 503, [("Retry-After", str(RETRY_AFTER_SECONDS))])


async def _state_of_database() -> str:
    try:
        # In the thread that follows the log, where it does not wait for replays. If the database does not answer, only
        # this thread is blocked, however many requests come. A check that has not begun in time is cancelled.
        await asyncio.wait_for(executor.run(_ask, pool=executor.FOLLOWING), DATABASE_SECONDS)
    except Error as error:
        failures.report(logger, "The process is not ready, because of the database.")
        return "not-migrated" if failures.is_not_migrated(error) else "unavailable"
    except TimeoutError:
        return "unavailable"
    failures.DATABASE.recovered()
    return "ok"


def _ask() -> None:
    _check_tables()
    with connections[executor.database()].cursor() as cursor:
        cursor.execute("SELECT 1")


@functools.cache  # it is not called again after it has succeeded
def _check_tables() -> None:
    """Raise the database's error if a table or a column of Streams is missing."""
    alias = executor.database()
    own = (config for config in apps.get_app_configs() if config.name.partition(".")[0] == "streams")
    for model in (model for config in own for model in config.get_models()):
        if router.db_for_write(model) == alias:
            try:
                model._base_manager.using(alias).order_by().first()  # a query that names all columns
            except Error as error:
                if failures.is_unavailable(error):
                    raise


app_name = "streams_health"

urlpatterns = [
    path("live", live, name="live"),
    path("ready", ready, name="ready"),
]
