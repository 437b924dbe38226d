"""Views of a site's own whose content an attacker may choose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from django.http import HttpRequest
from django.urls import path

from streams import Event, EventStreamResponse
from streams.views import EventStreamView


class Snapshot(EventStreamView):
    """A stream of `news` whose snapshot is a text of the request's."""

    def get_channels(self, request: HttpRequest, **kwargs: object) -> Sequence[str]:
        return ["news"]

    def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        return request.GET["text"]


async def event(request: HttpRequest) -> EventStreamResponse:
    """One event, whose fields the request chooses."""

    async def events() -> AsyncIterator[Event]:
        yield Event(**request.GET.dict())  # type: ignore[arg-type]

    return EventStreamResponse(events())


urlpatterns = [
    path("snapshot/", Snapshot.as_view()),
    path("event/", event),
]
