"""Views of the test site whose content an attacker can choose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.urls import path

from streams import Event, EventStreamResponse
from streams.conf import configured
from streams.relay.upstreams import get_upstream
from streams.views import EventStreamView


class Snapshot(EventStreamView):
    """A stream of `news` whose snapshot is a text from the request."""

    def get_channels(self, request: HttpRequest, **kwargs: object) -> Sequence[str]:
        return ["news"]

    def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        return request.GET["text"]


async def event(request: HttpRequest) -> EventStreamResponse:
    """Send one event whose fields come from the request."""

    async def events() -> AsyncIterator[Event]:
        yield Event(**request.GET.dict())  # type: ignore[arg-type]

    return EventStreamResponse(events())


async def fails(request: HttpRequest) -> HttpResponseBase:
    """Raise an exception in a function whose local variables contain all secrets of the site."""
    site, upstream, streams = settings.SECRET_KEY, get_upstream(), configured()
    how = request.GET.get("how")

    async def broken() -> AsyncIterator[str]:
        yield "so far so good"
        raise RuntimeError(f"the stream failed, of a site with {len(site)} and {len(streams)} of them")

    if how == "stream":
        return EventStreamResponse(broken())
    if how == "relay":
        raise RuntimeError(f"the call of {upstream!r} failed")
    raise RuntimeError("the view failed")


urlpatterns = [
    path("fails/", fails),
    path("snapshot/", Snapshot.as_view()),
    path("event/", event),
]
