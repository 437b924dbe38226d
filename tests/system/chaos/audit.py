"""The audit: all messages that the log has held, as recorded by the database's triggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

POSITIONS = "SELECT message, position, channel, digest, data, by, at FROM chaos_positions ORDER BY at"
PRUNED = "SELECT position, at FROM chaos_pruned"
EPOCHS = "SELECT fork, start FROM streams_epoch ORDER BY start"


@dataclass(frozen=True, slots=True)
class Published:
    """A message in the audit. `by` is the process that gave it its position, and `at` is the time."""

    id: int
    position: int
    channel: str
    digest: str
    text: str
    by: str
    at: float

    def __str__(self) -> str:
        return f"{self.position} on {self.channel} ({self.text!r}, positioned {self.at:.3f} by {self.by})"


@dataclass(frozen=True, slots=True)
class Loss:
    """The history that was lost when a copy was restored: the positions above the copy's head `fork`, up to `head`.

    `pruned` are the positions pruned by then, including those below the fork. `texts` are all lost texts, including
    those of messages without a position.
    """

    at: float
    fork: int
    head: int
    published: Sequence[Published] = ()
    pruned: Mapping[int, float] = field(default_factory=dict)
    texts: Set[str] = frozenset()

    def covers(self, position: int) -> bool:
        return self.fork < position <= self.head


@dataclass
class Audit:
    """All messages that were given a position, including pruned ones, in the order in which they were given it.

    `horizon` is the head that the clients had time to reach, if there is one. `epochs` are the (fork, start) pairs of
    all epochs after the first. `losses` are the lost histories. `kept` is the number of messages that pruning must
    leave in each channel.
    """

    published: list[Published]
    pruned: dict[int, float]
    horizon: int | None = None
    epochs: Sequence[tuple[int, int]] = ()
    losses: Sequence[Loss] = ()
    kept: int = 0
    by_channel: dict[str, list[Published]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for message in sorted(self.published, key=lambda message: message.position):
            self.by_channel.setdefault(message.channel, []).append(message)

    @property
    def pruned_first(self) -> dict[int, float]:
        """When each position was first pruned. Some were pruned in a lost history, and exist again in the copy."""
        found = dict(self.pruned)
        for loss in self.losses:
            for position, at in loss.pruned.items():
                found[position] = min(at, found.get(position, at))
        return found

    @property
    def newest(self) -> dict[str, int]:
        return {channel: messages[-1].position for channel, messages in self.by_channel.items()}
