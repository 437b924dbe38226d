"""The audit: which messages the log has held, as the database has written it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

POSITIONS = "SELECT message, position, channel, digest, data, by, at FROM chaos_positions ORDER BY at"
PRUNED = "SELECT position, at FROM chaos_pruned"
EPOCHS = "SELECT fork, start FROM streams_epoch ORDER BY start"


@dataclass(frozen=True, slots=True)
class Published:
    """A message as the audit has it: who gave it its position, and when."""

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
    """The history that a restored copy has taken away: all above the copy's head, `fork`, up to the `head` it had then.

    `pruned`: what had been pruned until then, from before the fork as well. `texts`: all that was lost, with what had
    no position yet.
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
    """What the log has held, pruned or not: all that was given a position, in the order in which it was.

    `horizon`: the head that the clients were given the time to come to, if there was one. `epochs`: the (fork, start)
    of each epoch after the first. `losses`: see Loss. `kept`: how many messages pruning must leave to each channel.
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
        """When each position was pruned, in the lost histories as well: a restored copy has some of them again."""
        found = dict(self.pruned)
        for loss in self.losses:
            for position, at in loss.pruned.items():
                found[position] = min(at, found.get(position, at))
        return found

    @property
    def newest(self) -> dict[str, int]:
        return {channel: messages[-1].position for channel, messages in self.by_channel.items()}
