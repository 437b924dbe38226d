"""Every error that Streams raises for its callers. Each message names the rule, the value and the remedy."""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings
from django.core.exceptions import PermissionDenied


class StreamsError(Exception):
    """The base class: `except StreamsError` catches all that Streams raises on purpose."""


class InvalidMessage(StreamsError, ValueError):
    """What was to be published cannot be carried. Nothing was stored."""


class InvalidChannel(InvalidMessage):
    """The channel's name is outside the rule."""


class InvalidEventType(InvalidMessage):
    """The event's type cannot stand in a stream."""


class InvalidData(InvalidMessage):
    """The data cannot be carried, or is too large."""


class MessageTooLarge(InvalidData):
    """The data has more bytes than MAX_MESSAGE_BYTES."""


class IdempotencyKeyReused(InvalidMessage):
    """The key was used on its channel for another message. Raised only where NewMessage asks for it by `strict_key`."""


class IdempotencyKeyInUse(StreamsError):
    """The key is being used by a transaction that is still open. Nothing was published; publish it again later."""


class InvalidJSON(InvalidData):
    """A text that was said to be JSON is none. `line` and `column`, from 1, say where; None where there is no place."""

    def __init__(self, problem: str, line: int | None = None, column: int | None = None) -> None:
        self.problem, self.line, self.column = problem, line, column
        where = "" if line is None else f", in line {line}, column {column}"
        super().__init__(f"This is not JSON: {problem}{where}.")


class InvalidSetting(StreamsError):
    """A value in the STREAMS setting is of the wrong form. `manage.py check` says the same, earlier."""


class LogUnavailable(StreamsError):
    """A stream could not read what it needs from the database, and ends; its client comes back. It has been logged."""


class NotMigrated(StreamsError):
    """The database lacks a table or a column: `manage.py migrate` was not run. Nothing was stored."""


class InvalidToken(StreamsError, PermissionDenied):
    """A signed token that does not hold. `code`: `invalid-token`, `expired-token` or `revoked-token`.

    Where a view does not catch it, Django answers 403, and no 500 that anybody could cause by a made-up token.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class HTTPError(StreamsError):
    """A request that is answered with an error. streams.json_responses.error_response() makes the response.

    Args:
        status: the HTTP status.
        code: a short name for programs, such as `too-many-streams`.
        message: a text for people; str(error) returns it.
        fields: for each invalid part of the request, such as `messages[3].channel`, what is wrong with it.
        retry_after_seconds: the value of a Retry-After header, in whole seconds.
        headers: other headers of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fields: Mapping[str, str] | None = None,
        retry_after_seconds: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.fields = dict(fields or {})
        self.headers = dict(headers or {})
        if retry_after_seconds is not None:
            self.headers["Retry-After"] = str(retry_after_seconds)


def too_many_parameters() -> HTTPError:
    """Return the error for a request with more query parameters than Django reads."""
    limit = settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
    return HTTPError(
        400,
        "too-many-parameters",
        f"A request has at most {limit} query parameters (Django's DATA_UPLOAD_MAX_NUMBER_FIELDS). Send fewer.",
    )


class BroadcastRefused(StreamsError):
    """A step with a broadcast that its state does not allow. The text is for the person who asked for it."""
