"""What a notifier is. The log is the truth and a notice only a hint: it changes latency, never what a client sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from streams.sse import StoredEvent


@dataclass(frozen=True, slots=True)
class Revocation:
    """Something has changed about who may read what: it concerns the streams for which all holds that is named.

    They are ended where `ends` is true; else the policy is asked about them again. `user`: a primary key as text.
    `token`: a token's id. `session`: a session's mark (see revocation.py), which is not its key. A notifier carries it
    as it is, and knows nothing of it.
    """

    ends: bool = False
    user: str | None = None
    channel: str | None = None
    token: str | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """The log has grown: positions `first` to `last`, both included, have been given and committed.

    `messages` holds exactly the messages of that range, in order, or nothing; a hub that has everything up to
    `first - 1` applies them as they are, and any other reads the log.

    `is_public` is True if everyone can read these messages. If not, they must not go over a bus on which others listen.

    A control notice has a `revocation` instead, and no positions: `first` and `last` are 0.
    """

    first: int
    last: int
    messages: tuple[StoredEvent, ...] = ()
    revocation: Revocation | None = None
    is_public: bool = field(default=False, compare=False)


class BaseNotifier(ABC):
    """Carries notices from publishers to hubs. One instance serves a process, with all its threads and event loops.

    A notice may be lost, late, repeated or out of order: hubs compare its range with their own position, and poll the
    log every POLL_SECONDS besides. So an implementation never retries for long, never blocks a publisher for more than
    a moment, and drops a notice's messages where they do not fit.
    """

    @abstractmethod
    def notify(self, notice: Notice) -> None:
        """Tell all hubs of `notice`. Called after the commit, from any thread, never from an event loop.

        May raise: the caller logs it, for the message is safe in the log.
        """

    @abstractmethod
    def listen(self) -> AsyncGenerator[Notice | None, None]:
        """Yield None once it listens, and from then on notices, as they come, for the running event loop, until the
        generator is closed.

        Called once for each hub. May raise when what it listens to has gone; the hub polls meanwhile, calls again, and
        reads what it may have missed when it is told by the None that it hears again.
        """
