"""The base classes of upstreams: APIs for chat completions, in the format of OpenAI's API, that the relay can call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any


class UpstreamResponse(ABC):
    """An upstream's response to one request. The relay always calls aclose().

    It is created when the status and the headers have arrived. `headers` has names in lower case, and one entry for
    each repetition. Iterating yields the body's bytes in parts of any size, as they arrive, without decoding.
    """

    status: int
    headers: Sequence[tuple[str, str]]

    @abstractmethod
    async def __anext__(self) -> bytes:
        """The next bytes. Raises StopAsyncIteration at the body's end, HTTPError if the connection broke.

        If it is cancelled, no bytes are lost, and it can be called again: heartbeats interrupt the wait.
        """

    def __aiter__(self) -> UpstreamResponse:
        return self

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection, at once if the body was not read to its end. Can be called twice."""


class BaseUpstream(ABC):
    """An upstream of STREAMS['UPSTREAMS']. One instance serves all threads and event loops of a process.

    `options` are the setting's OPTIONS. Raise InvalidSetting if they are invalid, without the API key in its text.
    """

    # The API's name for the limit of an answer's length. OpenAI's newer models accept only "max_completion_tokens".
    max_tokens_key = "max_tokens"

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name = name

    @property
    @abstractmethod
    def models(self) -> Sequence[str]:
        """The available models. The first one is used if a request names none."""

    @abstractmethod
    async def send(self, body: Mapping[str, Any]) -> UpstreamResponse:
        """Send a chat completion request, and return the response when its headers have arrived.

        `body` is checked JSON with a `model`. If the task is cancelled, close everything that was opened. Raises
        HTTPError: 502 if the upstream cannot be reached or disconnects, 504 if there is no connection after
        RELAY_CONNECT_SECONDS.
        """

    def hide(self, text: str) -> str:
        """Return `text`, which the upstream sent, without secrets of this site that it can contain."""
        return text
