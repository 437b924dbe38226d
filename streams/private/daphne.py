"""What Streams needs of daphne's internals: the Twisted request behind an ASGI `send`."""

from __future__ import annotations

from functools import partial
from typing import Any

from streams.private import report_missing


def twisted_request(send: Any) -> Any:
    """Return daphne's request, a Twisted IConsumer, which its `send` is bound to; None on other servers.

    daphne's `send` never waits, and the request's producer is how Twisted tells that its buffer is full. Seen in daphne
    4.2 (`send` is `functools.partial(Server.handle_reply, request)`). A `send` of daphne's that waits would make
    it unnecessary. If it is missing, None: a slow client's bytes then wait in daphne's memory, without a bound.
    """
    bound = send.args[0] if isinstance(send, partial) and send.args else None
    if hasattr(bound, "registerProducer") and hasattr(bound, "unregisterProducer"):
        return bound
    function = send.func if isinstance(send, partial) else send
    if (getattr(function, "__module__", None) or "").partition(".")[0] == "daphne":
        report_missing("daphne", "request in its `send`", "What slow clients do not read stays in daphne's memory.")
    return None


def replace_uri(request: Any, uri: Any) -> None:
    """Replace the URI by what `uri(text)` returns of it: daphne writes it into its access log.

    daphne has taken path and query out of it by then, and needs it for that log alone; the log is not Python's logging,
    so that no filter reaches it. Seen in daphne 4.2 (Twisted's Request.uri). An access log by Python's logging
    would make it unnecessary. If it is missing, nothing is replaced.
    """
    if isinstance(before := getattr(request, "uri", None), bytes):
        request.uri = uri(before.decode("latin-1")).encode("latin-1", "replace")
    else:
        report_missing("daphne", "Request.uri", "Its access log shows tokens in URLs.")


def is_connected(request: Any) -> bool:
    """Return True unless the client has left, which has ended a producer's registration as well.

    Seen in Twisted 26.10 (Request.channel is None then). If it is missing, True, and Twisted ignores what comes.
    """
    return getattr(request, "channel", request) is not None


def abort(request: Any) -> None:
    """Break a request's connection: daphne keeps one open whose response the application has left unfinished.

    Seen in daphne 4.2 (Request.channel.transport). daphne closing it would make it unnecessary. If it is
    missing, the connection stays open until the client closes it.
    """
    transport: Any = getattr(getattr(request, "channel", None), "transport", None)
    if hasattr(transport, "abortConnection"):
        transport.abortConnection()
    elif is_connected(request):
        report_missing("daphne", "Request.channel.transport", "Connections of clients that are cut stay open.")
