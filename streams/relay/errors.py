"""What goes wrong on the way to an answer, with the HTTP status and the JSON that clients of such APIs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.exceptions import StreamsError

# As much of an upstream's own words as is passed on.
MAX_TOLD_CHARACTERS = 2000


class RelayError(StreamsError):
    """A request that is refused, or an answer that failed.

    `status` is the HTTP status where it can still be sent, `code` a word for programs, and the exception's text is for
    people. It holds nothing of the upstream's key, address or body.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_seconds = retry_after_seconds

    def as_json(self) -> dict[str, Any]:
        """The error as OpenAI's API has it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


class UpstreamError(RelayError):
    """An error that the upstream itself told of in the middle of an answer: `told`, its JSON, or a text."""

    def __init__(self, told: object) -> None:
        super().__init__(502, "upstream-error", "The upstream ended its answer with an error.")
        self.told = told

    def as_json(self) -> dict[str, Any]:
        """The upstream's own words, in the form of OpenAI's API."""
        error: dict[str, Any] = super().as_json()["error"]
        if isinstance(self.told, Mapping):
            given = {key: value for key, value in self.told.items() if key in error and _is_short(value)}
            error |= {key: value for key, value in given.items() if value not in (None, "")}
        elif isinstance(self.told, str) and self.told:
            error["message"] = self.told[:MAX_TOLD_CHARACTERS]
        return {"error": error}


def _is_short(value: object) -> bool:
    return isinstance(value, str | int | None) and len(str(value)) <= MAX_TOLD_CHARACTERS
