"""End a response incompletely, so that its client sees an error. Some clients on `fetch` reconnect only after an error.

ASGI has no message for this. In HTTP/1.1 the last chunk is missing, and in HTTP/2 the stream is reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NoReturn

from streams.http import client_socket
from streams.private.django import EndOfRequest

# How long to wait until the server has written the last bytes, which can happen in another thread.
FLUSH_SECONDS = 0.05

# How long to wait until the server ends the request by itself, after its connection was closed.
CLOSE_SECONDS = 1.0


async def leave(scope: Mapping[str, Any] | None) -> NoReturn:
    """End the response of the current request incompletely, by an exception that Django's ASGI handler catches.

    If the connection is found, it is closed here. The server then assumes that the client has left, and logs nothing.
    Otherwise the application returns without the last part of the body. The server then closes the connection, or
    resets the stream in HTTP/2 (seen in uvicorn 0.54, granian 2.8, hypercorn 0.18, and daphne 4.2 under streams.asgi;
    uvicorn logs an error).
    """
    await asyncio.sleep(FLUSH_SECONDS)
    while client_socket.is_searching(scope):  # noqa: ASYNC110
        await asyncio.sleep(client_socket.AGAIN_SECONDS)
    if client_socket.close(scope):
        await asyncio.sleep(CLOSE_SECONDS)
    raise EndOfRequest("The stream was cut short.")
