"""What goes wrong on the way to an answer, with the HTTP status and the JSON that clients of such APIs read."""

from __future__ import annotations

from typing import Any

from streams.exceptions import StreamsError


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
