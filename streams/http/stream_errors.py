"""The event that reports an exception to the client of a stream."""

from __future__ import annotations

import json

from streams.exceptions import NotMigrated
from streams.protocol import sse

# The exception itself is only logged, because its text can hold anything.
STREAM_ERROR = sse.encode(
    '{"code":"internal","message":"The stream failed on the server. Reconnect to go on."}', event="stream-error"
)


def error_event(error: Exception) -> bytes:
    if isinstance(error, NotMigrated):  # so that the developer sees it in the browser
        return sse.encode(json.dumps({"code": "not-migrated", "message": str(error)}), event="stream-error")
    return STREAM_ERROR
