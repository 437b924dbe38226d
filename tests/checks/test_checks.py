"""The system checks. Each test compares the whole list of messages."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import CheckMessage, Error, Warning, run_checks
from django.http import HttpRequest
from django.test import override_settings

from streams import conf
from streams.policies import DefaultPolicy


def messages(**streams: Any) -> list[CheckMessage]:
    with override_settings(STREAMS=streams):
        return run_checks(databases=[])


# Includes the keys of the relay, which is installed here.
KNOWN = ", ".join(conf.known_keys())


def test_these_settings_pass() -> None:
    assert run_checks(databases=[]) == []


def test_no_settings_pass() -> None:
    assert messages() == []


@pytest.mark.django_db
def test_this_database_passes() -> None:
    assert run_checks(databases=["default"]) == []


@override_settings(STREAMS=["news"])
def test_e001_streams_not_a_dict() -> None:
    assert run_checks(databases=[]) == [Error("STREAMS must be a dict of settings; got a list.", id="streams.E001")]


def test_e002_unknown_key_with_similar_key() -> None:
    assert messages(HEARTBEAT_SECOND=10) == [
        Error(
            "STREAMS has the unknown key 'HEARTBEAT_SECOND'.",
            hint="Did you mean 'HEARTBEAT_SECONDS'?",
            id="streams.E002",
        )
    ]


def test_e002_unknown_key_without_similar_key() -> None:
    assert messages(COLOR="red", **{"": 1}) == [
        Error("STREAMS has the unknown key 'COLOR'.", hint=f"Valid keys: {KNOWN}.", id="streams.E002"),
        Error("STREAMS has the unknown key ''.", hint=f"Valid keys: {KNOWN}.", id="streams.E002"),
    ]


@override_settings(STREAMS={7: 1})
def test_e002_key_not_a_string() -> None:
    assert run_checks(databases=[]) == [
        Error("STREAMS has the unknown key 7.", hint=f"Valid keys: {KNOWN}.", id="streams.E002"),
    ]


def test_e003_wrong_values() -> None:
    assert messages(HEARTBEAT_SECONDS=0, PUBLIC_CHANNELS="news") == [
        Error("STREAMS['HEARTBEAT_SECONDS'] must be a number above 0; got 0.", id="streams.E003"),
        Error(
            "STREAMS['PUBLIC_CHANNELS'] must be a list of channel names or patterns, such as ['news', 'score.*']; "
            "got 'news'.",
            id="streams.E003",
        ),
    ]


def test_e003_of_a_class_path() -> None:
    assert messages(POLICY=None, NOTIFIER={"BACKEND": 7}) == [
        Error("STREAMS['POLICY'] must be the dotted path of a class; got None.", id="streams.E003"),
        Error(
            "STREAMS['NOTIFIER'] must be a dict such as {'BACKEND': 'streams.notifiers.local.LocalNotifier', "
            "'OPTIONS': {}}. (The value is not shown, because it can contain a key.)",
            id="streams.E003",
        ),
    ]


def test_e004_classes_that_cannot_be_imported() -> None:
    assert messages(POLICY="streams.policies.NoPolicy", NOTIFIER={"BACKEND": "streams.notifiers.none.Notifier"}) == [
        Error(
            "STREAMS['NOTIFIER']['BACKEND'] cannot be imported: No module named 'streams.notifiers.none'.",
            id="streams.E004",
        ),
        Error(
            'STREAMS[\'POLICY\'] cannot be imported: Module "streams.policies" does not define a "NoPolicy" '
            "attribute/class.",
            id="streams.E004",
        ),
    ]


LOCAL = {"BACKEND": "streams.notifiers.local.LocalNotifier"}


@pytest.mark.parametrize(
    ("notifier", "problem"),
    [
        (LOCAL | {"OPTIONS": {"group": "a"}}, "LocalNotifier.__init__() got an unexpected keyword argument 'group'"),
        (
            {"BACKEND": "streams.notifiers.postgres.PostgresNotifier", "OPTIONS": {"channel": ""}},
            "PostgresNotifier's option 'channel' must have 1 to 63 bytes; got ''.",
        ),
        (
            {"BACKEND": "streams.notifiers.postgres.PostgresNotifier", "OPTIONS": {"dsn": "postgresql//me:secret@db"}},
            "PostgresNotifier's option 'dsn' must be a connection string of PostgreSQL, such as "
            "'postgresql://user@host:5432/name'. In a password, write @ as %40, / as %2F and % as %25. libpq cannot "
            "read the given value, which is not shown because it can contain a password.",
        ),
    ],
)
def test_e004_notifier_that_cannot_be_created(notifier: Any, problem: str) -> None:
    assert messages(NOTIFIER=notifier) == [
        Error(f"{notifier['BACKEND']} cannot be created with its OPTIONS: {problem}", id="streams.E004")
    ]


@pytest.mark.parametrize("streams", [{}, {"NOTIFIER": LOCAL}])
def test_w002_several_processes_with_local_notifier(streams: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    assert messages(**streams) == [
        Warning(
            "WEB_CONCURRENCY starts 4 processes, but STREAMS['NOTIFIER'] reaches only the process that publishes. "
            "Clients of the others wait up to POLL_SECONDS for each message.",
            hint="Use streams.notifiers.postgres.PostgresNotifier or "
            "streams.notifiers.channel_layer.ChannelLayerNotifier.",
            id="streams.W002",
        )
    ]


@pytest.mark.parametrize(
    ("workers", "streams"),
    [
        ("1", {}),
        ("", {}),
        ("many", {}),
        ("4", {"NOTIFIER": {"BACKEND": "tests.publishing.support.UnsteadyNotifier"}}),
    ],
)
def test_one_process_or_shared_notifier_passes(workers: str, streams: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", workers)
    assert messages(**streams) == []


@pytest.mark.parametrize(
    ("django_settings", "named"),
    [
        ({"USE_X_FORWARDED_HOST": True}, "USE_X_FORWARDED_HOST"),
        ({"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}, "SECURE_PROXY_SSL_HEADER"),
        (
            {"USE_X_FORWARDED_HOST": True, "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")},
            "SECURE_PROXY_SSL_HEADER and USE_X_FORWARDED_HOST",
        ),
    ],
)
def test_w003_address_limit_without_trusted_proxies(django_settings: Any, named: str) -> None:
    with override_settings(**django_settings):
        counted = "it can count all clients of a proxy as one"
        assert messages(MAX_STREAMS_PER_ADDRESS=50) == [w003(named, counted)]
        counted = (
            "its default does not apply to a proxy with a private address, and counts all clients of any other proxy "
            "as one"
        )
        assert messages(MAX_STREAMS_PER_USER=50) == [w003(named, counted)]
        assert messages(MAX_STREAMS_PER_ADDRESS=50, TRUSTED_PROXIES=["127.0.0.1"]) == []
        assert messages(TRUSTED_PROXIES=["127.0.0.1"]) == []
        assert messages(MAX_STREAMS_PER_ADDRESS=None) == []
    assert messages(MAX_STREAMS_PER_ADDRESS=50) == []


def w003(named: str, effect: str) -> Warning:
    return Warning(
        f"{named} is for sites behind a proxy, but STREAMS['TRUSTED_PROXIES'] names no proxy. "
        f"STREAMS['MAX_STREAMS_PER_ADDRESS'] needs it: {effect}.",
        hint="List the proxy's addresses, or 'unix' for its Unix socket. If your server already takes the client's "
        "address from X-Forwarded-For, as uvicorn does for 127.0.0.1, list 127.0.0.1, which changes nothing. Or set "
        "MAX_STREAMS_PER_ADDRESS to None.",
        id="streams.W003",
    )


NO_LIMITS = {"MAX_STREAMS": None, "MAX_STREAMS_PER_PROCESS": None, "MAX_STREAMS_PER_ADDRESS": None}


def test_w007_public_channels_without_limits() -> None:
    assert messages(PUBLIC_CHANNELS=["news"], **NO_LIMITS) == [
        Warning(
            "Everyone can read STREAMS['PUBLIC_CHANNELS'], and MAX_STREAMS, MAX_STREAMS_PER_PROCESS, "
            "MAX_STREAMS_PER_ADDRESS are all None. One client can open streams until the process has no memory or no "
            "file descriptors left.",
            hint="Remove these keys from STREAMS to use the defaults, or set at least one of them.",
            id="streams.W007",
        )
    ]
    assert messages(**NO_LIMITS) == []
    assert messages(PUBLIC_CHANNELS=["news"]) == []
    for name in NO_LIMITS:
        assert messages(PUBLIC_CHANNELS=["news"], **{**NO_LIMITS, name: 10}) == []


def test_all_problems_are_reported_together() -> None:
    found = messages(HEARTBEAT=1, POLL_SECONDS=0, POLICY="no.Policy")
    assert [message.id for message in found] == ["streams.E002", "streams.E003", "streams.E004"]


class AsyncAlone(DefaultPolicy):
    """Override an async method and not its sync equivalent."""

    async def acan_publish(self, request: HttpRequest, channel: str) -> bool:
        return False


class AsyncTwice(AsyncAlone):
    async def adenied_channels(self, request: HttpRequest, channels: Any) -> list[str]:
        return list(channels)


def contradiction(text: str) -> Error:
    return Error(
        f"STREAMS['POLICY'] does not give sync and async callers the same answer: {text}",
        hint="If the rule is async, the sync method can be `return async_to_sync(self.acan_subscribe)(request, "
        "channel)`. Without this, the policy cannot be used, and every request that needs it fails.",
        id="streams.E006",
    )


def test_contradictions_of_the_policy_are_reported() -> None:
    publishes = contradiction(
        "AsyncAlone overrides acan_publish, but inherits can_publish from DefaultPolicy, which can answer "
        "differently. Override can_publish in AsyncAlone as well."
    )
    reads = contradiction(
        "AsyncTwice overrides adenied_channels, but inherits denied_channels from DefaultPolicy, which can answer "
        "differently. Override denied_channels in AsyncTwice as well."
    )
    assert messages(POLICY=f"{__name__}.AsyncAlone") == [publishes]
    assert messages(POLICY=f"{__name__}.AsyncTwice") == [reads, publishes]
