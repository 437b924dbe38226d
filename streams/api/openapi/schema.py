"""The API as OpenAPI, by drf-spectacular: of our views alone, whatever the site does with its own."""

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

# In the order in which somebody new reads them.
TAGS = ("Publishing", "Reading", "Access", "Health", "This description")

# Held while the document is made: drf-spectacular looks up its extensions at the first use, which threads cannot share.
_making = threading.Lock()

V = TypeVar("V", bound=Callable[..., Any])


class StreamsSchema(AutoSchema):
    """How our views are described. Set on the views, so that a site need not name drf-spectacular's anywhere."""

    def get_operation(self, *args: Any) -> Any:
        operation = super().get_operation(*args)
        if operation and "requestBody" in operation:
            operation["requestBody"]["required"] = True  # also where nothing in it is
        return operation

    def get_auth(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = super().get_auth()
        if self.view.needs_credentials:
            found = [each for each in found if each]
        if not self.view.takes_signed_tokens:
            found = [each for each in found if not each.keys() & set(SignedTokenScheme.name)]
        return found


def described(**words: Any) -> Callable[[V], V]:
    """extend_schema() for our views' methods, in which DEFAULT_SCHEMA_CLASS may be any other."""

    def decorate(method: V) -> V:
        # Where extend_schema looks first for what it is to extend (seen in drf-spectacular 0.30).
        method.kwargs = {"schema": StreamsSchema}  # type: ignore[attr-defined]
        return extend_schema(**words)(method)

    return decorate


class SignedTokenScheme(OpenApiAuthenticationExtension):
    """Our tokens: in a header, or in the URL."""

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
                "description": "A signed token, where no header can be sent.",
            },
        ]


class BodyExtension(OpenApiSerializerExtension):
    """A request's object has no other names."""

    target_class = "streams.api.serializers.Body"
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        found: dict[str, Any] = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return {**found, "additionalProperties": False}


class _Endpoints(EndpointEnumerator):
    """Ours, in the order of the URLs. The site's hooks and sorting are for the site's schema."""

    def get_api_endpoints(self, patterns: Any = None, prefix: str = "") -> list[Any]:
        found: list[Any] = self._get_api_endpoints(patterns, prefix)
        return found


class _Generator(SchemaGenerator):
    endpoint_inspector_cls = _Endpoints


def document(mount: str) -> dict[str, Any]:
    """The OpenAPI document of the API that is mounted at `mount`, with the limits that the site has set."""
    limits = (settings.MAX_MESSAGES_PER_REQUEST, settings.MAX_CHANNELS_PER_STREAM, settings.MAX_TOKEN_SECONDS)
    with _making:
        return _document(mount, limits)


@functools.lru_cache(maxsize=8)
def _document(mount: str, limits: tuple[int, int, float]) -> dict[str, Any]:
    from streams.api.urls import urlpatterns  # whose views are described here

    reset_generator_stats()
    generator = _Generator(patterns=urlpatterns)
    paths = generator.parse(None, public=True)
    components = generator.registry.build({})
    _set_limits(components["schemas"], *limits)
    root = {
        "openapi": spectacular_settings.OAS_VERSION,
        "info": {
            "title": "Streams",
            "version": __version__,
            "description": "Publish messages to channels, read what was published, and say who may.",
        },
        "tags": [{"name": name} for name in TAGS],
        "servers": [{"url": mount.rstrip("/") or "/"}],
        "paths": paths,
        "components": components,
    }
    found: dict[str, Any] = sanitize_result_object(normalize_result_object(root))
    return found


def _set_limits(schemas: dict[str, Any], messages: int, channels: int, seconds: float) -> None:
    schemas["NewMessagesBody"]["properties"]["messages"] |= {"minItems": 1, "maxItems": messages}
    token = schemas["NewTokenBody"]["properties"]
    token["seconds"] |= {"minimum": 1, "maximum": seconds}
    for names in (token["read"], token["publish"]):
        names["maxItems"] = channels
    # What the serializers' validate() says.
    schemas["NewTokenBody"]["anyOf"] = [
        {"required": [name], "properties": {name: {"minItems": 1}}} for name in ("read", "publish")
    ]
    schemas["DisconnectBody"]["minProperties"] = 1
