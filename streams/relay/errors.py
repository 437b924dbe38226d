"""The relay's errors in the JSON of OpenAI's API, which the clients of such APIs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.exceptions import HTTPError

# The limit for each text that an upstream sends in an error and that is passed on.
MAX_UPSTREAM_CHARACTERS = 2000


class UpstreamError(HTTPError):
    """An error that the upstream sent in place of an answer, or in the middle of one.

    `sent` is the error as the upstream sent it: its JSON, or a text.
    """

    def __init__(self, sent: object) -> None:
        super().__init__(502, "upstream-error", "The upstream ended its answer with an error.")
        self.sent = sent


def openai_error(error: HTTPError) -> dict[str, Any]:
    """Return the JSON for `error`, with the fields that the upstream sent if it is an UpstreamError."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    found: dict[str, Any] = {"message": str(error), "type": kind, "param": None, "code": error.code}
    sent = error.sent if isinstance(error, UpstreamError) else None
    if isinstance(sent, Mapping):
        found |= {key: value for key, value in sent.items() if key in found and _is_short(value)}
    elif isinstance(sent, str) and sent:
        found["message"] = sent[:MAX_UPSTREAM_CHARACTERS]
    return {"error": found}


def _is_short(value: object) -> bool:
    return isinstance(value, str | int) and 0 < len(str(value)) <= MAX_UPSTREAM_CHARACTERS
