"""System checks of the server that a developer starts. docs/reference/checks.md describes each of them.

streams.W008  `manage.py runserver` serves WSGI.
streams.W009  daphne's `runserver` needs ASGI_APPLICATION, which is not set.
streams.W010  ASGI_APPLICATION cannot be imported.

They run if DEBUG is true and in `runserver`. A site in production names its application on the command line of its
server, and uses neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning
from django.utils.module_loading import import_string

from streams.installation.names import asgi_path, usual_asgi_path
from streams.private import runserver


def check_server(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W008 to W010."""
    if not (settings.DEBUG or runserver.is_running()):
        return []
    return [*_protocol(), *_application()]


def _protocol() -> Iterator[CheckMessage]:
    if runserver.serves_wsgi():
        path = asgi_path()
        yield Warning(
            "`manage.py runserver` serves WSGI. Streams need ASGI: it answers them with an error.",
            hint=f"Run `pip install daphne`, put 'daphne' at the top of INSTALLED_APPS, and set ASGI_APPLICATION = "
            f"{path!r}. `manage.py streams_init` shows these changes. If you develop with another ASGI server, for "
            f"example with `uvicorn --reload {':'.join(path.rsplit('.', 1))}`, add streams.W008 to "
            "SILENCED_SYSTEM_CHECKS.",
            id="streams.W008",
        )


def _application() -> Iterator[CheckMessage]:
    path = getattr(settings, "ASGI_APPLICATION", None)
    if path is None:
        if runserver.needs_asgi_application():
            yield Warning(
                "ASGI_APPLICATION is not set. daphne's `runserver` does not start without it.",
                hint=f"Set ASGI_APPLICATION = {usual_asgi_path()!r}, the path of the `application` in the project's "
                "asgi.py. "
                "`manage.py streams_init` shows the changes, also for a project without an asgi.py.",
                id="streams.W009",
            )
        return
    try:
        import_string(path)
    except Exception as error:  # the module is the site's own, and can fail in any way
        yield Warning(
            f"ASGI_APPLICATION = {path!r} cannot be imported: {type(error).__name__}: {error}",
            hint="It must be the path of the `application` in the project's asgi.py, such as "
            f"{usual_asgi_path()!r}. `manage.py streams_init` shows an asgi.py for a project that has none.",
            id="streams.W010",
        )
