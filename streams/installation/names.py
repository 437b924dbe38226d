"""The names of a project's modules, from its settings."""

from __future__ import annotations

from django.conf import settings


def asgi_path() -> str:
    """Return the dotted path of the ASGI application: ASGI_APPLICATION, or else the usual one."""
    path: str | None = getattr(settings, "ASGI_APPLICATION", None)
    return path or usual_asgi_path()


def usual_asgi_path() -> str:
    """Return the path of the application in the asgi.py next to the WSGI module, or else next to the root URLconf."""
    neighbor: str = getattr(settings, "WSGI_APPLICATION", None) or f"{settings.ROOT_URLCONF}.urlpatterns"
    return ".".join([*neighbor.split(".")[:-2], "asgi", "application"])
