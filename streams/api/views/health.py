"""Views for load balancers: is the process alive, and is it ready? They need no credentials."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from django.apps import apps
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import SuspiciousOperation
from django.db import Error, connections, router
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.permissions import AllowAny

from streams.api.errors import RETRY_AFTER_SECONDS, handle
from streams.api.openapi import descriptions
from streams.api.openapi.schema import described
from streams.api.views.base import StreamsAPIView
from streams.exceptions import HTTPError
from streams.http.json_responses import json_response
from streams.presence import counter
from streams.runtime import executor, failures
from streams.runtime.database import non_atomic_requests

logger = logging.getLogger("streams.api")

DATABASE_SECONDS = 5.0
ALLOWED = "GET, HEAD, OPTIONS"
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


@csrf_exempt
@login_not_required
@non_atomic_requests
async def live(request: HttpRequest) -> HttpResponse:
    """Answer 200: the process is alive."""
    return _refused(request) or _answer({"status": "ok"})


@csrf_exempt
@login_not_required
@non_atomic_requests
async def ready(request: HttpRequest) -> HttpResponse:
    """Answer 200 if the process can serve requests, or 503. It checks the database and the notifier's listener.

    Without the listener a process polls, so that it is still ready, unless the request has `?require=notifier`.
    """
    if refused := _refused(request):
        return refused
    try:
        required = request.GET.get("require", NOTIFIER)
    except SuspiciousOperation as error:  # more query parameters than Django reads
        return _error(error)
    if required != NOTIFIER:
        problem = f"The only value is `{NOTIFIER}`; got {required[:100]!r}."
        return _error(HTTPError(400, "invalid-request", f"require: {problem}", fields={"require": problem}))
    now = counter.count()
    problem = now.notifier_problem
    notifier = "degraded" if problem else "idle" if now.head is None else "ok"
    database = await _state_of_database()
    is_ready = database == "ok" and not (problem and "require" in request.GET)
    state = {"status": "ok" if is_ready else "unavailable", "database": database, "notifier": notifier}
    problem = failures.NOT_MIGRATED if database == "not-migrated" else problem
    return _answer({**state, **({"problem": problem} if problem else {})}, 200 if is_ready else 503)


live.cls, live.initkwargs = LiveDescription, {}  # type: ignore[attr-defined]  # as DRF's as_view() does
ready.cls, ready.initkwargs = ReadyDescription, {}  # type: ignore[attr-defined]


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
    if not _has_tables:
        _check_tables()
    with connections[executor.database()].cursor() as cursor:
        cursor.execute("SELECT 1")


_has_tables = False  # True once they were found


def _check_tables() -> None:
    """Raise the database's error if a table or a column of Streams is missing."""
    global _has_tables
    connection = connections[executor.database()]
    quote = connection.ops.quote_name
    own = (config for config in apps.get_app_configs() if config.name.partition(".")[0] == "streams")
    for model in (model for config in own for model in config.get_models()):
        if router.db_for_write(model) != connection.alias:
            continue
        table = quote(model._meta.db_table)
        # Qualified by the table's name, because SQLite treats an unknown name in quotes as a string.
        columns = ", ".join(f"{table}.{quote(str(field.column))}" for field in model._meta.concrete_fields)
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT {columns} FROM {table} WHERE 1 = 0")  # noqa: S608 - names of our own models
        except Error as error:
            if failures.is_unavailable(error):
                raise
    _has_tables = True


def _refused(request: HttpRequest) -> HttpResponse | None:
    if request.method in ("GET", "HEAD"):
        return None
    if request.method == "OPTIONS":
        return HttpResponse(status=204, headers={"Allow": ALLOWED})
    return _error(MethodNotAllowed(str(request.method)))


def _error(error: Exception) -> HttpResponse:
    response = handle(error)
    assert response is not None
    response.headers["Allow"] = ALLOWED
    return response


def _answer(state: dict[str, str], status: int = 200) -> HttpResponse:
    retry = [("Retry-After", str(RETRY_AFTER_SECONDS))] if status == 503 else []
    return json_response(state, status, retry)
