"""Views for load balancers: is the process alive, and is it ready? They need no credentials."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

from django.apps import apps
from django.db import Error, connections, router
from django.http import HttpRequest, HttpResponse
from rest_framework.exceptions import ValidationError
from rest_framework.permissions import AllowAny

from streams.api.errors import RETRY_AFTER_SECONDS
from streams.api.openapi import descriptions
from streams.api.openapi.schema import described
from streams.api.views.base import StreamsAPIView, async_view
from streams.http.json_responses import json_response
from streams.presence import counter
from streams.runtime import executor, failures

logger = logging.getLogger("streams.api")

DATABASE_SECONDS = 5.0
NOTIFIER = "notifier"


class _Description(StreamsAPIView):
    authentication_classes: list[Any] = []
    permission_classes = [AllowAny]


class LiveDescription(_Description):
    """Describes live() for the schema."""

    @described(**descriptions.LIVE)
    def get(self, request: Any) -> Any:
        raise NotImplementedError


class ReadyDescription(_Description):
    """Describes ready() for the schema."""

    @described(**descriptions.READY)
    def get(self, request: Any) -> Any:
        raise NotImplementedError


@async_view(LiveDescription, "GET", "HEAD")
async def live(request: HttpRequest) -> HttpResponse:
    """Answer 200: the process is alive."""
    return json_response({"status": "ok"})


@async_view(ReadyDescription, "GET", "HEAD")
async def ready(request: HttpRequest) -> HttpResponse:
    """Answer 200 if the process can serve requests, or 503. It checks the database and the notifier's listener.

    Without the listener a process polls, so that it is still ready, unless the request has `?require=notifier`.
    """
    required = request.GET.get("require", NOTIFIER)
    if required != NOTIFIER:
        raise ValidationError({"require": f"The only value is `{NOTIFIER}`; got {required[:100]!r}."})
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
