"""Read the metrics of this process in tests."""

from __future__ import annotations

import re
from typing import Any

from prometheus_client import REGISTRY

from streams import EventStreamResponse, metrics
from streams.delivery.subscriber import Subscriber


def values() -> dict[str, float]:
    """Return the value of each series that does not come from the database, by its name with its labels."""
    found = {}
    for family in REGISTRY.restricted_registry([name for name in names() if name.startswith("streams_")]).collect():
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def names() -> list[str]:
    """Return the names of all series of the process, without those of the database's figures."""
    own = (metrics.OPEN, metrics.NOTIFIER, *metrics._LABELS, metrics.REFUSALS, metrics.OVERFLOWS, metrics.PRUNED)
    others = (metrics.FAILED_NOTICES, metrics.PUBLISHED, metrics.GROUPS)
    return [name for metric in {*own, *others} for name in REGISTRY._get_names(metric)]


class Changes:
    """The changes of the metrics since it was made, without those that did not change."""

    def __init__(self) -> None:
        self._before = values()

    def __call__(self, pattern: str = "") -> dict[str, float]:
        found = {name: value - self._before.get(name, 0) for name, value in values().items()}
        kept = {name.removeprefix("streams_"): value for name, value in found.items() if re.search(pattern, name)}
        return {
            name: value for name, value in kept.items() if value and "_bucket" not in name and "_created" not in name
        }


async def open_stream(**arguments: Any) -> Any:
    """Return an iterator of a stream's chunks that is live, and has sent its first bytes."""
    response = EventStreamResponse(Subscriber(["news"], **arguments))
    chunks = aiter(response)
    await anext(chunks)
    return chunks
