"""The part of both event sources of `streams/client.py` that does no I/O: their arguments, and the HTTP library."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, ClassVar

from streams import redaction
from streams.exceptions import EventsMissed
from streams.http.reconnection import PassingRefusal, Reconnection

# httpx 0.28 loses a place in its pool if a request is cancelled, so that its successor comes first.
LIBRARIES = ("httpx2", "httpx")

CONNECT_TIMEOUT_SECONDS = 10.0


class BaseEventSource:
    """An event source without its I/O. See streams.client.EventSource for the arguments."""

    client_class: ClassVar[str]

    def __init__(
        self,
        url: str,
        *,
        channels: Iterable[str] = (),
        last_event_id: str | int | None = None,
        replay: int = 0,
        token: str | Callable[[], str | Awaitable[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        client: Any = None,
        on_reset: Callable[[EventsMissed], object] | None = None,
        timeout_seconds: float = 60.0,
        retry_seconds: float = 3.0,
        max_attempts: int | None = None,
        max_event_characters: int = 4_194_304,
    ) -> None:
        self._library = _library_of(client, self.client_class)
        self._client = client
        self._owns_client = client is None
        self._get_token = token if callable(token) else None
        self._on_reset = on_reset
        self._response: Any = None
        self._chunks: Any = None  # the bytes of the response's body
        self._extensions: dict[str, Any] = {}  # of each request
        self._timeout = self._library.Timeout(timeout_seconds, connect=min(timeout_seconds, CONNECT_TIMEOUT_SECONDS))
        self._state = Reconnection(
            url,
            channels=channels,
            replay=replay,
            last_event_id="" if last_event_id is None else str(last_event_id),
            headers=headers,
            can_renew_token=self._get_token is not None,
            retry_seconds=retry_seconds,
            max_attempts=max_attempts,
            max_event_characters=max_event_characters,
        )
        if isinstance(token, str):
            self._state.set_token(token)
        self._prepare()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._state.shown()!r}, last_event_id={self.last_event_id!r})"

    @property
    def last_event_id(self) -> str:
        """The cursor: the id of the last event that the iteration has returned, or of a checkpoint after it.

        Pass it as `last_event_id` to go on later, or in another process.
        """
        return self._state.last_event_id

    def _prepare(self) -> None:
        raise NotImplementedError

    def _request(self) -> Any:
        if self._client is None:
            # A connection that is used again would be unknown to EventSource.close().
            limits = self._library.Limits(max_keepalive_connections=0)
            self._client = getattr(self._library, self.client_class)(limits=limits)
        return self._client.build_request(
            "GET",
            self._state.url,
            headers=self._state.headers(),
            timeout=self._timeout,
            extensions={**self._extensions},  # a copy, because the library adds to it
        )

    def _passes(self, error: BaseException) -> bool:
        """Return True if the next attempt can succeed after this error."""
        library = self._library
        if isinstance(error, library.UnsupportedProtocol | library.LocalProtocolError):
            return False  # the request itself is wrong
        return isinstance(error, library.TransportError | PassingRefusal | OSError)


def _library_of(client: Any, class_name: str) -> Any:
    """Return the module httpx2 or httpx: the one of the client, or the one that is installed."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            library = import_module(name)
            if client is None or isinstance(client, getattr(library, class_name)):
                redaction.install(LIBRARIES)  # they log the URL of each request
                return library
    if client is None:
        raise ImportError(
            'streams.client needs httpx2 or httpx. Install it with: pip install "django-sse-streams[client]"'
        )
    raise TypeError(
        f"client is a {class_name} of httpx2 or httpx; got {type(client).__module__}.{type(client).__name__}."
    )


def wake(stream: Any) -> None:
    """Wake the thread that waits for bytes of this network stream, which closing its socket would not do."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)
