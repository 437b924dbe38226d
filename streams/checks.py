"""System checks. docs/reference/checks.md describes each of them.

streams.E001  STREAMS is not a dict.
streams.E002  STREAMS has an unknown key.
streams.E003  A value in STREAMS is wrong.
streams.E004  A class named in STREAMS cannot be imported, or the notifier cannot be created with its OPTIONS.
streams.E005  The log's database is not supported.
streams.E006  The policy overrides methods in a way that sync and async callers could get different answers.
streams.E007  A setting of django-eventstream would have to change how streams are answered, and does nothing.
streams.W001  The log's SQLite database blocks readers during writes.
streams.W002  The notifier reaches one process only, but the server is configured to start several.
streams.W003  Streams are limited by address, but TRUSTED_PROXIES does not name the site's proxy.
streams.W004  The connection pool of the log's database is smaller than the number of database threads.
streams.W005  The log's database is on another machine, and its connections have no TCP keepalives.
streams.W006  A pattern in PUBLIC_CHANNELS matches the channels of all users or of all answers.
streams.W007  PUBLIC_CHANNELS are open to everyone, and the number of streams is not limited.
streams.W011  A setting of django-eventstream has no effect any more.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.db import connections
from django.utils.module_loading import import_string

from streams import conf
from streams.channels.policy_methods import contradictions
from streams.exceptions import InvalidSetting
from streams.notifiers import get_notifier
from streams.policies import DefaultPolicy
from streams.protocol.events import GENERATION_PREFIX, USER_PREFIX
from streams.runtime import executor
from streams.runtime.database import ROUTE, database, unsupported


def check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E001 to E004, E006, E007, W001 to W008."""
    try:
        configured = conf.configured()
    except InvalidSetting as error:
        return [Error(str(error), id="streams.E001")]
    wrong = dict(conf.problems())
    return [
        *_eventstream(),
        *_unknown(configured),
        *(Error(problem, id="streams.E003") for problem in wrong.values()),
        *(message for check, keys in CHECKS.items() if not wrong.keys() & keys for message in check()),
    ]


def _unknown(configured: Any) -> Iterator[CheckMessage]:
    known = conf.known_keys()
    for key in configured:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Valid keys: {', '.join(known)}."
            yield Error(f"STREAMS has the unknown key {key!r}.", hint=hint, id="streams.E002")


# The settings of django-eventstream, and what replaces them. EVENTSTREAM_CHANNELMANAGER_CLASS is still read.
_CORS = 'Use django-cors-headers: see "pages of other origins" in docs/guides/receiving.md.'
_STORED = "Remove it: all events are stored. STREAMS['RETENTION_SECONDS'] limits for how long."
REFUSED = dict.fromkeys(("ORIGIN", "ORIGINS", "CREDENTIALS", "HEADERS"), _CORS)
REPLACED = {
    "EVENTSTREAM_STORAGE_CLASS": _STORED,
    "EVENTSTREAM_STORAGE_CONNECTION": _STORED,
    "EVENTSTREAM_REDIS": "Remove it, or choose a notifier for several processes with STREAMS['NOTIFIER'].",
    "GRIP_URL": "Remove it and GripMiddleware: the site's ASGI server holds the streams itself.",
}


def _eventstream() -> Iterator[CheckMessage]:
    if "django_eventstream" in settings.INSTALLED_APPS:
        return  # it is still in use
    for name, remedy in REFUSED.items():
        if getattr(settings, f"EVENTSTREAM_ALLOW_{name}", None):
            yield Error(f"Streams do not read EVENTSTREAM_ALLOW_{name}.", hint=remedy, id="streams.E007")
    for name, remedy in REPLACED.items():
        if hasattr(settings, name):
            yield Warning(f"{name} has no effect.", hint=remedy, id="streams.W011")


def _notifier() -> Iterator[CheckMessage]:
    path = conf.settings.NOTIFIER["BACKEND"]
    try:
        import_string(path)
    except ImportError as error:
        yield Error(f"STREAMS['NOTIFIER']['BACKEND'] cannot be imported: {error}.", id="streams.E004")
        return
    try:
        get_notifier()
    except (InvalidSetting, TypeError) as error:
        yield Error(f"{path} cannot be created with its OPTIONS: {error}", id="streams.E004")


def _policy() -> Iterator[CheckMessage]:
    try:
        policy = import_string(conf.settings.POLICY)
    except ImportError as error:
        yield Error(f"STREAMS['POLICY'] cannot be imported: {error}.", id="streams.E004")
        return
    for problem in contradictions(policy) if isinstance(policy, type) else ():
        yield Error(
            f"STREAMS['POLICY'] does not give sync and async callers the same answer: {problem}",
            hint="If the rule is async, the sync method can be `return async_to_sync(self.acan_subscribe)(request, "
            "channel)`. Without this, the policy cannot be used, and every request that needs it fails.",
            id="streams.E006",
        )


