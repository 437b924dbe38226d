"""The STREAMS setting: its keys, their defaults and their rules. checks.py reports wrong values.

Each key is a class attribute of Settings. `settings.HEARTBEAT_SECONDS` reads the value at every access, so that
`override_settings` works. The names contain the units.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast, overload

from django.conf import settings as django_settings

from streams.exceptions import InvalidSetting

# A shorter secret can be guessed.
MIN_SECRET_CHARACTERS = 16

T = TypeVar("T")
Rule = Callable[[object], str | None]


def positive_number(value: object) -> str | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return None if fits else "a number above 0"


def positive_whole(value: object) -> str | None:
    fits = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return None if fits else "a whole number above 0"


def whole_up_to(limit: int) -> Rule:
    expected = f"a whole number from 1 to {limit}"
    return lambda value: expected if positive_whole(value) or cast(int, value) > limit else None


def or_none(rule: Rule) -> Rule:
    def optional(value: object) -> str | None:
        expected = None if value is None else rule(value)
        return expected and f"{expected}, or None"

    return optional


def boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def secret(value: object) -> str | None:
    fits = isinstance(value, str) and re.fullmatch(rf"[!-~]{{{MIN_SECRET_CHARACTERS},}}", value)
    return None if fits else f"{MIN_SECRET_CHARACTERS} or more ASCII characters without spaces"


def dotted_path(value: object) -> str | None:
    return None if isinstance(value, str) and "." in value else "the dotted path of a class"


def patterns(value: object) -> str | None:
    listed = isinstance(value, list | tuple | set | frozenset) and all(isinstance(item, str) for item in value)
    return None if listed else "a list of channel names or patterns, such as ['news', 'score.*']"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# In a list of networks: clients of a Unix socket, which have no address.
UNIX = "unix"


def networks(value: object) -> str | None:
    try:
        if isinstance(value, list | tuple):
            parse_networks(tuple(value))
            return None
    except (TypeError, ValueError):
        pass
    return "a list of addresses or networks, such as ['127.0.0.1', '10.0.0.0/8'], or 'unix' for a Unix socket"


@lru_cache(maxsize=8)  # called for each request, and parsing is slower than looking up the address
def parse_networks(items: tuple[str, ...]) -> tuple[Network, ...]:
    """Return the networks in a list, without UNIX. Raises ValueError or TypeError if an item is not a network."""
    return tuple(ipaddress.ip_network(item) for item in items if item != UNIX)


def cache_alias(value: object) -> str | None:
    return None if isinstance(value, str) and value in django_settings.CACHES else "the name of a cache in CACHES"


def backend(value: object) -> str | None:
    fits = (
        isinstance(value, Mapping)
        and dotted_path(value.get("BACKEND")) is None
        and isinstance(value.get("OPTIONS", {}), Mapping)
        and value.keys() <= {"BACKEND", "OPTIONS"}
    )
    return None if fits else "a dict such as {'BACKEND': 'streams.notifiers.local.LocalNotifier', 'OPTIONS': {}}"


# Values of these types stay valid once they were checked. (A text does not: it can be the name of another setting.)
_IMMUTABLE = (int, float, bool, type(None))


class Setting(Generic[T]):
    """One key of STREAMS, with its default and its rule. A rule returns the expected form if a value is wrong."""

    name: str

    def __init__(self, default: T, rule: Rule) -> None:
        self.default = default
        self.rule = rule
        self._checked: object = _IMMUTABLE  # the last valid value, so that it is not checked each time

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
        if value is self._checked:
            return cast(T, value)
        if (problem := self.problem(value)) is not None:
            raise InvalidSetting(problem)
        if type(value) in _IMMUTABLE:
            self._checked = value
        return cast(T, value)

    def problem(self, value: object) -> str | None:
        """Return an error message if `value` is wrong, or None."""
        expected = self.rule(value)
        return expected and f"STREAMS[{self.name!r}] must be {expected}; got {value!r}."


class Secret(Setting[T]):
    """A setting that can contain passwords or keys, so that errors do not show its value."""

    def problem(self, value: object) -> str | None:
        if (expected := self.rule(value)) is None:
            return None
        return f"STREAMS[{self.name!r}] must be {expected}. (The value is not shown, because it can contain a key.)"


class Settings:
    """All keys of STREAMS. docs/reference/settings.md describes each of them."""

    NOTIFIER = Secret[Mapping[str, Any]]({"BACKEND": "streams.notifiers.local.LocalNotifier", "OPTIONS": {}}, backend)
    POLICY = Setting("streams.policies.DefaultPolicy", dotted_path)
    PUBLIC_CHANNELS = Setting[list[str]]([], patterns)

    TOKEN_SECONDS = Setting[float](3600, positive_number)
    # The ids of revoked tokens are kept for this time.
    MAX_TOKEN_SECONDS = Setting[float](2_592_000, positive_number)
    RECHECK_SECONDS = Setting[float | None](60, or_none(positive_number))
    TRUSTED_PROXIES = Setting[list[str]]([], networks)

    HEARTBEAT_SECONDS = Setting[float](15, positive_number)
    RETRY_MILLISECONDS = Setting(3000, positive_whole)
    POLL_SECONDS = Setting[float](1, positive_number)
    SEND_TIMEOUT_SECONDS = Setting[float](30, positive_number)
    MAX_STREAM_SECONDS = Setting[float | None](None, or_none(positive_number))
    REFUSE_IN_BAND = Setting(False, boolean)
    PRESENCE_SECONDS = Setting[float | None](5, or_none(positive_number))

    MAX_MESSAGE_BYTES = Setting(262_144, positive_whole)
    # The query of a replay has one part for each channel, and SQLite allows 500 parts.
    MAX_CHANNELS_PER_STREAM = Setting(50, whole_up_to(500))
    MAX_STREAMS_PER_PROCESS = Setting[int | None](10_000, or_none(positive_whole))
    MAX_STREAMS = Setting[int | None](None, or_none(positive_whole))
    MAX_STREAMS_PER_USER = Setting[int | None](100, or_none(positive_whole))
    # The default does not apply to clients that look like a proxy; see is_probably_shared() in delivery/limits.py.
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
    DATABASE_THREADS = Setting(4, positive_whole)
    DATABASE_TIMEOUT_SECONDS = Setting[float | None](15, or_none(positive_number))

    METRICS_TOKEN = Secret[str | None](None, or_none(secret))

    RETENTION_SECONDS = Setting[float | None](604_800, or_none(positive_number))
    RETENTION_MESSAGES_PER_CHANNEL = Setting[int | None](None, or_none(positive_whole))
    RETENTION_BYTES = Setting[int | None](None, or_none(positive_whole))
    PRUNE_SECONDS = Setting[float | None](60, or_none(positive_number))


def configured() -> Mapping[str, Any]:
    """Return the site's STREAMS dict, unchecked. It is empty if the site has none."""
    value: object = getattr(django_settings, "STREAMS", {})
    if type(value) is dict:
        return value  # isinstance() takes longer, and a request reads dozens of settings
    if not isinstance(value, Mapping):
        # Only its type is shown: a comma after the dict makes a tuple, which contains the passwords of the dict.
        raise InvalidSetting(f"STREAMS must be a dict of settings; got a {type(value).__name__}.")
    return value


_groups: list[type] = [Settings]


def register(group: type) -> None:
    """Add the settings of another class to the keys of STREAMS, for an app that comes with Streams."""
    if group not in _groups:
        _groups.append(group)


def known() -> dict[str, Setting[Any]]:
    """Return {key: setting} for all keys of STREAMS."""
    return {key: value for group in _groups for key, value in vars(group).items() if isinstance(value, Setting)}


def known_keys() -> list[str]:
    return sorted(known())


def problems() -> Iterator[tuple[str, str]]:
    """Yield (key, error message) for each wrong value in STREAMS."""
    settings_by_key = known()
    for key, value in configured().items():
        if key in settings_by_key and (problem := settings_by_key[key].problem(value)) is not None:
            yield key, problem


settings = Settings()
