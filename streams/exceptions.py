"""The exceptions that Streams raises for its callers. Each message names the rule, the value and the remedy."""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings
from django.core.exceptions import PermissionDenied


class StreamsError(Exception):
    """The base class of all exceptions of Streams."""


class InvalidMessage(StreamsError, ValueError):
    """The message cannot be published. Nothing was stored."""


class InvalidChannel(InvalidMessage):
    """The channel's name is not valid."""


class InvalidEventType(InvalidMessage):
    """The event's type is not valid."""


class InvalidData(InvalidMessage):
    """The data is not valid, or is too large."""


class MessageTooLarge(InvalidData):
    """The data has more bytes than MAX_MESSAGE_BYTES."""


class IdempotencyKeyReused(InvalidMessage):
    """The key was used on its channel for another message. Raised only for a NewMessage with `strict_key=True`."""


class IdempotencyKeyInUse(StreamsError):
    """The key is being used by a transaction that is still open. Nothing was published; publish it again later."""


class InvalidJSON(InvalidData):
    """The text is not valid JSON. `line` and `column` of the mistake count from 1, and are None if they are unknown."""

    def __init__(self, problem: str, line: int | None = None, column: int | None = None) -> None:
        self.problem, self.line, self.column = problem, line, column
        super().__init__(f"This is not JSON: {self.described()}.")

    def described(self) -> str:
        """Return the problem with its place, without a full stop."""
        return self.problem if self.line is None else f"{self.problem}, in line {self.line}, column {self.column}"


class InvalidSetting(StreamsError):
    """A value in the STREAMS setting is not valid. `manage.py check` reports it as well, and earlier."""


class LogUnavailable(StreamsError):
    """A stream could not read from the database, and ends. Its client reconnects. The failure has been logged."""


class EventsMissed(StreamsError):
    """Messages can have been missed, because the log does not continue from the cursor. The stream goes on after it.

    Args:
        reason: `pruned`, `unknown-id` or `malformed-id`; see the wire format.
        requested: the cursor.
        earliest: the position of the oldest message that is still stored, or None if there is none.
        head: the position of the newest message.
    """

    def __init__(self, reason: str, requested: str, earliest: int | None, head: int | None) -> None:
        self.reason, self.requested, self.earliest, self.head = reason, requested, earliest, head
        super().__init__(
            f"Messages after {requested!r} can have been missed ({reason}). Load the current state, and iterate again "
            "to go on, or pass on_reset."
        )


class StreamRefused(StreamsError):
    """A server refuses a stream, and the same request would be refused again.

    Args:
        url: the stream's URL, without secrets.
        status: the HTTP status.
        code: a short name for programs, such as `forbidden`; "" if the server has sent none.
        message: the server's text for people.
    """

    def __init__(self, url: str, status: int, code: str, message: str) -> None:
        self.url, self.status, self.code, self.message = url, status, code, message
        super().__init__(
            f"{url} answered {status}" + (f" ({code})" if code else "") + (f": {message}" if message else "")
        )


class StreamUnavailable(StreamsError):
    """So many attempts to open a stream have failed as its client allows. `status` is that of the last, if any."""

    def __init__(self, url: str, attempts: int, problem: str, *, status: int | None = None) -> None:
        self.url, self.attempts, self.status = url, attempts, status
        super().__init__(f"{url} could not be read in {attempts} attempts (max_attempts). The last problem: {problem}.")


class EventTooLarge(StreamsError):
    """An event of a server has more characters than its client accepts."""


class NotMigrated(StreamsError):
    """The database lacks a table or a column: `manage.py migrate` was not run. Nothing was stored."""


class UnsupportedDatabase(StreamsError):
    """The log's database is neither PostgreSQL nor SQLite. `manage.py check --database default` reports it earlier."""


class InvalidToken(StreamsError, PermissionDenied):
    """A signed token is not valid. `code` is `invalid-token`, `expired-token` or `revoked-token`.

    It is a PermissionDenied, so that Django answers 403 if a view does not catch it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class HTTPError(StreamsError):
    """A request that is answered with an error. streams.http.json_responses.error_response() makes the response.

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
    """A broadcast's state does not allow the requested step. The text is for the person who requested it."""
