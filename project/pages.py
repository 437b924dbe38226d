"""The demo site's pages: a live board on the channel `news`, and a number every two seconds."""

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
from streams.hub import Hub
from streams.models import Message
from streams.policies import get_policy
from streams.relay.endpoints import error_response

CHANNEL = "news"

# What the form offers. An EventSource hands out only the types that a page has asked for by name, so the board asks for
# these and for those that it finds in the log.
EVENT_TYPES = ("message", "alert", "correction")

SHOWN_MESSAGES = 10
RANDOM_SECONDS = 2

# The pages carry no script, style or asset of their own: all of it is in static files of this site.
CONTENT_SECURITY_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"


class PublishForm(forms.Form):
    """What staff publish to the board."""

    template_name = "project/form.html"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, label_suffix="", **kwargs)

    event = forms.ChoiceField(label="Type", choices=[(name, name) for name in EVENT_TYPES])
    data = forms.CharField(
        label="Data",
        strip=False,  # as typed
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": "Write what the event is to say."},
    )


@require_safe
@never_cache
def board(request: HttpRequest) -> HttpResponse:
    """The live board."""
    return _board(request, PublishForm())


@require_POST
async def publish_news(request: HttpRequest) -> HttpResponse:
    """Publish what the board's form holds; answers in JSON to the page's script, and with a page to a plain form."""
    as_json = request.get_preferred_type(["text/html", "application/json"]) == "application/json"
    form = PublishForm(request.POST)
    if await get_policy().aask_to_publish(request, [CHANNEL]):
        problem = f"Publishing to {CHANNEL} is for staff who may add messages. Log in, and try again."
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
    """How many streams of this server process have the board's channel."""
    hub = Hub.running()
    return JsonResponse({"listeners": hub.listeners(CHANNEL) if hub else 0})


@require_GET
async def random_numbers(request: HttpRequest) -> HttpResponseBase:
    """A number every two seconds, for as long as the client stays. No log: what is missed is gone."""

    async def numbers() -> AsyncGenerator[int]:
        while True:
            yield random.randrange(100)  # noqa: S311 - nobody's secret
            await asyncio.sleep(RANDOM_SECONDS)

    try:
        return EventStreamResponse(limited(request, numbers()))
    except HTTPError as error:
        return error_response(error)


@require_safe
def random_page(request: HttpRequest) -> HttpResponse:
    """The page that shows them."""
    return render_page(request, "project/random.html", {})


def _board(request: HttpRequest, form: PublishForm, status: int = 200) -> HttpResponse:
    # Read when the template comes to it, after it has taken the cursor for the stream. The other way round, what is
    # published in between would be neither on the page nor in the stream.
    def latest() -> list[Message]:
        newest = Message.objects.filter(channel=CHANNEL, position__isnull=False).order_by("-position")
        return list(newest[:SHOWN_MESSAGES])

    context = {
        "channel": CHANNEL,
        "event_types": EVENT_TYPES,
        "form": form,
        "latest": latest,
        "may_publish": not get_policy().ask_to_publish(request, [CHANNEL]),
    }
    return render_page(request, "project/board.html", context, status)


def render_page(request: HttpRequest, template: str, context: dict[str, Any], status: int = 200) -> HttpResponse:
    """A page of this site, which loads and sends nothing elsewhere."""
    response = render(request, template, context, status=status)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
