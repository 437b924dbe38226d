"""The interface of an open stream, for modules that the subscriber itself imports. It has no other code."""

from __future__ import annotations

from typing import Protocol

from django.http import HttpRequest

from streams.access.admission import Admission
from streams.delivery.cohorts import Member
from streams.presence.counter import OpenStream


class Listener(OpenStream, Member, Protocol):
    """An open stream, as the hub, its rechecks and its signals use it. See Subscriber."""

    cursor: int  # the stream has handed out all messages of its channels up to this position
    request: HttpRequest | None
    admission: Admission | None
    recheck_at: float  # in time.monotonic() seconds; set by the rechecks
    announced: bool  # subscriber_connected was sent; set by the hub

    def log_replaced(self) -> None: ...

    def beat(self, quiet_since: float) -> None: ...

    def revoke(self) -> None: ...

    async def aclose(self) -> None: ...
