"""Middleware that names the answering server in a header, because a client behind nginx could not know it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import async_only_middleware


@async_only_middleware
def name_the_server(
    get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]],
) -> Callable[[HttpRequest], Awaitable[HttpResponseBase]]:
    name = f"{os.environ.get('PGAPPNAME', '')} (process {os.getpid()})"

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        response = await get_response(request)
        response.headers["X-Server"] = name
        return response

    return middleware
