"""What an upstream is: an API for chat completions, as OpenAI's has them, that the relay may call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.core.checks import CheckMessage


class UpstreamResponse(ABC):
    """An upstream's answer to one request, from its status line on. Closed by aclose(), always.

    `status` and `headers` (names in lower case, repeated ones one by one) are there once it is made. Iterating gives
    the body's bytes in pieces of any size, as they come, decoded of nothing.
    """

    status: int
    headers: Sequence[tuple[str, str]]

    @abstractmethod
    async def __anext__(self) -> bytes:
        """The next bytes. Raises StopAsyncIteration at the body's end, HTTPError where the connection broke.

        Cancelled, it loses nothing, and may be called again: waiting is interrupted for heartbeats.
        """

    def __aiter__(self) -> UpstreamResponse:
        return self

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of the connection, at once where the body has not been read to its end. May be called twice."""


class BaseUpstream(ABC):
    """An upstream of STREAMS['UPSTREAMS']. One instance serves all threads and event loops of a process.

    `options` are the setting's OPTIONS. Raise InvalidSetting, in words, where they do not fit; never with a key in it.
    """

    # What the API calls the limit of an answer's length. OpenAI's newer models take only "max_completion_tokens".
    max_tokens_key = "max_tokens"

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name = name

    @property
    @abstractmethod
    def models(self) -> Sequence[str]:
        """The models that may be asked for; the first one where a request names none."""

    @abstractmethod
    async def send(self, body: Mapping[str, Any]) -> UpstreamResponse:
        """Send a chat completion request, checked JSON with `model`, and return the response when its head is there.

        Raises HTTPError where no response came: 502 where the upstream could not be reached or broke off, 504 where
        RELAY_CONNECT_SECONDS passed before there was a connection. Cancelled, it leaves nothing behind.
        """

    def hide(self, text: str) -> str:
        """`text`, which the upstream sent, without secrets of ours that it may repeat."""
        return text

    def check(self) -> Iterator[CheckMessage]:
        """System checks of the options, beyond what __init__ refuses."""
        yield from ()
