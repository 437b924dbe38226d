"""Leaving a response incomplete, so that its client sees an error: the end that clients on `fetch` come back from.

ASGI has no message for it. In HTTP/1.1 the last chunk is missing, and in HTTP/2 the stream is reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NoReturn

from streams import sockets
from streams.private.django import EndOfRequest

# How long a server has to write what it was sent last. It may do so in another thread, or when its loop turns again.
FLUSH_SECONDS = 0.05

# How long a server has, after the connection was closed, to end the request by itself.
CLOSE_SECONDS = 1.0


async def leave(scope: Mapping[str, Any] | None) -> NoReturn:
    """Leave the running request's response incomplete, by an exception that Django's ASGI handler catches.

    If the connection can be found, it is closed here: the server then takes it for a client that has left, and logs
    nothing. Otherwise the application returns without the last part of the body, and the server closes the connection,
    or resets the stream in HTTP/2 (seen in uvicorn 0.54, granian 2.8 and hypercorn 0.18, and in daphne 4.2 under
    streams.asgi; uvicorn logs an error).
    """
    await asyncio.sleep(FLUSH_SECONDS)
    while sockets.is_searching(scope):  # noqa: ASYNC110
        await asyncio.sleep(sockets.AGAIN_SECONDS)
    if scope is not None and sockets.close(scope):
        await asyncio.sleep(CLOSE_SECONDS)
    raise EndOfRequest("The stream was cut short.")
