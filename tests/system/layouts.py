"""Layouts of real projects, and the lines that `streams_init` adds to them."""

from __future__ import annotations

from typing import NamedTuple


class Layout(NamedTuple):
    """A project's files, the lines that the command adds to them, and the texts about what is left to do by hand."""

    files: dict[str, str]
    added: dict[str, list[str]]
    by_hand: list[str]


MANAGE = """import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{0}")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
"""

WSGI = """import os
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{0}")
application = get_wsgi_application()
"""

# As cookiecutter-django makes it: settings for each environment, apps in three lists, a database from the environment.
SPLIT = Layout(
    files={
        "manage.py": MANAGE.format("config.settings.local"),
        "config/__init__.py": "",
        "config/settings/__init__.py": "",
        "config/settings/base.py": """\"\"\"Base settings to build other settings files upon.\"\"\"

from pathlib import Path

BASE_DIR = Path(__file__).resolve(strict=True).parent.parent.parent


def db(url: str) -> dict:
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": url}


DATABASES = {"default": db(str(BASE_DIR / "db.sqlite3"))}
DATABASES["default"]["ATOMIC_REQUESTS"] = True
ROOT_URLCONF = "config.urls"
# https://docs.djangoproject.com/en/dev/ref/settings/#wsgi-application
WSGI_APPLICATION = "config.wsgi.application"

DJANGO_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
THIRD_PARTY_APPS = []
LOCAL_APPS: list[str] = []
# https://docs.djangoproject.com/en/dev/ref/settings/#installed-apps
INSTALLED_APPS = DJANGO_APPS + THIRD_PARTY_APPS + LOCAL_APPS
""",
        "config/settings/local.py": """from .base import *  # noqa: F403
from .base import INSTALLED_APPS

DEBUG = True
SECRET_KEY = "local"
STATIC_URL = "/static/"
INSTALLED_APPS = ["whitenoise.runserver_nostatic", *INSTALLED_APPS]
""",
        "config/settings/production.py": "from .base import *\n\nSECRET_KEY = 'production'\n",
        "config/wsgi.py": WSGI.format("config.settings.production"),
        "config/urls.py": """from django.conf import settings
from django.conf.urls.static import static
from django.urls import include
from django.urls import path
from django.views import defaults as default_views

urlpatterns = [
    path("404/", default_views.page_not_found, {"exception": Exception()}),
    path("accounts/", include("django.contrib.auth.urls")),
    # Media files
    *static("/media/", document_root="/media"),
]

if settings.DEBUG:
    urlpatterns += [path("500/", default_views.server_error)]
""",
    },
    added={
        "config/asgi.py": [
            '"""The project\'s ASGI application, for servers such as daphne and uvicorn."""',
            "import os",
            "from streams.asgi import get_asgi_application",
            'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.production")',
            "application = get_asgi_application()",
        ],
        "config/settings/base.py": [
            'ASGI_APPLICATION = "config.asgi.application"',
            'INSTALLED_APPS = ["daphne", *INSTALLED_APPS, "streams"]',
            'STREAMS = {"PUBLIC_CHANNELS": ["news"]}',
        ],
        "config/urls.py": ['    path("events/", include("streams.urls")),'],
    },
    by_hand=[
        'If the site uses SQLite, add to the OPTIONS of DATABASES[\'default\']: "init_command": "PRAGMA '
        'journal_mode=WAL;", "transaction_mode": "IMMEDIATE" (Not done: DATABASES[\'default\'] is not a literal dict '
        "for SQLite.)"
    ],
)

