"""The STREAMS setting, typed and read live, so that `override_settings` works. It leaves the reporting to checks.py.

Each setting is a class attribute with its default and its rule; `settings.HEARTBEAT_SECONDS` looks it up at every
access. Units are in the names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast, overload

from django.conf import settings as django_settings

from streams.exceptions import InvalidSetting

T = TypeVar("T")
Rule = Callable[[object], str | None]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def positive_number(value: object) -> str | None:
    return None if _number(value) and cast(float, value) > 0 else "a number above 0"


def positive_whole(value: object) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return None if whole else "a whole number above 0"


def whole_up_to(most: int) -> Rule:
    def rule(value: object) -> str | None:
        fits = positive_whole(value) is None and cast(int, value) <= most
        return None if fits else f"a whole number from 1 to {most}"

    return rule


def or_none(rule: Rule) -> Rule:
    def optional(value: object) -> str | None:
        expected = None if value is None else rule(value)
        return expected and f"{expected}, or None"

    return optional


def dotted_path(value: object) -> str | None:
    return None if isinstance(value, str) and "." in value else "the dotted path of a class"


def patterns(value: object) -> str | None:
    listed = isinstance(value, list | tuple | set | frozenset) and all(isinstance(item, str) for item in value)
    return None if listed else "a list of channel names or patterns, such as ['news', 'score.*']"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# In a list of networks: who comes by a Unix socket, which has no address.
UNIX = "unix"


def networks(value: object) -> str | None:
    try:
        if isinstance(value, list | tuple):
            parse_networks(tuple(value))
            return None
    except (TypeError, ValueError):
        pass
    return "a list of addresses or networks, such as ['127.0.0.1', '10.0.0.0/8'], or 'unix' for a Unix socket"


@lru_cache(maxsize=8)  # a request asks, and 20 networks take longer to read than the request's address to look up
def parse_networks(items: tuple[str, ...]) -> tuple[Network, ...]:
    """The networks that a list names, but for UNIX. Raises ValueError or TypeError where an item is none."""
    return tuple(ipaddress.ip_network(item) for item in items if item != UNIX)


def cache_alias(value: object) -> str | None:
    return None if isinstance(value, str) and value in django_settings.CACHES else "the name of a cache in CACHES"


def backend(value: object) -> str | None:
    form = "a dict such as {'BACKEND': 'streams.notifiers.local.LocalNotifier', 'OPTIONS': {}}"
    if not isinstance(value, Mapping) or dotted_path(value.get("BACKEND")) is not None:
        return form
    if set(value) - {"BACKEND", "OPTIONS"} or not isinstance(value.get("OPTIONS", {}), Mapping):
        return form
    return None


class Setting(Generic[T]):
    """One key of STREAMS: its default, and the rule that says what was expected where a value does not fit."""

    name: str

    def __init__(self, default: T, rule: Rule) -> None:
        self.default = default
        self.rule = rule

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Setting[T] | T:
        if instance is None:
            return self
        value = configured().get(self.name, self.default)
        if (problem := self.problem(value)) is not None:
            raise InvalidSetting(problem)
        return cast(T, value)

    def problem(self, value: object) -> str | None:
        """What is wrong with `value`, or None."""
        expected = self.rule(value)
        return expected and f"STREAMS[{self.name!r}] must be {expected}; got {value!r}."


class Secret(Setting[T]):
    """A setting that may hold passwords or keys: what is wrong with it is told without its value."""

    def problem(self, value: object) -> str | None:
        expected = self.rule(value)
        return expected and f"STREAMS[{self.name!r}] must be {expected}. (What it is may hold a key, and is not shown.)"


class Settings:
    """All keys of STREAMS. docs/reference/settings.md describes each of them."""

    NOTIFIER = Secret[Mapping[str, Any]]({"BACKEND": "streams.notifiers.local.LocalNotifier", "OPTIONS": {}}, backend)
    POLICY = Setting("streams.policies.DefaultPolicy", dotted_path)
    PUBLIC_CHANNELS = Setting[list[str]]([], patterns)

    TOKEN_SECONDS = Setting[float](3600, positive_number)
    # That long the ids of revoked tokens are kept.
    MAX_TOKEN_SECONDS = Setting[float](2_592_000, positive_number)
    RECHECK_SECONDS = Setting[float | None](60, or_none(positive_number))
    TRUSTED_PROXIES = Setting[list[str]]([], networks)

    HEARTBEAT_SECONDS = Setting[float](15, positive_number)
    RETRY_MILLISECONDS = Setting(3000, positive_whole)
    POLL_SECONDS = Setting[float](1, positive_number)
    SEND_TIMEOUT_SECONDS = Setting[float](30, positive_number)
    MAX_STREAM_SECONDS = Setting[float | None](None, or_none(positive_number))
    PRESENCE_SECONDS = Setting[float | None](5, or_none(positive_number))

    MAX_MESSAGE_BYTES = Setting(262_144, positive_whole)
    # A replay asks for each channel in a part of one query, and SQLite takes 500 of them.
    MAX_CHANNELS_PER_STREAM = Setting(50, whole_up_to(500))
    MAX_STREAMS_PER_PROCESS = Setting[int | None](10_000, or_none(positive_whole))
    MAX_STREAMS = Setting[int | None](None, or_none(positive_whole))
    MAX_STREAMS_PER_USER = Setting[int | None](100, or_none(positive_whole))
    # The default does not apply to peers that look like a proxy; see limits.is_probably_shared().
    MAX_STREAMS_PER_ADDRESS = Setting[int | None](1000, or_none(positive_whole))
    MAX_REPLAY_SECONDS = Setting[float | None](300, or_none(positive_number))
    MAX_REPLAY_MESSAGES = Setting(1000, positive_whole)

    MAX_REQUEST_BYTES = Setting(1_048_576, positive_whole)
    MAX_MESSAGES_PER_REQUEST = Setting(1000, positive_whole)
    PUBLISH_MESSAGES_PER_MINUTE = Setting[int | None](6000, or_none(positive_whole))
    PUBLISH_RATE_CACHE = Setting[str | None](None, or_none(cache_alias))

    QUEUE_MESSAGES = Setting(1000, positive_whole)
    QUEUE_BYTES = Setting(1_048_576, positive_whole)
    WINDOW_MESSAGES = Setting(2000, positive_whole)
    WINDOW_BYTES = Setting(8_388_608, positive_whole)
    LOG_THREADS = Setting(4, positive_whole)
    DATABASE_TIMEOUT_SECONDS = Setting[float | None](15, or_none(positive_number))

    RETENTION_SECONDS = Setting[float | None](604_800, or_none(positive_number))
    RETENTION_MESSAGES_PER_CHANNEL = Setting[int | None](None, or_none(positive_whole))
    RETENTION_BYTES = Setting[int | None](None, or_none(positive_whole))
    PRUNE_SECONDS = Setting[float | None](60, or_none(positive_number))


def configured() -> Mapping[str, Any]:
    """The site's STREAMS dict, as it is; empty where there is none."""
    value: object = getattr(django_settings, "STREAMS", {})
    if not isinstance(value, Mapping):
        # Not what it is: a comma too many after the dict makes a tuple, which holds what the dict holds.
        raise InvalidSetting(f"STREAMS must be a dict of settings; got a {type(value).__name__}.")
    return value


_groups: list[type] = [Settings]


def register(group: type) -> None:
    """Have STREAMS take the settings of another class as well: those of an app that comes with Streams."""
    if group not in _groups:
        _groups.append(group)


def known() -> dict[str, Setting[Any]]:
    """{key: setting} of all keys that STREAMS may have."""
    return {key: value for group in _groups for key, value in vars(group).items() if isinstance(value, Setting)}


def known_keys() -> list[str]:
    return sorted(known())


def problems() -> Iterator[tuple[str, str]]:
    """Yield (key, sentence) for each value in STREAMS that does not fit."""
    settings_by_key = known()
    for key, value in configured().items():
        if key in settings_by_key and (problem := settings_by_key[key].problem(value)) is not None:
            yield key, problem


settings = Settings()
