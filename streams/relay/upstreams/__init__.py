"""The upstreams that the relay can call, by their names in STREAMS['UPSTREAMS']."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

from streams.exceptions import InvalidSetting
from streams.relay.conf import settings
from streams.relay.upstreams.base import BaseUpstream, UpstreamResponse
from streams.relay.upstreams.scripted import ScriptedUpstream
from streams.runtime.resets import on_settings_change

__all__ = ["BaseUpstream", "OpenAICompatible", "ScriptedUpstream", "UpstreamResponse", "get_upstream", "upstream_for"]

if TYPE_CHECKING:
    from streams.relay.upstreams.openai_compatible import OpenAICompatible


def __getattr__(name: str) -> Any:
    """Import OpenAICompatible when it is used, because a site with a scripted upstream does not need aiohttp."""
    if name != "OpenAICompatible":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from streams.relay.upstreams.openai_compatible import OpenAICompatible

    return OpenAICompatible


_upstreams: dict[str, BaseUpstream] = {}


def get_upstream(name: str = "default") -> BaseUpstream:
    """Return the upstream with this name. Raises InvalidSetting or ImportError if it cannot be created."""
    if name not in _upstreams:
        configured = settings.UPSTREAMS.get(name)
        if configured is None:
            raise InvalidSetting(f"STREAMS['UPSTREAMS'] has no {name!r}; it has {', '.join(settings.UPSTREAMS)}.")
        _upstreams[name] = import_string(configured["BACKEND"])(name, configured.get("OPTIONS", {}))
    return _upstreams[name]


def upstream_for(model: object) -> BaseUpstream:
    """Return the first upstream in the setting's order that has `model`, or the default one if none has it."""
    for name in settings.UPSTREAMS:
        if isinstance(model, str) and model in get_upstream(name).models:
            return get_upstream(name)
    return get_upstream()


on_settings_change(_upstreams.clear)
