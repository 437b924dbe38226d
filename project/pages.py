"""The pages of the demo site: a live board for the channel `news`, and a stream of random numbers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

from asgiref.sync import sync_to_async
from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST, require_safe

from project.limits import limited
from streams import EventStreamResponse, apublish
from streams.exceptions import HTTPError, InvalidEventType, InvalidMessage
from streams.models import Message
from streams.policies import get_policy
from streams.presence import counter
from streams.relay.endpoints import error_response

CHANNEL = "news"

# The choices of the form. An EventSource delivers only event types that a page listens for, so the board listens for
# these and for the types of the messages that it shows.
EVENT_TYPES = ("message", "alert", "correction")

SHOWN_MESSAGES = 10
RANDOM_SECONDS = 2

# All scripts and styles are static files of this site; the pages have none inline.
CONTENT_SECURITY_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"


class PublishForm(forms.Form):
    """The form with which staff publish to the board."""

    template_name = "project/form.html"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, label_suffix="", **kwargs)

    event = forms.ChoiceField(label="Type", choices=[(name, name) for name in EVENT_TYPES])
    data = forms.CharField(
        label="Data",
        strip=False,
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": "Enter the data of the event."},
    )


@require_safe
@never_cache
def board(request: HttpRequest) -> HttpResponse:
    """The live board."""
    return _board(request, PublishForm())


@require_POST
async def publish_news(request: HttpRequest) -> HttpResponse:
    """Publish the submitted form. The page's script gets a JSON response, a form without script gets a page."""
    as_json = request.get_preferred_type(["text/html", "application/json"]) == "application/json"
    form = PublishForm(request.POST)
    if await get_policy().adenied_publish_channels(request, [CHANNEL]):
        problem = f"Only staff who can add messages can publish to {CHANNEL}. Log in and try again."
        if as_json:
            return JsonResponse({"errors": {"__all__": [problem]}}, status=403)
        messages.error(request, problem)
        return await sync_to_async(_board)(request, form, status=403)

    if form.is_valid():
        event, data = form.cleaned_data["event"], form.cleaned_data["data"]
        try:
            message = await apublish(CHANNEL, data, event=event, published_by=await request.auser())
        except InvalidMessage as error:
            form.add_error("event" if isinstance(error, InvalidEventType) else "data", str(error))
        else:
            if as_json:
                return JsonResponse({"position": message.position}, status=201)
            messages.success(request, f"Published as event {message.position}.")
            return redirect("board")
    if as_json:
        return JsonResponse({"errors": form.errors}, status=422)
    return await sync_to_async(_board)(request, form, status=422)


@require_GET
@never_cache
async def listeners(request: HttpRequest) -> JsonResponse:
    """Return the number of streams in this process that have the board's channel."""
    return JsonResponse({"listeners": counter.count().channels.get(CHANNEL, 0)})


@require_GET
async def random_numbers(request: HttpRequest) -> HttpResponseBase:
    """Stream a random number every two seconds. They are not stored, so missed numbers are lost."""

    async def numbers() -> AsyncGenerator[int]:
        while True:
            yield random.randrange(100)  # noqa: S311 - not used for security
            await asyncio.sleep(RANDOM_SECONDS)

    try:
        return EventStreamResponse(limited(request, numbers()))
    except HTTPError as error:
        return error_response(error)


@require_safe
def random_page(request: HttpRequest) -> HttpResponse:
    """The page that shows the random numbers."""
    return render_page(request, "project/random.html", {})


def _board(request: HttpRequest, form: PublishForm, status: int = 200) -> HttpResponse:
    # The template calls this after it has rendered the stream's URL with its cursor. In the opposite order, messages
    # published in between would be missing from both the page and the stream.
    def latest() -> list[Message]:
        newest = Message.objects.filter(channel=CHANNEL, position__isnull=False).order_by("-position")
        return list(newest[:SHOWN_MESSAGES])

    context = {
        "channel": CHANNEL,
        "event_types": EVENT_TYPES,
        "form": form,
        "latest": latest,
        "may_publish": not get_policy().denied_publish_channels(request, [CHANNEL]),
    }
    return render_page(request, "project/board.html", context, status)


def render_page(request: HttpRequest, template: str, context: dict[str, Any], status: int = 200) -> HttpResponse:
    """Render a page with a Content Security Policy that allows only this site."""
    response = render(request, template, context, status=status)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
