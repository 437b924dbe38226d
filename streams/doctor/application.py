"""Check the site's ASGI application, by a request to it in this process, and the server that runserver starts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.core.management.commands.runserver import Command as Runserver
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string

from streams.doctor.findings import Findings, ok, problem, warning
from streams.private.django import namespaces_of
from streams.redaction import hide

SECONDS = 10.0

# The answer of the stream view to a request without a channel. It needs no database.
EXPECTED = (400, "missing-channel")


def _usual_path() -> str:
    """Return the usual value of ASGI_APPLICATION: asgi.py is next to the URLconf."""
    return f"{settings.ROOT_URLCONF.rpartition('.')[0] or 'config'}.asgi.application"


def application_path() -> str:
    """Return the application as servers expect it on their command line, such as `config.asgi:application`."""
    return ":".join(str(getattr(settings, "ASGI_APPLICATION", None) or _usual_path()).rsplit(".", 1))


def mount_path() -> str | None:
    """Return the path at which streams.urls is mounted, such as `/events/`; None if it is not."""
    for namespace in namespaces_of("streams"):
        try:
            return reverse(f"{namespace}:channels")
        except NoReverseMatch:  # it is below a prefix with parameters
            continue
    return None


def check_application() -> Findings:
    """Import ASGI_APPLICATION, and send it a request for a stream without a channel."""
    dotted = getattr(settings, "ASGI_APPLICATION", None)
    if not dotted:
        yield problem(
            "application",
            "ASGI_APPLICATION is not set. Streams need ASGI.",
            f'Write `ASGI_APPLICATION = "{_usual_path()}"` in the settings, with the path of your `asgi.py`.',
        )
        return
    try:
        application = import_string(dotted)
    except Exception as error:
        yield problem(
            "application",
            f"ASGI_APPLICATION = {dotted!r} cannot be imported. {type(error).__name__}: {hide(str(error))}",
            "Name the `application` of your `asgi.py`. In it, write `from streams.asgi import get_asgi_application` "
            "and `application = get_asgi_application()`.",
        )
        return
    if (path := mount_path()) is None:
        yield warning(
            "application",
            f"{dotted} was imported, but ROOT_URLCONF has no stream of the log at a fixed path.",
            'Write `path("events/", include("streams.urls"))` in the URLconf, unless the site has only views of its '
            "own.",
        )
        return
    yield from _check_answer(dotted, application, path)


def _check_answer(dotted: str, application: Any, path: str) -> Findings:
    try:
        answer, location = asyncio.run(_request(application, path))
    except Exception as error:
        reason = f"within {SECONDS:g} s" if isinstance(error, TimeoutError) else f"({type(error).__name__}: {error})"
        yield problem(
            "application",
            f"{dotted} did not answer a request for {path} {hide(reason)}.",
            f"Check that it is an ASGI application, and start it by hand: `uvicorn {application_path()}`.",
        )
        return
    if answer == EXPECTED:
        yield ok("application", f"{dotted} answers. The streams are at {path}.")
        return
    status, code = answer
    where = f" with a redirect to {hide(location)}" if location else f" ({code})" if code else ""
    yield problem(
        "application",
        f"{dotted} answered a request for {path} with {status}{where}. The request did not reach the stream view, "
        "which answers 400 (missing-channel).",
        "Look for a middleware or a URL pattern that answers instead. --verbosity 2 shows the log.",
    )


async def _request(application: Any, path: str) -> tuple[tuple[int, str], str]:
    """Return the status, the error code in the JSON body, and the Location of the application's answer."""
    host = next((name.lstrip(".") for name in settings.ALLOWED_HOSTS if name != "*"), "localhost")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"host", host.encode()),
            (b"accept", b"text/event-stream"),
            (b"x-forwarded-proto", b"https"),  # SECURE_SSL_REDIRECT would redirect
        ],
        "client": ("127.0.0.1", 1),
        "server": (host, 443),
    }
    status, headers, body = 0, {}, b""
    is_sent = False

    async def receive() -> dict[str, Any]:
        nonlocal is_sent
        if is_sent:
            await asyncio.Event().wait()  # the client stays
        is_sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal status, headers, body
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")

    async with asyncio.timeout(SECONDS):
        await application(scope, receive, send)
    return (status, error_code(body)), headers.get("location", "")


def error_code(body: bytes) -> str:
    """Return the code in an error body of Streams, or "" if it is another body."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return ""


# --- runserver --------------------------------------------------------------------------------------------------------


def check_runserver() -> Findings:
    """Check that `manage.py runserver` would serve ASGI."""
    found = get_commands()["runserver"]
    command = type(load_command_class(found, "runserver") if isinstance(found, str) else found)
    # Django's own method starts a WSGI server. Packages that serve ASGI replace it.
    owner = next((base for base in command.__mro__ if "inner_run" in vars(base)), command)
    if owner is Runserver:
        yield warning(
            "runserver",
            "`manage.py runserver` serves WSGI, under which every stream is answered with 500 (asgi-required).",
            'Install daphne, and write "daphne" as the first of INSTALLED_APPS. Or develop with '
            f"`uvicorn {application_path()} --reload`.",
        )
    else:
        yield ok("runserver", f"`manage.py runserver` is the command of {owner.__module__.partition('.')[0]}.")
