"""For sites that come from django-eventstream: its function names, URLs and channel managers, on Streams.

    import streams.eventstream as django_eventstream

    path("events/", include(django_eventstream.urls), {"channels": ["test"]})

    from streams.eventstream import send_event

    send_event("test", "message", {"text": "hello world"})

Calls, routes and clients that were written for django-eventstream 5 go on working. The differences are in
docs/guides/coming-from-django-eventstream.md. New code uses `publish()` and `streams.urls`.
"""

from __future__ import annotations

import functools
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseBase
from django.urls import path
from django.utils.asyncio import async_unsafe
from django.utils.module_loading import import_string

from streams import log
from streams.access.revocation import disconnect
from streams.exceptions import HTTPError
from streams.http import refusals
from streams.http.json_responses import error_response, record_refusal
from streams.http.response import HEADERS
from streams.models import Message
from streams.policies import BasePolicy, DefaultPolicy, get_policy
from streams.protocol import sse
from streams.protocol.events import GENERATION_PREFIX, USER_PREFIX, validate_channels
from streams.publishing.publish import apublish, publish
from streams.runtime.resets import on_settings_change
from streams.tokens import token_of
from streams.views import EventStreamView

__all__ = [
    "ChannelManagerPolicy",
    "DefaultChannelManager",
    "achannel_permission_changed",
    "asend_event",
    "channel_permission_changed",
    "events",
    "get_current_event_id",
    "send_event",
    "urls",
]

# The id of a `stream-error` event. A client that comes back with it is refused for good.
ERROR_ID = "error"

# The event that django-eventstream sends at the beginning of each stream.
STREAM_OPEN = b"event: stream-open\ndata:\n\n"


@async_unsafe(
    "send_event() waits for the database, and would block everything else on this event loop. "
    "Use `await asend_event(…)` here."
)
def send_event(
    channel: str,
    event_type: str,
    data: Any,
    skip_user_ids: Iterable[Any] | None = None,
    async_publish: bool = True,
    json_encode: bool = True,
) -> Message:
    """Publish an event, as django-eventstream's function of this name does. See `publish()`.

    Args:
        channel: the channel's name, `A-Z a-z 0-9 . _ -`, 1 to 99 characters.
        event_type: the type that clients listen for. Line breaks and NUL are removed.
        data: the data. It becomes JSON by DjangoJSONEncoder.
        skip_user_ids: has no effect. A warning is given if it is not empty.
        async_publish: has no effect.
        json_encode: False to send str(data) as it is.

    Returns the stored Message. Inside `transaction.atomic()` it belongs to that transaction. For the errors see
    publish().
    """
    return publish(channel, _text(data, json_encode, skip_user_ids, stacklevel=4), event=_event_type(event_type))


async def asend_event(
    channel: str,
    event_type: str,
    data: Any,
    skip_user_ids: Iterable[Any] | None = None,
    async_publish: bool = True,
    json_encode: bool = True,
) -> Message:
    """See send_event()."""
    return await apublish(channel, _text(data, json_encode, skip_user_ids, stacklevel=3), event=_event_type(event_type))