def _one_process_notifier() -> Iterator[CheckMessage]:
    """Check WEB_CONCURRENCY, from which uvicorn and gunicorn take their number of workers."""
    workers = os.environ.get("WEB_CONCURRENCY", "")
    is_local = conf.settings.NOTIFIER["BACKEND"] == conf.Settings.NOTIFIER.default["BACKEND"]
    if is_local and workers.isdecimal() and int(workers) > 1:
        yield Warning(
            f"WEB_CONCURRENCY starts {int(workers)} processes, but STREAMS['NOTIFIER'] reaches only the process that "
            f"publishes. Clients of the others wait up to POLL_SECONDS for each message.",
            hint="Use streams.notifiers.postgres.PostgresNotifier or "
            "streams.notifiers.channel_layer.ChannelLayerNotifier.",
            id="streams.W002",
        )


def _behind_a_proxy() -> Iterator[CheckMessage]:
    """Check the settings that trust a proxy's headers; a site without them might still be behind a proxy."""
    trusting = [name for name in ("SECURE_PROXY_SSL_HEADER", "USE_X_FORWARDED_HOST") if getattr(settings, name)]
    if not trusting or conf.settings.MAX_STREAMS_PER_ADDRESS is None or conf.settings.TRUSTED_PROXIES:
        return
    if "MAX_STREAMS_PER_ADDRESS" in conf.configured():
        effect = "it can count all clients of a proxy as one"
    else:
        effect = (
            "its default does not apply to a proxy with a private address, and counts all clients of any other proxy "
            "as one"
        )
    yield Warning(
        f"{' and '.join(trusting)} is for sites behind a proxy, but STREAMS['TRUSTED_PROXIES'] names no proxy. "
        f"STREAMS['MAX_STREAMS_PER_ADDRESS'] needs it: {effect}.",
        hint="List the proxy's addresses, or 'unix' for its Unix socket. If your server already takes the client's "
        "address from X-Forwarded-For, as uvicorn does for 127.0.0.1, list 127.0.0.1, which changes nothing. Or set "
        "MAX_STREAMS_PER_ADDRESS to None.",
        id="streams.W003",
    )


LIMITS = ("MAX_STREAMS", "MAX_STREAMS_PER_PROCESS", "MAX_STREAMS_PER_ADDRESS")


def _without_limits() -> Iterator[CheckMessage]:
    if conf.settings.PUBLIC_CHANNELS and all(getattr(conf.settings, name) is None for name in LIMITS):
        yield Warning(
            f"Everyone can read STREAMS['PUBLIC_CHANNELS'], and {', '.join(LIMITS)} are all None. One client can open "
            "streams until the process has no memory or no file descriptors left.",
            hint="Remove these keys from STREAMS to use the defaults, or set at least one of them.",
            id="streams.W007",
        )


def _log_connection() -> tuple[str, Any]:
    """Return the alias of the log's database, and its connection, which is not opened."""
    return database(), connections[database()]


# A site that sets one of these options has considered connections that fall silent.
KEEPALIVES = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")

# The default size of psycopg's pool.
DEFAULT_POOL_SIZE = 4


def _pool_size() -> Iterator[CheckMessage]:
    alias, connection = _log_connection()
    pool = connection.settings_dict["OPTIONS"].get("pool")
    if connection.vendor != "postgresql" or not pool:
        return
    options = pool if isinstance(pool, dict) else {}
    size = options.get("max_size") or options.get("min_size", DEFAULT_POOL_SIZE)
    needed = executor.max_threads() + 1
    if size < needed:
        yield Warning(
            f"DATABASES[{alias!r}]['OPTIONS']['pool'] gives each process {size} connections. Its database threads "
            f"can use {needed - 1} at the same time, and each request with queries uses another one. They wait for "
            "each other, and fail after the pool's timeout.",
            hint=f"Set 'pool': {{'max_size': {needed}}} or more. Or lower STREAMS['DATABASE_THREADS'], which is "
            f"{conf.settings.DATABASE_THREADS}; a process uses twice as many threads, plus three.",
            id="streams.W004",
        )


def _keepalives() -> Iterator[CheckMessage]:
    alias, connection = _log_connection()
    host, options = connection.settings_dict["HOST"], connection.settings_dict["OPTIONS"]
    if connection.vendor == "postgresql" and _is_far(str(host or "")) and not options.keys() & set(KEEPALIVES):
        yield Warning(
            f"DATABASES[{alias!r}] is on the host {host!r}, and its OPTIONS set no TCP keepalives. If that "
            "machine vanishes, or a firewall forgets a connection, a query can wait for hours.",
            hint="Set 'keepalives_idle': 30, 'keepalives_interval': 10, 'keepalives_count': 3 and 'tcp_user_timeout': "
            "30000 in OPTIONS, and 'connect_timeout': 10.",
            id="streams.W005",
        )


