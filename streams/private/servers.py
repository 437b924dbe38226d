"""Internals of ASGI servers: which of their `send` methods any task of the event loop can call."""

from __future__ import annotations

from typing import Any

# The key of the server's `send` in an ASGI scope, if streams can call it themselves.
DIRECT_SEND = "streams.direct_send"

# The modules of the `send` methods that are known to write at once, or to wait for a plain future of the event loop.
# They use neither the current task nor its cancel scopes and timeouts.
KNOWN = ("uvicorn.protocols.http.", "granian._granian", "streams.asgi")


def sends_from_any_task(send: Any) -> bool:
    """Return True if `send` is the method of a server, not wrapped by middleware, that any task can call.

    Streams then passes live messages to the server without waking a task for each client. Seen in uvicorn 0.54
    (RequestResponseCycle.send), granian 2.8 (ASGIHTTPProtocol.send) and, for daphne, streams.asgi's own `send`. If
    a server's method has another place, False: the request's task sends.
    """
    module = type(getattr(send, "__self__", None)).__module__
    return module.startswith(KNOWN)
