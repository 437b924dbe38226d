"""The interface of notifiers. A notice is only a hint: it changes the latency of events, never their content."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from streams.sse import StoredEvent


@dataclass(frozen=True, slots=True)
class Revocation:
    """A change of permissions. It concerns the streams that match all fields that are set.

    If `ends` is true, these streams are ended. Otherwise the policy is asked about them again. `user`: a primary key as
    text. `token`: a token's id. `session`: a session's mark (see revocation.py), not its key. Notifiers carry it
    unchanged.
    """

    ends: bool = False
    user: str | None = None
    channel: str | None = None
    token: str | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Positions `first` to `last`, both included, have been given and committed.

    `messages` holds exactly the messages of that range, in order, or is empty. A hub whose position is `first - 1`
    applies them directly. Any other hub reads the log.

    `is_public` is True if everyone can read these messages. If not, they must not go over a bus that others can read.

    A control notice has a `revocation` instead, and no positions: `first` and `last` are 0.
    """

    first: int
    last: int
    messages: tuple[StoredEvent, ...] = ()
    revocation: Revocation | None = None
    is_public: bool = field(default=False, compare=False)


class BaseNotifier(ABC):
    """Carries notices from publishers to hubs. One instance serves a process, with all its threads and event loops.

    A notice can be lost, late, repeated or out of order: hubs compare its range with their own position, and also poll
    the log every POLL_SECONDS. So an implementation should not retry for long, must not block a publisher for more than
    a moment, and drops a notice's messages if they are too large.
    """

    @abstractmethod
    def notify(self, notice: Notice) -> None:
        """Send `notice` to all hubs. Called after the commit, from any thread, never on an event loop.

        It can raise any exception. The caller logs it, because the message is safe in the log.
        """

    @abstractmethod
    def listen(self) -> AsyncGenerator[Notice | None, None]:
        """Yield None once it listens, and then the notices for the running event loop, until the generator is closed.

        Each hub calls it once. It raises an exception if its connection is lost. Until it is back, the hub polls the
        log and calls this again. After the next None, it reads the messages that it has missed.
        """
