"""The interface of a notifier, and the notices that it delivers.

The log is the truth, and a notice is only a hint: it changes how soon a client sees a message, never which messages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

from streams.protocol.sse import StoredEvent


@dataclass(frozen=True, slots=True)
class Revocation:
    """A change of access. It applies to the open streams that match every field that is not None.

    ends: True ends these streams. False asks the policy about them again.
    user: The primary key of a user, as text.
    channel: The name of a channel.
    token: The id of a signed token.
    session: The fingerprint of a session (see access/revocation.py), not its key.

    A notifier delivers it unchanged and does not look inside.
    """

    ends: bool = False
    user: str | None = None
    channel: str | None = None
    token: str | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """The log has grown: the positions `first` to `last`, both included, are assigned and committed.

    messages: Exactly the messages of that range, in order, or empty. A hub that has all positions up to `first - 1`
        applies them without reading the log. Any other hub reads the log.
    revocation: Set in a control notice, which has no positions: `first` and `last` are 0.
    is_public: True if everyone can read these messages. If False, they must not be sent over a bus on which other
        programs can listen.
    committed_at: When the publisher had committed, in seconds of its machine's clock, or None. For metrics only.
    traces: {position: W3C traceparent} of the messages that were published within a trace.
    """

    first: int
    last: int
    messages: tuple[StoredEvent, ...] = ()
    revocation: Revocation | None = None
    is_public: bool = field(default=False, compare=False)
    committed_at: float | None = field(default=None, compare=False)
    traces: Mapping[int, str] = field(default_factory=dict, compare=False)


class BaseNotifier(ABC):
    """Delivers notices from publishers to hubs. One instance serves all threads and event loops of a process.

    A notice can be lost, late, repeated or out of order: each hub compares its range with its own position, and also
    polls the log every POLL_SECONDS. So an implementation does not retry for long, does not block a publisher for more
    than a moment, and drops the messages of a notice that is too large.
    """

    @abstractmethod
    def notify(self, notice: Notice) -> None:
        """Deliver `notice` to all hubs. Called after the commit, from any thread, never from an event loop.

        It can raise any exception. The caller logs it and goes on, because the message is safe in the log.
        """

    @abstractmethod
    def listen(self) -> AsyncGenerator[Notice | None, None]:
        """Yield None when it has begun to listen, and then each notice, until the generator is closed.

        Called once for each hub, on the hub's event loop. It raises an exception if its connection is lost. The hub
        then polls the log and calls again. After the next None it reads the log once, because notices can have been
        lost in between.
        """
