"""An upstream over HTTP: any API in the format of OpenAI's chat completions, called with aiohttp.

Its address, its key and its models come from the settings only. relay/proxy/answers.py interprets its answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

try:
    import aiohttp
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "OpenAICompatible calls its upstream by aiohttp, which is not installed: "
        "pip install 'django-sse-streams[relay]'"
    ) from error

from streams import __version__
from streams.exceptions import HTTPError, InvalidSetting
from streams.relay.conf import settings
from streams.relay.upstreams.base import BaseUpstream, UpstreamResponse
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams.relay")

# Shorter than the keep-alive timeout of common servers (uvicorn, under vLLM: 5 s), because a request fails on a
# connection that the server is closing, and a POST is not repeated.
KEEP_ALIVE_SECONDS = 4.0

# Shorter keys are not hidden in answers.
MIN_SECRET_CHARACTERS = 12

# Replaces the key. Names of headers cannot contain these characters, so a header with the key in its name is dropped.
HIDDEN_KEY = "[key]"

# The limit of a line in the log, because aiohttp's errors quote data from the upstream.
MAX_LOGGED_CHARACTERS = 500

# The size of the read buffer. When it is full, reading from the upstream pauses.
READ_BUFFER_BYTES = 65_536


class OpenAICompatible(BaseUpstream):
    """OpenAI itself, DashScope's compatible mode, vLLM, llama.cpp and the like.

    Options: `base_url`, to which /chat/completions is added; `models`, the list of available models; `api_key`,
    optional; `max_tokens_key`, "max_tokens" or "max_completion_tokens".
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        super().__init__(name, options)
        _check_options(f"STREAMS['UPSTREAMS'][{name!r}]['OPTIONS']", options)
        self._url = options["base_url"].rstrip("/") + "/chat/completions"
        self._key: str = options.get("api_key") or ""
        # Not words such as "none" or "EMPTY", which local servers get as their key: they occur in answers as well.
        # Also in lower case, as names of headers are.
        self._secrets = (self._key, self._key.lower()) if len(self._key) >= MIN_SECRET_CHARACTERS else ()
        self._models = list(options["models"])
        self.max_tokens_key = options.get("max_tokens_key", "max_tokens")
        self._sessions: dict[asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[None]]] = {}

    def __repr__(self) -> str:
        return f"<OpenAICompatible {self.name!r}>"

    @property
    def models(self) -> Sequence[str]:
        return self._models

    def hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN_KEY)
        return text

    async def send(self, body: Mapping[str, Any]) -> UpstreamResponse:
        session = await self._session()
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if body.get("stream") else "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"django-sse-streams/{__version__}",
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limit = settings.RELAY_CONNECT_SECONDS
        try:
            response = await session.post(
                self._url,
                data=json.dumps(body, separators=(",", ":")).encode(),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=limit, sock_connect=limit),
            )
        except TimeoutError as error:  # aiohttp's own timeouts are subclasses
            raise self._failure(
                504, "upstream-unreachable", "The upstream did not take the connection in time.", error
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(502, "upstream-unreachable", "The upstream could not be reached.", error) from None
        if problem := _refused(response):
            response.close()
            raise self._failure(502, "upstream-malformed", problem)
        return _HTTPResponse(self, response)

    def _failure(self, status: int, code: str, message: str, error: Exception | None = None) -> HTTPError:
        told = f"{type(error).__name__}: {error}" if error is not None else message
        text = " ".join(self.hide(told).split())[:MAX_LOGGED_CHARACTERS]
        extra = fields(event="upstream-failed", upstream=self.name, code=code, status=status)
        logger.warning("Upstream %s: %s", self.name, text, extra=extra)
        return HTTPError(status, code, message)

    async def _session(self) -> aiohttp.ClientSession:
        """Return the session of the running event loop. Create it if there is none."""
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            for ended in [known for known in tuple(self._sessions) if known.is_closed()]:
                self._sessions.pop(ended)[0].detach()  # its connections went with the loop
            session = aiohttp.ClientSession(
                # No limit, because streams are counted before. A request that waited for a connection of the pool
                # would fail as if the upstream could not be reached.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),  # cookies of one user must not be sent with another user's request
                auto_decompress=False,
                trust_env=False,
                read_bufsize=READ_BUFFER_BYTES,
            )
            keeper = self._keep(loop, session)
            await anext(keeper)
            self._sessions[loop] = (session, keeper)
        return self._sessions[loop][0]

    async def _keep(self, loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> AsyncGenerator[None]:
        """Close the session at the end of its loop.

        An event loop has no hook for its end, but it closes the asynchronous generators that were started in it
        (loop.shutdown_asyncgens, which asyncio.run and asgiref's async_to_sync call).
        """
        try:
            yield
        finally:
            self._sessions.pop(loop, None)
            await session.close()


def _check_options(where: str, options: Mapping[str, Any]) -> None:
    known = ("base_url", "api_key", "models", "max_tokens_key")
    if unknown := [name for name in options if name not in known]:
        raise InvalidSetting(f"{where} has no {unknown[0]!r}; an OpenAICompatible takes {', '.join(known)}.")
    if not _is_base_url(options.get("base_url")):
        raise InvalidSetting(
            f"{where}['base_url'] must be an address such as 'https://api.openai.com/v1': http or https, without user, "
            "query and fragment."
        )
    key = options.get("api_key")
    if key is not None and not (isinstance(key, str) and key.isascii() and key.isprintable() and " " not in key):
        raise InvalidSetting(f"{where}['api_key'] must be a text of visible ASCII characters, or None for no key.")
    models = options.get("models")
    if not isinstance(models, list | tuple) or not models or not all(isinstance(each, str) and each for each in models):
        raise InvalidSetting(f"{where}['models'] must be a list of at least one model's name; got {models!r}.")
    if options.get("max_tokens_key", "max_tokens") not in ("max_tokens", "max_completion_tokens"):
        raise InvalidSetting(f"{where}['max_tokens_key'] must be 'max_tokens' or 'max_completion_tokens'.")


def _is_base_url(value: object) -> bool:
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        return False
    try:
        url = urlsplit(value)
        _ = url.port  # raises ValueError if it is not a number
    except ValueError:
        return False
    return (
        url.scheme in ("http", "https")
        and bool(url.hostname)
        and "@" not in url.netloc
        and not (url.query or url.fragment)
    )


def _refused(response: aiohttp.ClientResponse) -> str | None:
    """Return the reason if the response cannot be used, whatever its body contains."""
    if 300 <= response.status < 400:
        return "The upstream answered with a redirect, which is not followed."
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        return "The upstream compressed its answer although it was asked not to."
    return None


class _HTTPResponse(UpstreamResponse):
    def __init__(self, upstream: OpenAICompatible, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers = [(name.lower(), value) for name, value in response.headers.items()]
        self._upstream = upstream
        self._response = response
        self._closed = False
        protocol = None if response.connection is None else response.connection.protocol
        self._lost = None if protocol is None else protocol.closed
        if self._lost is not None:
            self._lost.add_done_callback(self._tell)

    def _tell(self, lost: asyncio.Future[None]) -> None:
        """Wake the reader when the connection is lost.

        aiohttp does this, except when it has closed the connection itself because of malformed chunks (seen in 3.14).
        Then the reader would wait until its own timeout.
        """
        error = None if lost.cancelled() else lost.exception()
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError(f"The body is malformed. {error or ''}"))

    async def __anext__(self) -> bytes:
        if self._closed:
            raise StopAsyncIteration
        try:
            # Not by lines or chunks, because aiohttp limits their length, and an event can be longer.
            data = await self._response.content.readany()
        except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, OSError) as error:
            if self._closed:  # by another task, while this one waited
                raise StopAsyncIteration from None
            raise self._upstream._failure(
                502, "upstream-broken", "The connection to the upstream broke in the middle of its answer.", error
            ) from None
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        self._closed = True
        if self._lost is not None:
            self._lost.remove_done_callback(self._tell)
        # At the body's end, aiohttp has already returned the connection to the pool, and this does nothing.
        self._response.close()
