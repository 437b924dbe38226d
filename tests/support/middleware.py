"""Middleware like that of sites, which the tests put in front of streams; see TEST_MIDDLEWARE in tests/settings.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import async_only_middleware, sync_only_middleware


@sync_only_middleware
def sync_only(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """Sync middleware, under which Django runs the view through a thread and back."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response.headers["X-Sync-Middleware"] = "was here"
        return response

    return middleware


@async_only_middleware
def wrap_content(get_response: Callable[[HttpRequest], Awaitable[Any]]) -> Callable[[HttpRequest], Awaitable[Any]]:
    """Wrap streamed content in a generator, as middleware that counts or changes bytes does."""

    async def wrapped(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in content:
            yield chunk

    async def middleware(request: HttpRequest) -> Any:
        response = await get_response(request)
        if response.streaming and response.is_async:
            response.streaming_content = wrapped(response.streaming_content)
        return response

    return middleware


@async_only_middleware
def slow(get_response: Callable[[HttpRequest], Awaitable[Any]]) -> Callable[[HttpRequest], Awaitable[Any]]:
    """Delay the request by `?wait=` seconds and the response by `?slow=` seconds.

    Middleware that authenticates users or writes an audit log can cause such delays.
    """

    async def middleware(request: HttpRequest) -> Any:
        await asyncio.sleep(float(request.GET.get("wait", 0)))
        response = await get_response(request)
        await asyncio.sleep(float(request.GET.get("slow", 0)))
        return response

    return middleware


@sync_only_middleware
def slow_sync(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """Delay the response in a thread, which cannot be cancelled."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        time.sleep(float(request.GET.get("slow", 0)))
        return response

    return middleware
