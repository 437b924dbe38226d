"""Django's application inside of OpenTelemetry's ASGI middleware."""

import os

import django.core.asgi
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from streams.asgi import get_asgi_application
from tests.system.sites import observers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.system.sites.projects.observed")

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(observers.spans))
trace.set_tracer_provider(provider)
DjangoInstrumentor().instrument(request_hook=observers.hide_tokens_in_span)

application = get_asgi_application(
    OpenTelemetryMiddleware(
        django.core.asgi.get_asgi_application(),
        exclude_spans=["receive", "send"],
        server_request_hook=observers.hide_tokens_in_span,
    )
)
