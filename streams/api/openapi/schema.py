"""The API's OpenAPI document, made by drf-spectacular. It has our views only and ignores the site's settings for it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from drf_spectacular.drainage import reset_generator_stats
from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerExtension
from drf_spectacular.generators import EndpointEnumerator, SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import normalize_result_object, sanitize_result_object
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.utils import extend_schema

from streams import __version__
from streams.conf import settings

# A string, as in ROOT_URLCONF, because the modules of the views import this one.
URLCONF = "streams.api.urls"

# In the order in which they are shown.
TAGS = ("Publishing", "Reading", "Access", "Health", "Schema")

# Held while the document is made, because drf-spectacular's registry of extensions is not thread-safe at its first use.
_making = threading.Lock()

V = TypeVar("V", bound=Callable[..., Any])


class StreamsSchema(AutoSchema):
    """The schema class of our views. It is set on them because DEFAULT_SCHEMA_CLASS is the site's choice."""

    def get_operation(self, *args: Any) -> Any:
        operation = super().get_operation(*args)
        if operation and "requestBody" in operation:
            operation["requestBody"]["required"] = True  # also if all of its fields are optional
        return operation

    def get_auth(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = super().get_auth()
        if self.view.needs_credentials:
            found = [each for each in found if each]
        if not self.view.takes_signed_tokens:
            found = [each for each in found if not each.keys() & set(SignedTokenScheme.name)]
        return found


def described(**words: Any) -> Callable[[V], V]:
    """extend_schema() for methods of our views. It works with any DEFAULT_SCHEMA_CLASS."""

    def decorate(method: V) -> V:
        # extend_schema() extends the schema class that it finds here (seen in drf-spectacular 0.30).
        method.kwargs = {"schema": StreamsSchema}  # type: ignore[attr-defined]
        return extend_schema(**words)(method)

    return decorate


class SignedTokenScheme(OpenApiAuthenticationExtension):
    """Describes signed tokens, which are in a header or in the URL."""

    target_class = "streams.api.authentication.SignedTokenAuthentication"
    name = ["signedToken", "signedTokenInURL"]

    def get_security_requirement(self, auto_schema: AutoSchema) -> list[dict[str, list[Any]]]:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: AutoSchema) -> list[dict[str, Any]]:
        return [
            {
                "type": "http",
                "scheme": "bearer",
                "description": "A signed token, from `POST tokens/` or `streams.tokens.make_token()`.",
            },
            {
                "type": "apiKey",
                "in": "query",
                "name": "token",
                "description": "A signed token, for clients that cannot send headers.",
            },
        ]


class BodyExtension(OpenApiSerializerExtension):
    """Describes a request's object as one that allows no other names."""

    target_class = "streams.api.requests.serializers.Body"
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: Any) -> Any:
        found = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return {**found, "additionalProperties": False}


class _Endpoints(EndpointEnumerator):
    """Our endpoints in the order of the URLs, without the hooks and the sorting of the site's settings."""

    def get_api_endpoints(self, patterns: Any = None, prefix: str = "") -> Any:
        return self._get_api_endpoints(patterns, prefix)


class _Generator(SchemaGenerator):
    endpoint_inspector_cls = _Endpoints


def document(mount: str) -> Any:
    """Return the OpenAPI document of the API at the URL path `mount`, with the limits from the site's settings."""
    limits = (settings.MAX_MESSAGES_PER_REQUEST, settings.MAX_CHANNELS_PER_STREAM, settings.MAX_TOKEN_SECONDS)
    with _making:
        return _document(mount, limits)


@functools.lru_cache(maxsize=8)
def _document(mount: str, limits: tuple[int, int, float]) -> Any:
    reset_generator_stats()
    generator = _Generator(urlconf=URLCONF)
    paths = generator.parse(None, public=True)
    components = generator.registry.build({})
    _set_limits(components["schemas"], *limits)
    root = {
        "openapi": spectacular_settings.OAS_VERSION,
        "info": {
            "title": "Streams",
            "version": __version__,
            "description": "Publish messages to channels, read the history of channels, and issue and revoke tokens.",
        },
        "tags": [{"name": name} for name in TAGS],
        "servers": [{"url": mount.rstrip("/") or "/"}],
        "paths": paths,
        "components": components,
    }
    return sanitize_result_object(normalize_result_object(root))


def _set_limits(schemas: dict[str, Any], messages: int, channels: int, seconds: float) -> None:
    schemas["NewMessagesBody"]["properties"]["messages"] |= {"minItems": 1, "maxItems": messages}
    token = schemas["NewTokenBody"]["properties"]
    token["seconds"] |= {"minimum": 1, "maximum": seconds}
    for names in (token["read"], token["publish"]):
        names["maxItems"] = channels
    # The rules of the serializers' validate() methods.
    schemas["NewTokenBody"]["anyOf"] = [
        {"required": [name], "properties": {name: {"minItems": 1}}} for name in ("read", "publish")
    ]
    schemas["DisconnectBody"]["minProperties"] = 1
