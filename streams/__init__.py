"""Streams: Server-Sent Events for Django, kept in a message log, so that no client ever misses one.

    from streams import publish
    publish("news", {"title": "Hello"})

The names below are the public ones. They load on first use: importing `streams` itself loads no models, so that it may
stand in settings and in other apps' modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.access.revocation import adisconnect, disconnect
    from streams.delivery.subscription import subscribe
    from streams.http.response import EventStreamResponse
    from streams.protocol.events import Event, NewMessage
    from streams.publishing.publish import apublish, apublish_many, publish, publish_many

__version__ = "1.0.0"

__all__ = [
    "Event",
    "EventStreamResponse",
    "NewMessage",
    "adisconnect",
    "apublish",
    "apublish_many",
    "disconnect",
    "publish",
    "publish_many",
    "subscribe",
]

# No module may be called as one of the names is: importing it would put the module in the name's place.
_HOMES = {
    "Event": "streams.protocol.events",
    "EventStreamResponse": "streams.http.response",
    "NewMessage": "streams.protocol.events",
    "adisconnect": "streams.access.revocation",
    "apublish": "streams.publishing.publish",
    "apublish_many": "streams.publishing.publish",
    "disconnect": "streams.access.revocation",
    "publish": "streams.publishing.publish",
    "publish_many": "streams.publishing.publish",
    "subscribe": "streams.delivery.subscription",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
