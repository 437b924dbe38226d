"""Internals of daphne: the Twisted request behind an ASGI `send`."""

from __future__ import annotations

from functools import partial
from typing import Any

from streams.private import report_missing


def twisted_request(send: Any) -> Any:
    """Return the daphne request, a Twisted IConsumer, that `send` is bound to; None on other servers.

    daphne's `send` never waits. Twisted reports a full buffer to the producer of the request. Seen in daphne 4.2
    (`send` is `functools.partial(Server.handle_reply, request)`). A `send` that waits would make it unnecessary. If it
    is missing, None: the bytes for a slow client then wait in daphne's memory, without a limit.
    """
    bound = send.args[0] if isinstance(send, partial) and send.args else None
    if hasattr(bound, "registerProducer") and hasattr(bound, "unregisterProducer"):
        return bound
    function = send.func if isinstance(send, partial) else send
    if (getattr(function, "__module__", None) or "").partition(".")[0] == "daphne":
        report_missing("daphne", "request in its `send`", "What slow clients do not read stays in daphne's memory.")
    return None


def replace_uri(request: Any, uri: Any) -> None:
    """Replace the URI by the result of `uri(text)`: daphne writes it into its access log.

    daphne has already parsed path and query, and needs the URI for that log alone. It does not use Python's logging, so
    no filter can change the line. Seen in daphne 4.2 (Twisted's Request.uri). An access log by Python's logging
    would make it unnecessary. If it is missing, nothing is replaced.
    """
    if isinstance(before := getattr(request, "uri", None), bytes):
        request.uri = uri(before.decode("latin-1")).encode("latin-1", "replace")
    else:
        report_missing("daphne", "Request.uri", "Its access log shows tokens in URLs.")


def is_connected(request: Any) -> bool:
    """Return True unless the client has disconnected, which also ends the registration of a producer.

    Seen in Twisted 26.10 (Request.channel is None then). If it is missing, True, and Twisted ignores later writes.
    """
    return getattr(request, "channel", request) is not None


def abort(request: Any) -> None:
    """Break a request's connection: daphne keeps it open if the application leaves the response unfinished.

    Seen in daphne 4.2 (Request.channel.transport). daphne closing it would make it unnecessary. If it is
    missing, the connection stays open until the client closes it.
    """
    transport: Any = getattr(getattr(request, "channel", None), "transport", None)
    if hasattr(transport, "abortConnection"):
        transport.abortConnection()
    elif is_connected(request):
        report_missing("daphne", "Request.channel.transport", "Connections of clients that are cut stay open.")