# An old project: a tuple, single quotes, CRLF, no asgi.py, no include, and no newline at the end.
ONE_FILE = Layout(
    files={
        "manage.py": MANAGE.format("shop.settings"),
        "shop/__init__.py": "",
        "shop/settings.py": """# -*- coding: utf-8 -*-
DEBUG = True
SECRET_KEY = 'é'
ROOT_URLCONF = 'shop.urls'
DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'db.sqlite3'}}
STATIC_URL = '/static/'

INSTALLED_APPS = (
    # Django
    'django.contrib.auth',
    'django.contrib.contenttypes',
    'django.contrib.staticfiles'  # at the end
)
INSTALLED_APPS += ('django.contrib.sessions',)
STREAMS = {'HEARTBEAT_SECONDS': 20}""".replace("\n", "\r\n"),
        "shop/urls.py": "from django.urls import re_path\n\nurlpatterns = (re_path('^old/$', print),)\n"
        "urlpatterns = [*urlpatterns]",
    },
    added={
        "shop/asgi.py": [
            '"""The project\'s ASGI application, for servers such as daphne and uvicorn."""',
            "import os",
            "from streams.asgi import get_asgi_application",
            'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")',
            "application = get_asgi_application()",
        ],
        "shop/settings.py": [
            "ASGI_APPLICATION = 'shop.asgi.application'",
            "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'db.sqlite3', 'OPTIONS': "
            "{'init_command': 'PRAGMA journal_mode=WAL;', 'transaction_mode': 'IMMEDIATE'}}}",
            "    'daphne',",
            "    'django.contrib.staticfiles',  # at the end",
            "    'streams',",
            "STREAMS = {'HEARTBEAT_SECONDS': 20, 'PUBLIC_CHANNELS': ['news']}",
        ],
        "shop/urls.py": [
            "from django.urls import include, path, re_path",
            "urlpatterns = (re_path('^old/$', print), path('events/', include('streams.urls')))",
        ],
    },
    by_hand=[],
)

# WebSockets by Channels, settings in a package, translated URLs, and a pattern that matches every URL.
CHANNELS = Layout(
    files={
        "manage.py": MANAGE.format("chat.settings"),
        "chat/__init__.py": "",
        "chat/settings/__init__.py": """from .apps import *
from .database import *

try:
    from .local import *
except ImportError:
    pass
""",
        "chat/settings/apps.py": """SECRET_KEY = "x"
DEBUG = True
ROOT_URLCONF = "chat.urls"
WSGI_APPLICATION = "chat.wsgi.application"
ASGI_APPLICATION = "chat.routing.app"
STATIC_URL = "/static/"
INSTALLED_APPS = [
    "daphne",
    "channels",
    "django.contrib.auth", "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
STREAMS = {
    "PUBLIC_CHANNELS": [
        "weather",
    ],
}
""",
        "chat/settings/database.py": """from pathlib import Path

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(__file__).parent / "db.sqlite3",
    }
}
""",
        "chat/routing.py": """import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
http = get_asgi_application()

app = ProtocolTypeRouter({"http": http, "websocket": URLRouter([])})
""",
        "chat/urls.py": """from django.conf.urls.i18n import i18n_patterns
from django.http import HttpResponse
from django.urls import include, path, re_path

urlpatterns = [path("accounts/", include("django.contrib.auth.urls"))]
urlpatterns += i18n_patterns(path("", lambda request: HttpResponse("")))
urlpatterns += [re_path(r"", lambda request: HttpResponse("the single-page application"))]
""",
    },
    added={
        "chat/routing.py": ["from streams.asgi import get_asgi_application"],
        "chat/settings/apps.py": ['    "streams",', '        "news",'],
        "chat/settings/database.py": [
            '        "OPTIONS": {',
            '            "init_command": "PRAGMA journal_mode=WAL;",',
            '            "transaction_mode": "IMMEDIATE",',
            "        },",
        ],
        "chat/urls.py": [
            'urlpatterns = [path("events/", include("streams.urls")), '
            'path("accounts/", include("django.contrib.auth.urls"))]'
        ],
    },
    by_hand=[],
)

LAYOUTS = {"split": SPLIT, "one file": ONE_FILE, "Channels": CHANNELS}
