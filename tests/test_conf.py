"""The STREAMS setting: its keys and defaults, live look-up, and the errors for invalid values."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import override_settings

from streams import conf
from streams.conf import settings
from streams.exceptions import InvalidSetting

DEFAULTS: dict[str, Any] = {
    "NOTIFIER": {"BACKEND": "streams.notifiers.local.LocalNotifier", "OPTIONS": {}},
    "POLICY": "streams.policies.DefaultPolicy",
    "PUBLIC_CHANNELS": [],
    "TOKEN_SECONDS": 3600,
    "MAX_TOKEN_SECONDS": 2_592_000,
    "RECHECK_SECONDS": 60,
    "TRUSTED_PROXIES": [],
    "HEARTBEAT_SECONDS": 15,
    "RETRY_MILLISECONDS": 3000,
    "POLL_SECONDS": 1,
    "SEND_TIMEOUT_SECONDS": 30,
    "MAX_STREAM_SECONDS": None,
    "REFUSE_IN_BAND": False,
    "PRESENCE_SECONDS": 5,
    "MAX_MESSAGE_BYTES": 262_144,
    "MAX_CHANNELS_PER_STREAM": 50,
    "MAX_STREAMS_PER_PROCESS": 10_000,
    "MAX_STREAMS": None,
    "MAX_STREAMS_PER_USER": 100,
    "MAX_STREAMS_PER_ADDRESS": 1000,
    "MAX_REPLAY_SECONDS": 300,
    "MAX_REPLAY_MESSAGES": 1000,
    "MAX_REQUEST_BYTES": 1_048_576,
    "MAX_MESSAGES_PER_REQUEST": 1000,
    "PUBLISH_MESSAGES_PER_MINUTE": 6000,
    "PUBLISH_RATE_CACHE": None,
    "QUEUE_MESSAGES": 1000,
    "QUEUE_BYTES": 1_048_576,
    "WINDOW_MESSAGES": 2000,
    "WINDOW_BYTES": 8_388_608,
    "DATABASE_THREADS": 4,
    "DATABASE_TIMEOUT_SECONDS": 15,
    "METRICS_TOKEN": None,
    "RETENTION_SECONDS": 604_800,
    "RETENTION_MESSAGES_PER_CHANNEL": None,
    "RETENTION_BYTES": None,
    "PRUNE_SECONDS": 60,
}


@override_settings(STREAMS={})
def test_the_settings_and_their_defaults() -> None:
    own = [key for key in conf.known_keys() if hasattr(conf.Settings, key)]
    assert {key: getattr(settings, key) for key in own} == DEFAULTS


@override_settings()
def test_a_site_without_streams_has_the_defaults() -> None:
    del django_settings.STREAMS
    assert settings.HEARTBEAT_SECONDS == 15
    assert list(conf.problems()) == []


@override_settings(STREAMS={"HEARTBEAT_SECONDS": 20})
def test_settings_are_looked_up_at_every_access() -> None:
    assert settings.HEARTBEAT_SECONDS == 20
    with override_settings(STREAMS={"HEARTBEAT_SECONDS": 0.5}):
        assert settings.HEARTBEAT_SECONDS == 0.5
    assert settings.HEARTBEAT_SECONDS == 20


@pytest.mark.parametrize("key", sorted(DEFAULTS))
def test_the_default_itself_is_a_value_that_fits(key: str) -> None:
    with override_settings(STREAMS={key: DEFAULTS[key]}):
        assert getattr(settings, key) == DEFAULTS[key]
        assert list(conf.problems()) == []


NUMBER = "a number above 0"
WHOLE = "a whole number above 0"
CLASS = "the dotted path of a class"
PATTERNS = "a list of channel names or patterns, such as ['news', 'score.*']"
NETWORKS = "a list of addresses or networks, such as ['127.0.0.1', '10.0.0.0/8'], or 'unix' for a Unix socket"
SECRETS = ("NOTIFIER", "METRICS_TOKEN")
SECRET = "16 or more ASCII characters without spaces, or None"
BACKEND = "a dict such as {'BACKEND': 'streams.notifiers.local.LocalNotifier', 'OPTIONS': {}}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("HEARTBEAT_SECONDS", 0, NUMBER),
        ("HEARTBEAT_SECONDS", -1, NUMBER),
        ("HEARTBEAT_SECONDS", "15", NUMBER),
        ("HEARTBEAT_SECONDS", True, NUMBER),
        ("HEARTBEAT_SECONDS", None, NUMBER),
        ("HEARTBEAT_SECONDS", float("nan"), NUMBER),
        ("POLL_SECONDS", 0, NUMBER),
        ("SEND_TIMEOUT_SECONDS", [], NUMBER),
        ("MAX_STREAM_SECONDS", 0, f"{NUMBER}, or None"),
        ("REFUSE_IN_BAND", 1, "True or False"),
        ("RETRY_MILLISECONDS", 1.5, WHOLE),
        ("RETRY_MILLISECONDS", 0, WHOLE),
        ("MAX_MESSAGE_BYTES", "256 KB", WHOLE),
        ("MAX_CHANNELS_PER_STREAM", None, "a whole number from 1 to 500"),
        ("MAX_CHANNELS_PER_STREAM", 501, "a whole number from 1 to 500"),
        ("MAX_REPLAY_MESSAGES", -5, WHOLE),
        ("MAX_STREAMS_PER_PROCESS", 0, f"{WHOLE}, or None"),
        ("QUEUE_MESSAGES", 0, WHOLE),
        ("QUEUE_BYTES", False, WHOLE),
        ("WINDOW_MESSAGES", 2.0, WHOLE),
        ("WINDOW_BYTES", "", WHOLE),
        ("DATABASE_THREADS", 0, WHOLE),
        ("RETENTION_SECONDS", 0, f"{NUMBER}, or None"),
        ("RETENTION_MESSAGES_PER_CHANNEL", 1.0, f"{WHOLE}, or None"),
        ("RETENTION_BYTES", -1, f"{WHOLE}, or None"),
        ("PRUNE_SECONDS", "60", f"{NUMBER}, or None"),
        ("METRICS_TOKEN", "short", SECRET),
        ("METRICS_TOKEN", "with a space in it", SECRET),
        ("METRICS_TOKEN", 12345678901234567890, SECRET),
        ("POLICY", "DefaultPolicy", CLASS),
        ("POLICY", object, CLASS),
        ("PUBLIC_CHANNELS", "news", PATTERNS),
        ("PUBLIC_CHANNELS", ["news", 7], PATTERNS),
        ("PUBLIC_CHANNELS", None, PATTERNS),
        ("TRUSTED_PROXIES", "127.0.0.1", NETWORKS),
        ("TRUSTED_PROXIES", None, NETWORKS),
        ("TRUSTED_PROXIES", ["10.0.0.1/8"], NETWORKS),
        ("TRUSTED_PROXIES", ["nginx"], NETWORKS),
        ("TRUSTED_PROXIES", [None], NETWORKS),
        ("TRUSTED_PROXIES", [["10.0.0.0/8"]], NETWORKS),
        ("NOTIFIER", "streams.notifiers.local.LocalNotifier", BACKEND),
        ("NOTIFIER", {}, BACKEND),
        ("NOTIFIER", {"BACKEND": "Local"}, BACKEND),
        ("NOTIFIER", {"BACKEND": "a.B", "OPTIONS": None}, BACKEND),
        ("NOTIFIER", {"BACKEND": "a.B", "OPTION": {}}, BACKEND),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_the_rule_and_the_value(key: str, value: Any, expected: str) -> None:
    got = ". (The value is not shown, because it can contain a key.)" if key in SECRETS else f"; got {value!r}."
    text = f"STREAMS[{key!r}] must be {expected}{got}"
    with override_settings(STREAMS={key: value}):
        with pytest.raises(InvalidSetting) as error:
            getattr(settings, key)
        assert str(error.value) == text
        assert list(conf.problems()) == [(key, text)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("HEARTBEAT_SECONDS", 0.1),
        ("MAX_STREAMS_PER_PROCESS", 1),
        ("RETENTION_SECONDS", None),
        ("PRUNE_SECONDS", None),
        ("PUBLIC_CHANNELS", ()),
        ("PUBLIC_CHANNELS", {"news"}),
        ("TRUSTED_PROXIES", ["127.0.0.1", "10.0.0.0/8", "::1", "fd00::/8", "unix"]),
        ("TRUSTED_PROXIES", ("127.0.0.1",)),
        ("NOTIFIER", {"BACKEND": "a.B"}),
    ],
)
def test_a_value_that_fits_is_taken(key: str, value: Any) -> None:
    with override_settings(STREAMS={key: value}):
        assert getattr(settings, key) == value


def test_one_bad_value_spoils_no_other() -> None:
    with override_settings(STREAMS={"HEARTBEAT_SECONDS": 0, "POLL_SECONDS": 2}):
        assert settings.POLL_SECONDS == 2
        assert [key for key, _ in conf.problems()] == ["HEARTBEAT_SECONDS"]


def test_what_may_hold_a_password_is_refused_without_it() -> None:
    options = {"dsn": "postgresql://me:hunter2@db/x"}
    for value in ({"NOTIFIER": {"BACKEND": "a.B", "OPTION": options}}, ({"NOTIFIER": {"OPTIONS": options}},)):
        with override_settings(STREAMS=value):
            with pytest.raises(InvalidSetting) as error:
                _ = settings.NOTIFIER
            assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("value", [None, [], "x"])
def test_streams_that_is_no_dict_is_refused(value: Any) -> None:
    with override_settings(STREAMS=value):
        with pytest.raises(InvalidSetting) as error:
            _ = settings.HEARTBEAT_SECONDS
        assert str(error.value) == f"STREAMS must be a dict of settings; got a {type(value).__name__}."


def test_what_is_no_setting_is_no_attribute() -> None:
    with pytest.raises(AttributeError):
        settings.HEARTBEAT  # type: ignore[attr-defined]  # noqa: B018
