"""The serving of a request, as far as a stream depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

# An ASGI send.
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Serving(Protocol):
    """Serves one request: the task of Django's handler, or streams.direct.exchange.Exchange."""

    def cancel(self) -> object:
        """End the request. Its response stays incomplete."""

    def done(self) -> bool: ...

    def get_loop(self) -> asyncio.AbstractEventLoop: ...