def _is_far(host: str) -> bool:
    """Return True if one of the hosts is reached over a network. Without a host, libpq uses a local socket."""
    hosts = [part.strip() for part in host.split(",")]
    return any(part and not part.startswith(("/", "@", "127.")) and part not in ("localhost", "::1") for part in hosts)


# Typical names. A pattern that matches both names of a prefix is assumed to match all channels with that prefix.
PRIVATE_NAMES = {
    USER_PREFIX: ("user.1", "user.2048"),
    GENERATION_PREFIX: ("generation.0a1b2c3d4e5f40718293a4b5c6d7e8f9", "generation.f9e8d7c6b5a443928170f5e4d3c2b1a0"),
}


def _wide_patterns() -> Iterator[CheckMessage]:
    """Check the patterns with a wildcard. A name without one opens exactly one channel."""
    try:
        policy = import_string(conf.settings.POLICY)
    except ImportError:  # E004
        return
    if isinstance(policy, type) and not issubclass(policy, DefaultPolicy):
        return  # other policies do not use PUBLIC_CHANNELS
    for pattern in conf.settings.PUBLIC_CHANNELS:
        if not any(wildcard in pattern for wildcard in "*?["):
            continue
        if pattern.startswith(tuple(PRIVATE_NAMES)):
            yield Warning(
                f"STREAMS['PUBLIC_CHANNELS'] has the pattern {pattern!r}. Everyone can read all channels that it "
                "matches, without signing in, but each of them belongs to one user, or to one answer of the relay.",
                hint="Remove it. Each user can read the channel user.<pk> without it, and the relay gives each answer "
                "to the user who asked. If everyone should read them, add streams.W006 to SILENCED_SYSTEM_CHECKS.",
                id="streams.W006",
            )
            continue
        closed = [p for p, names in PRIVATE_NAMES.items() if all(fnmatchcase(name, pattern) for name in names)]
        if closed:
            patterns = [f"{prefix}*" for prefix in closed]
            yield Warning(
                f"STREAMS['PUBLIC_CHANNELS'] has the pattern {pattern!r}. It opens the channels that it matches to "
                f"everyone, except those of {' or '.join(map(repr, patterns))}, because each of these belongs to one "
                "user, or to one answer of the relay.",
                hint="List the public channels, or their prefixes, such as 'news' and 'score.*'. To open the private "
                f"channels to everyone too, add {' or '.join(map(repr, patterns))}. If the pattern is right, add "
                "streams.W006 to SILENCED_SYSTEM_CHECKS.",
                id="streams.W006",
            )


def check_database(app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """E005. Runs if Django is asked to check databases, as `migrate` does."""
    problem = unsupported()
    if database() not in (databases or ()) or problem is None:
        return []
    return [Error(problem, hint=ROUTE, id="streams.E005")]


_JOURNAL_MODE = re.compile(r"(?i)\bjournal_mode\s*[=(]\s*['\"]?(\w+)")


def _journal_mode() -> Iterator[CheckMessage]:
    """Check the settings of the log's database, and its file.

    This is not a check of databases in Django's sense, because `check` and `runserver` do not run these.
    """
    alias, connection = _log_connection()
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return
    options = connection.settings_dict["OPTIONS"]
    set_at_connect = _JOURNAL_MODE.findall(str(options.get("init_command", "")))
    mode = set_at_connect[-1].lower() if set_at_connect else _journal_mode_of(str(connection.settings_dict["NAME"]))
    if mode != "wal":
        yield Warning(
            f"The database {alias!r} is SQLite in journal mode {mode!r}, in which a write blocks all streams.",
            hint="In its OPTIONS, set 'init_command': 'PRAGMA journal_mode=WAL;'.",
            id="streams.W001",
        )


def _journal_mode_of(path: str) -> str:
    """Return the journal mode that is stored in a SQLite file. The file is not changed.

    SQLite reads the file: if this process opened and closed it directly, it would lose its locks on it (see fcntl(2)).
    """
    uri = path if path.startswith("file:") else Path(path).absolute().as_uri()
    try:
        with contextlib.closing(sqlite3.connect(f"{uri}{'&' if '?' in uri else '?'}mode=ro", uri=True)) as file:
            return str(file.execute("PRAGMA journal_mode").fetchone()[0])
    except sqlite3.Error:
        return "delete"  # SQLite's default: there is no file yet


# With the keys that each check reads. If one of them has a wrong value, which is E003, the check is left out.
CHECKS: dict[Callable[[], Iterator[CheckMessage]], set[str]] = {
    _notifier: {"NOTIFIER"},
    _policy: {"POLICY"},
    _one_process_notifier: {"NOTIFIER"},
    _behind_a_proxy: {"MAX_STREAMS_PER_ADDRESS", "TRUSTED_PROXIES"},
    _pool_size: {"DATABASE_THREADS"},
    _keepalives: set(),
    _wide_patterns: {"PUBLIC_CHANNELS", "POLICY"},
    _without_limits: {"PUBLIC_CHANNELS", *LIMITS},
    _journal_mode: set(),
}
