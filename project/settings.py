"""Settings of the demo site, from environment variables and an optional file `.env` next to manage.py.

| variable | default |
|---|---|
| DEBUG | false |
| SECRET_KEY | required if DEBUG is false |
| ALLOWED_HOSTS | localhost,127.0.0.1,[::1] |
| CSRF_TRUSTED_ORIGINS | none |
| HTTPS | true if DEBUG is false: clients use only TLS. Set it to false for a proxy that uses plain HTTP |
| HSTS_SECONDS | 3600; with HTTPS, how long browsers use only TLS. Use 31536000 (a year) once everything works |
| TRUSTED_PROXIES | 127.0.0.1,::1 with HTTPS, otherwise none; proxies whose X-Forwarded-For is trusted |
| CORS_ALLOWED_ORIGINS | none; origins whose pages can read streams and use the APIs, also with a user's cookies |
| DATABASE_URL | SQLite in `.local/db.sqlite3` |
| REDIS_URL | none; processes notify each other over Redis, or without it over PostgreSQL if that is the database |
| LANGUAGE_CODE, TIME_ZONE | en, UTC |
| LOG_LEVEL | INFO |
| STREAMS_RETRY_MILLISECONDS | 3000 |
| STREAMS_HEARTBEAT_SECONDS | 15 |
| STREAMS_SEND_TIMEOUT_SECONDS | 30 |
| CHAT_BASE_URL | none: a script answers. The URL of an API like OpenAI's, such as https://api.openai.com/v1 |
| CHAT_API_KEY | none |
| CHAT_MODELS | required with CHAT_BASE_URL: a list of models, separated by commas |
| CHAT_OPEN_TO_ALL | false: with CHAT_BASE_URL, only users who are logged in get answers |
| CHAT_LINE_SECONDS | 1; the pause between the lines of `/chat/send` without CHAT_BASE_URL |
| ENV_FILE | `.env`; another file with such variables. Environment variables take precedence |
"""

import os
from pathlib import Path

import environ
from corsheaders.defaults import default_headers
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.read_env(os.environ.get("ENV_FILE") or BASE_DIR / ".env")

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env("SECRET_KEY", default="only-for-development" if DEBUG else environ.Env.NOTSET)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

HTTPS = env.bool("HTTPS", default=not DEBUG)
if HTTPS:
    # The proxy terminates TLS and reports it in this header. It must set the header on every request, as the nginx.conf
    # in the documentation does.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^(api/)?health/"]  # health checks bypass the proxy and use plain HTTP
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS = env.int("HSTS_SECONDS", default=3600)
    # Browsers preload a site only if HSTS_SECONDS is at least a year.
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True

INSTALLED_APPS = [
    "daphne",  # before staticfiles, because its runserver serves ASGI
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular_sidecar",
    "streams",
    "streams.relay",
    "project",
]

MIDDLEWARE = [
    # Before every middleware that can respond itself, because other origins need these headers on every response.
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "project.middleware.StaticFiles",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

CORS_ALLOWED_ORIGINS = env.list("CORS_ALLOWED_ORIGINS", default=[])
for origin in CORS_ALLOWED_ORIGINS:
    # `manage.py check` reports this too, but servers run no checks. django-cors-headers compares only scheme and host
    # (seen in 4.9). "*" has neither, and so would match the origin `null`, which any page can get in a sandboxed frame.
    if not origin.startswith(("http://", "https://")):
        raise ImproperlyConfigured(f"CORS_ALLOWED_ORIGINS must be origins such as https://app.example; got {origin!r}.")
CORS_ALLOW_CREDENTIALS = bool(CORS_ALLOWED_ORIGINS)
# Do not include pages, above all not the admin: an origin that can read a page with cookies can read its CSRF token.
# `/chat/send` is not included either; it allows all origins itself, but without cookies.
CORS_URLS_REGEX = r"^/(?:ai|api|events)/|^/random$"
# These headers are sent by clients of streams that use fetch. An EventSource does not need them.
CORS_ALLOW_HEADERS = [*default_headers, "cache-control", "idempotency-key", "last-event-id"]
CORS_EXPOSE_HEADERS = ["Retry-After"]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": env.db("DATABASE_URL", default=f"sqlite:///{BASE_DIR / '.local' / 'db.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        # WAL lets readers continue during a write. IMMEDIATE takes the write lock when a transaction starts, so that it
        # waits for its turn instead of failing later.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
    }
    Path(DATABASES["default"]["NAME"]).parent.mkdir(parents=True, exist_ok=True)

REDIS_URL = env("REDIS_URL", default="")
CHANNEL_LAYERS = {}
if REDIS_URL:
    layer = "channels_redis.pubsub.RedisPubSubChannelLayer"
    CHANNEL_LAYERS["default"] = {"BACKEND": layer, "CONFIG": {"hosts": [REDIS_URL]}}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "admin:login"

LANGUAGE_CODE = env("LANGUAGE_CODE", default="en")
TIME_ZONE = env("TIME_ZONE", default="UTC")
USE_I18N = True
USE_TZ = True

# Serve static files from the apps' folders, so that the demo site needs neither collectstatic nor STATIC_ROOT.
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

STREAMS = {
    "PUBLIC_CHANNELS": ["news"],
    "RETRY_MILLISECONDS": env.int("STREAMS_RETRY_MILLISECONDS", default=3000),
    "HEARTBEAT_SECONDS": env.float("STREAMS_HEARTBEAT_SECONDS", default=15),
    "SEND_TIMEOUT_SECONDS": env.float("STREAMS_SEND_TIMEOUT_SECONDS", default=30),
    "TRUSTED_PROXIES": env.list("TRUSTED_PROXIES", default=["127.0.0.1", "::1"] if HTTPS else []),
}

if REDIS_URL:
    STREAMS["NOTIFIER"] = {"BACKEND": "streams.notifiers.channel_layer.ChannelLayerNotifier"}
elif DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    STREAMS["NOTIFIER"] = {"BACKEND": "streams.notifiers.postgres.PostgresNotifier"}

# Answers of a model cost money, so only users get them by default. The script is free.
STREAMS["RELAY_ACCESS"] = "streams.relay.access.Everyone"
if CHAT_BASE_URL := env("CHAT_BASE_URL", default=""):
    STREAMS["UPSTREAMS"] = {
        "default": {
            "BACKEND": "streams.relay.upstreams.OpenAICompatible",
            "OPTIONS": {
                "base_url": CHAT_BASE_URL,
                "api_key": env("CHAT_API_KEY", default=""),
                "models": env.list("CHAT_MODELS", default=[]),
            },
        }
    }
    if not env.bool("CHAT_OPEN_TO_ALL", default=False):
        STREAMS["RELAY_ACCESS"] = "streams.relay.access.LoggedIn"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.SessionAuthentication",
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.BasicAuthentication",
    ],
}

CHAT_LINE_SECONDS = env.float("CHAT_LINE_SECONDS", default=1)

DEFAULT_EXCEPTION_REPORTER = "project.errors.Reporter"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env("LOG_LEVEL", default="INFO")},
    # Remove Django's own handlers, which would log everything twice if DEBUG is true.
    "loggers": {"django": {"handlers": []}},
}
