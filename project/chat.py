"""The demo site's chat: its page, and the endpoint of the article that everyone builds first, `POST /chat/send`.

The endpoint keeps nothing: whose connection drops has lost the rest. The page asks by the app's generations: they last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from django.conf import settings
from django.db import Error
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from project.limits import limited
from project.pages import render_page
from streams import EventStreamResponse, outages
from streams.conf import configured
from streams.databases import non_atomic_requests
from streams.exceptions import HTTPError, NotMigrated
from streams.relay.access import admit
from streams.relay.endpoints import error_response, read_payload, unavailable
from streams.relay.proxy.views import relay

logger = logging.getLogger("project.chat")

# What the article answers to whatever it is asked.
LINES = (
    "你好",
    "你是谁",
    "你是做什么的",
    "你是怎么工作的",
    "你是在哪座城市",
    "你是什么星座",
    "你是哪个国家的",
    "你是哪个省的",
    "你是哪个市的",
    "你是哪个区的",
    "你是哪个街道的",
    "你是哪个社区的",
    "你是哪个村的",
)

# Pages of every site may ask. No cookie comes into it: "*" keeps an answer to a request with cookies from such a page.
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
}


@require_safe
@never_cache
def chat_page(request: HttpRequest) -> HttpResponse:
    """The page: ask, and watch the answer come."""
    return render_page(request, "project/chat.html", {})


@non_atomic_requests
@csrf_exempt  # without an upstream no cookie counts; with one, admit() asks for the token where a session does
@require_http_methods(["POST", "OPTIONS"])
async def send(request: HttpRequest) -> HttpResponseBase:
    """Stream an answer to `{"msg": "…"}`: the upstream's, or the thirteen lines where none is configured."""
    if request.method == "OPTIONS":
        return HttpResponse(headers=CORS)
    try:
        response = await answer(request)
    except HTTPError as error:
        response = error_response(error)
    except (Error, NotMigrated) as error:
        if not outages.is_unavailable(error):
            raise
        logger.exception("A question could not be taken. %s", outages.explain(error))
        response = error_response(unavailable(error))
    for name, value in CORS.items():
        response.headers[name] = value
    return response


async def answer(request: HttpRequest) -> HttpResponseBase:
    """The answer's stream. Raises HTTPError."""
    if "UPSTREAMS" not in configured():
        read_message(request)
        return EventStreamResponse(limited(request, lines()))
    principal = await admit(request)
    question = {"role": "user", "content": read_message(request)}
    return await relay(request, principal, {"messages": [question], "stream": True})


def read_message(request: HttpRequest) -> str:
    """The body's `msg`. Raises HTTPError: 400, or 413 where the body is too large."""
    sent = read_payload(request)
    message = sent.get("msg") if isinstance(sent, dict) else None
    if not isinstance(message, str) or not message.strip():
        raise HTTPError(400, "missing-msg", 'Send an object whose msg is a text, such as {"msg": "Hello"}.')
    return message


async def lines() -> AsyncGenerator[str]:
    """The article's answer, a line every CHAT_LINE_SECONDS."""
    for line in LINES:
        await asyncio.sleep(settings.CHAT_LINE_SECONDS)
        yield line
