"""Signals: a stream has been opened, a stream has ended.

    @receiver(subscriber_connected)
    def note(sender, channels, request, **kwargs): ...

Receivers are called in a thread and never on the event loop, one after the other and in the order in which it happened;
they may use the ORM. What one raises is logged, and keeps no stream from anything. Where they are so slow that a
thousand signals of an event loop wait for them, more are dropped, and a warning says so. Arguments: `channels`, a tuple
of names; `request`, the HttpRequest, or None where the stream is none of a view; `connections`, how many streams this
process has open after it.
"""

from __future__ import annotations

from django.dispatch import Signal

subscriber_connected = Signal()
subscriber_disconnected = Signal()
