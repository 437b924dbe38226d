"""Keep in memory what a site would send to Sentry and to an OpenTelemetry collector."""

from __future__ import annotations

import json
from typing import Any

from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport as BaseTransport

sent: list[dict[str, Any]] = []


class Transport(BaseTransport):
    """A transport of Sentry that sends nothing."""

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            sent.append({"type": item.type, **json.loads(item.payload.get_bytes())})
