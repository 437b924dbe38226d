"""Signals: a stream was opened, and a stream has ended.

    @receiver(subscriber_connected)
    def count(sender, channels, request, connections, **kwargs): ...

Arguments:

channels: The names of the stream's channels, a tuple.
request: The HttpRequest, or None if the stream does not belong to a view.
connections: The number of streams that this process has open after it.

Receivers are called one after the other in a thread, never on the event loop, and can use the ORM. Their exceptions
are logged and do not affect streams. If 1,000 signals of an event loop wait for slow receivers, further signals are
dropped, and a warning is logged.
"""

from __future__ import annotations

from django.dispatch import Signal

subscriber_connected = Signal()
subscriber_disconnected = Signal()
