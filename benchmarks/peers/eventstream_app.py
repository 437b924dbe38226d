"""The measured site with django-eventstream: settings, URLs and application. It stores its events in SQLite."""

from __future__ import annotations

import os
import time

SECRET_KEY = "bench"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = __name__
# The demo site's middleware that a stream with a user needs. It has no CORS, static files or locale.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_eventstream",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["EVENTSTREAM_DATABASE"],
        "OPTIONS": {  # as on the demo site
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    }
}
EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"


def burst(request):  # type: ignore[no-untyped-def]
    from django.http import JsonResponse
    from django_eventstream import send_event

    from benchmarks.bare import payload

    n, rate = int(request.GET["n"]), float(request.GET["rate"])
    start = time.monotonic()
    for i in range(n):
        send_event("news", "message", payload(i))
        if rate:
            time.sleep(max(0.0, start + (i + 1) / rate - time.monotonic()))
    return JsonResponse({})


def __getattr__(name: str) -> object:
    """Create the application and the URLs only when the server asks for them, because both need the settings above."""
    if name == "application":
        from django.core.asgi import get_asgi_application

        return get_asgi_application()
    if name == "urlpatterns":
        from django.urls import include, path

        return [
            path("burst/", burst),
            path("events/<channel>/", include("django_eventstream.urls")),
        ]
    raise AttributeError(name)
