"""The figures of a comparison: their names, units and digits, and how a column of samples becomes one cell."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Samples = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class Figure:
    key: str
    title: str
    unit: str
    digits: int = 1

    def text(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"


FIGURES = (
    Figure("steady_cpu", "CPU per delivery, steady", "µs"),
    Figure("burst_cpu", "CPU per delivery, burst", "µs"),
    Figure("burst_rate", "deliveries per second, burst", "/s", digits=0),
    Figure("memory", "memory per connection", "kB", digits=0),
    Figure("open_seconds", "time to open all streams", "s", digits=2),
    Figure("open_cpu", "CPU to open a stream", "ms", digits=2),
    Figure("p50", "latency, median", "ms"),
    Figure("p99", "latency, 99th percentile", "ms"),
)
# 100 % is exact. A server that loses events has less, and a server that repeats them has more.
RECEIVED = Figure("received", "events received of those published", "%")


@dataclass(frozen=True)
class Summary:
    median: float
    low: float
    high: float


def summarize(values: Sequence[float]) -> Summary:
    """Return the median and the spread. The spread is from the least to the greatest value, because runs are few."""
    return Summary(statistics.median(values), min(values), max(values))


def ratio(values: Sequence[float], reference: Sequence[float]) -> float | None:
    """Return the median of the ratios of each round. A ratio within one round is less affected by other load."""
    pairs = [(value, other) for value, other in zip(values, reference, strict=False) if other]
    return statistics.median(value / other for value, other in pairs) if pairs else None


def column(samples: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [sample[key] for sample in samples]
