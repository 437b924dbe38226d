"""The chat of the demo site: its page, and a simple endpoint, `POST /chat/send`, as many tutorials show it.

The endpoint stores nothing, so a client that loses its connection loses the rest of the answer. The page uses the app's
generations instead, which are stored and can be resumed.
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
from streams import EventStreamResponse
from streams.conf import configured
from streams.exceptions import HTTPError, NotMigrated
from streams.relay.access import admit
from streams.relay.endpoints import error_response, read_payload, unavailable
from streams.relay.proxy.views import relay
from streams.runtime import failures
from streams.runtime.database import non_atomic_requests

logger = logging.getLogger("project.chat")

# The endpoint sends these lines as the answer to every message, if no upstream is configured.
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

# Pages of every site can use the endpoint. Browsers do not let them read responses to requests with cookies, because of
# the "*".
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
}


@require_safe
@never_cache
def chat_page(request: HttpRequest) -> HttpResponse:
    """The page of the chat."""
    return render_page(request, "project/chat.html", {})


@non_atomic_requests
@csrf_exempt  # without an upstream, cookies do not matter; with one, admit() checks the CSRF token of sessions
@require_http_methods(["POST", "OPTIONS"])
async def send(request: HttpRequest) -> HttpResponseBase:
    """Stream the answer to `{"msg": "…"}` from the upstream, or LINES if no upstream is configured."""
    if request.method == "OPTIONS":
        return HttpResponse(headers=CORS)
    try:
        response = await answer(request)
    except HTTPError as error:
        response = error_response(error)
    except (Error, NotMigrated) as error:
        if not failures.is_unavailable(error):
            raise
        logger.exception("Could not answer a message. %s", failures.explain(error))
        response = error_response(unavailable(error))
    for name, value in CORS.items():
        response.headers[name] = value
    return response


async def answer(request: HttpRequest) -> HttpResponseBase:
    """Return the stream of the answer. Raise HTTPError if the message is refused."""
    if "UPSTREAMS" not in configured():
        read_message(request)
        return EventStreamResponse(limited(request, lines()))
    principal = await admit(request)
    question = {"role": "user", "content": read_message(request)}
    return await relay(request, principal, {"messages": [question], "stream": True})


def read_message(request: HttpRequest) -> str:
    """Return `msg` from the body. Raise HTTPError with status 400, or 413 if the body is too large."""
    sent = read_payload(request)
    message = sent.get("msg") if isinstance(sent, dict) else None
    if not isinstance(message, str) or not message.strip():
        raise HTTPError(400, "missing-msg", 'Send a JSON object with a string "msg", such as {"msg": "Hello"}.')
    return message


async def lines() -> AsyncGenerator[str]:
    """Yield one line every CHAT_LINE_SECONDS."""
    for line in LINES:
        await asyncio.sleep(settings.CHAT_LINE_SECONDS)
        yield line
