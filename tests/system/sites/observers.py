"""Keep in memory what a site reports to Sentry and to OpenTelemetry."""

from __future__ import annotations

import json
from typing import Any

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport as BaseTransport

from streams.redaction import hide, hide_in

sentry: list[dict[str, Any]] = []
spans = InMemorySpanExporter()


class Transport(BaseTransport):
    """A transport for Sentry's reports."""

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            sentry.append({"type": item.type, **json.loads(item.payload.get_bytes())})


def reports() -> dict[str, Any]:
    """Return all reports since the last call."""
    found = {"sentry": sentry.copy(), "spans": [json.loads(span.to_json()) for span in spans.get_finished_spans()]}
    sentry.clear()
    spans.clear()
    return found


# --- As in docs/operations/monitoring.md ------------------------------------------------------------------------------


def hide_tokens_in_event(event: Any, hint: Any) -> Any:
    return hide_in(event)


def sample(context: Any) -> float:
    path = context.get("asgi_scope", {}).get("path", "")
    return 0.0 if path.startswith("/quiet/") else 1.0


def hide_tokens_in_span(span: Any, request: Any) -> None:
    for name, value in tuple(span.attributes.items()):
        if isinstance(value, str):
            span.set_attribute(name, hide(value))
