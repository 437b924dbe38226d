"""The relay's keys of the STREAMS setting. See streams.conf for how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.conf import Secret, Setting, backend, dotted_path, or_none, positive_number, positive_whole


def backends(value: object) -> str | None:
    form = (
        "a dict of upstreams by name, with one called 'default', such as {'default': {'BACKEND': "
        "'streams.relay.upstreams.OpenAICompatible', 'OPTIONS': {'base_url': …, 'api_key': …, 'models': […]}}}"
    )
    named = isinstance(value, Mapping) and "default" in value and all(isinstance(name, str) for name in value)
    return None if named and all(backend(each) is None for each in value.values()) else form  # type: ignore[attr-defined]


def worker_place(value: object) -> str | None:
    return None if value in ("server", "command") else "'server' or 'command'"


class RelaySettings:
    """The keys that `streams.relay` adds to STREAMS. docs/reference/settings.md describes each of them."""

    UPSTREAMS = Secret[Mapping[str, Any]](
        {"default": {"BACKEND": "streams.relay.upstreams.ScriptedUpstream", "OPTIONS": {}}}, backends
    )
    RELAY_ACCESS = Setting("streams.relay.access.LoggedIn", dotted_path)

    RELAY_CONNECT_SECONDS = Setting[float](10, positive_number)
    RELAY_HEADER_DELAY_SECONDS = Setting[float](5, positive_number)
    RELAY_FIRST_EVENT_SECONDS = Setting[float](60, positive_number)
    RELAY_SILENCE_SECONDS = Setting[float](60, positive_number)
    RELAY_TOTAL_SECONDS = Setting[float](600, positive_number)

    RELAY_MAX_REQUEST_BYTES = Setting(1_048_576, positive_whole)
    RELAY_MAX_MESSAGES = Setting(200, positive_whole)
    RELAY_MAX_TOKENS = Setting(4096, positive_whole)
    RELAY_MAX_EVENT_BYTES = Setting(4_194_304, positive_whole)
    RELAY_MAX_ANSWER_BYTES = Setting(16_777_216, positive_whole)
    RELAY_MAX_STREAMS = Setting(200, positive_whole)
    RELAY_MAX_STREAMS_PER_USER = Setting(5, positive_whole)
    RELAY_QUESTIONS_PER_MINUTE = Setting[int | None](60, or_none(positive_whole))

    GENERATION_WORKER = Setting("server", worker_place)
    GENERATION_CONCURRENCY = Setting(100, positive_whole)
    GENERATION_MAX_ACTIVE = Setting(1000, positive_whole)
    GENERATION_BYTES_PER_HOUR = Setting[int | None](67_108_864, or_none(positive_whole))
    GENERATION_QUEUE_SECONDS = Setting[float](600, positive_number)
    GENERATION_SECONDS = Setting[float](600, positive_number)
    GENERATION_LEASE_SECONDS = Setting[float](6, positive_number)
    GENERATION_FLUSH_MILLISECONDS = Setting(50, positive_whole)
    GENERATION_FLUSH_BYTES = Setting(4096, positive_whole)
    GENERATION_TOKEN_SECONDS = Setting[float](86_400, positive_number)
    GENERATION_COMPACT_SECONDS = Setting[float | None](3600, or_none(positive_number))
    GENERATION_RETENTION_SECONDS = Setting[float | None](2_592_000, or_none(positive_number))


settings = RelaySettings()