def _text(data: Any, json_encode: bool, skip_user_ids: Iterable[Any] | None, stacklevel: int) -> str:
    if skip_user_ids:
        warnings.warn(
            "skip_user_ids has no effect: everyone who can read the channel gets the event. Put the sender's id into "
            "the data and skip the event in the browser, or publish to the channels of single users.",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
    return json.dumps(data, cls=DjangoJSONEncoder) if json_encode else str(data)


def _event_type(event_type: Any) -> str:
    return re.sub(r"[\r\n\0]", "", str(event_type))


def get_current_event_id(channels: Iterable[str]) -> str:
    """Return the event id from which a page's stream goes on without a gap. The same for all channels. Uses a query.

    new ReconnectingEventSource("/events/", {lastEventId: "{{ last_id }}"})

    Raise InvalidChannel if a name is not valid. In templates, use {% stream_url %} instead.
    """
    validate_channels(list(channels))
    return str(log.head().head)


def channel_permission_changed(user: Any, channel: str) -> None:
    """End the open streams of `user` on `channel`, after the permission to read it was taken away. See disconnect().

    Nothing happens if the site's channel manager still lets the user read the channel. `user` is None for anonymous
    clients: all streams of the channel end then, and the clients that can still read it reconnect and miss nothing.
    """
    if not _manager_path() or not _channel_manager().can_read_channel(user, channel):
        disconnect(user=user, channel=channel)


async def achannel_permission_changed(user: Any, channel: str) -> None:
    """See channel_permission_changed()."""
    await sync_to_async(channel_permission_changed)(user, channel)


# --- Channel managers -------------------------------------------------------------------------------------------------


class DefaultChannelManager:
    """The base class of a site's channel manager, which EVENTSTREAM_CHANNELMANAGER_CLASS names.

    Its methods are called in a thread, and can use the ORM. `is_channel_reliable` is not called: all events are stored.
    """

    def get_channels_for_request(self, request: HttpRequest, view_kwargs: dict[str, Any]) -> Iterable[str]:
        """Return the channels of a stream: those of the route, or else each `channel` of the query."""
        if "format-channels" in view_kwargs:
            return list(dict.fromkeys(each.format(**view_kwargs) for each in view_kwargs["format-channels"]))
        if "channels" in view_kwargs:
            return list(view_kwargs["channels"])
        return [view_kwargs["channel"]] if "channel" in view_kwargs else request.GET.getlist("channel")

    def can_read_channel(self, user: Any, channel: str) -> bool:
        """Return True if `user`, or an anonymous client if it is None, can read `channel`."""
        return True

    def is_channel_reliable(self, channel: str) -> bool:
        return True


class ChannelManagerPolicy(DefaultPolicy):
    """A policy that lets the site's channel manager decide who can read. Set it as STREAMS["POLICY"].

    The streams of this module use it by themselves if EVENTSTREAM_CHANNELMANAGER_CLASS is set. As STREAMS["POLICY"] it
    also decides for `streams.urls`, the API and the admin.

    It does not decide about the channels of users and of answers, `user.…` and `generation.…`. django-eventstream has
    no such channels, so that a manager can admit everyone to them without knowing it. DefaultPolicy decides there.
    """

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        if (token := token_of(request)) is not None:
            return token.may_read(channel)
        if channel.startswith((USER_PREFIX, GENERATION_PREFIX)):
            return super().can_subscribe(request, channel)
        user = getattr(request, "user", None)
        is_known = user is not None and user.is_authenticated
        return bool(_channel_manager().can_read_channel(user if is_known else None, channel))


def _manager_path() -> str | None:
    return getattr(django_settings, "EVENTSTREAM_CHANNELMANAGER_CLASS", None)


@functools.cache
def _channel_manager() -> Any:
    path = _manager_path()
    return import_string(path)() if path else DefaultChannelManager()


@functools.cache
def _manager_policy() -> BasePolicy:
    return ChannelManagerPolicy()


on_settings_change(_channel_manager.cache_clear, "EVENTSTREAM_CHANNELMANAGER_CLASS")


# --- The view ---------------------------------------------------------------------------------------------------------


class _EventsView(EventStreamView):
    """A stream with the refusals that the clients of django-eventstream know."""

    preamble = STREAM_OPEN

    def get_channels(self, request: HttpRequest, **kwargs: Any) -> Sequence[str]:
        return list(_channel_manager().get_channels_for_request(request, kwargs))

    async def _channels(self, request: HttpRequest, **kwargs: Any) -> Sequence[str]:
        # In a thread, because a channel manager can use the ORM, for example for `request.user`.
        return await sync_to_async(self.get_channels)(request, **kwargs)

    def get_policy(self) -> BasePolicy:
        return _manager_policy() if _manager_path() else get_policy()

    async def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        if self.get_cursor(request) == ERROR_ID:
            return HttpResponseBadRequest("Invalid request: Can't resume session after stream-error.\n")
        try:
            return await self._stream(request, **kwargs)
        except HTTPError as error:
            if error.status == 400:
                record_refusal(error)
                return _stream_error("bad-request", f"Invalid request: {error}")
            if error.status == 403:
                record_refusal(error)
                refused = await self._refused(request, **kwargs) if error.code == "forbidden" else []
                return _stream_error("forbidden", str(error), channels=refused)
            if refusals.is_in_band(request, error):
                return refusals.in_band(request, error)
            return error_response(error)  # it passes, and the client tries again

    async def _refused(self, request: HttpRequest, **kwargs: Any) -> list[str]:
        channels = validate_channels(await self._channels(request, **kwargs))
        return await self.get_policy().adenied_channels(request, channels)


def _stream_error(condition: str, text: str, **extra: Any) -> HttpResponse:
    """Return a refusal that a browser shows to its listeners: they see neither the status nor the body of an error."""
    body = sse.encode(json.dumps({"condition": condition, "text": text, **extra}), event="stream-error", id=ERROR_ID)
    return HttpResponse(body, headers=HEADERS)


events = _EventsView.as_view()

urlpatterns = [path("", events)]

# For `include(django_eventstream.urls)`.
urls = urlpatterns
