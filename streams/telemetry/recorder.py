"""The interface for metrics. The other parts of Streams report here; by default nothing is recorded.

`streams.metrics` installs a recorder for Prometheus. Without it, each call is an empty method.
"""

from __future__ import annotations

# The sources of a stream: messages of the log, a view's own iterator, or an answer that the relay passes on.
SOURCES = ("log", "iterator", "relay")

# The reasons for which a stream ends.
# client: the client, or a proxy in between, has closed the connection.
# complete: the source has sent everything, such as a final event.
# lifetime: the stream's timeout, deadline, MAX_STREAM_SECONDS or the expiry of its token.
# slow: the client took nothing for SEND_TIMEOUT_SECONDS.
# behind: the stream still sent old messages after MAX_REPLAY_SECONDS.
# revoked: the client is no longer authorized.
# shutdown: the process is stopping.
# error: the source has raised an exception.
END_REASONS = ("client", "complete", "lifetime", "slow", "behind", "revoked", "shutdown", "error")

# The reasons of a stream-reset.
RESET_REASONS = ("malformed-id", "unknown-id", "pruned")

# A replay begins in the messages that the process keeps in memory, or in the database.
REPLAY_STARTS = ("memory", "log")

# How a hub found messages: by a notice, or because it polled the log.
FINDERS = ("notice", "poll")

# The reasons for which publish() raises.
PUBLISH_FAILURES = ("invalid", "key-in-use", "database", "other")

NOTIFIER_STATES = ("ok", "degraded", "idle")

# The final states of a generation.
GENERATION_ENDS = ("done", "failed", "cancelled", "interrupted")


class Recorder:
    """Receives what happens in this process.

    The methods are called from any thread, also on event loops, so they must not block, and must not raise. They can
    take locks, because no finalizer and no signal handler calls them. They are called at most once for a batch of
    messages, never for each delivery. All arguments of type str are one of the values above, except for the code of
    refused(), because a site's policy can have codes of its own.
    """

    # True if `found` should be called for messages that a poll has found, which costs two queries.
    measures_polls = False

    def stream_opened(self, source: str) -> None:
        """A stream has sent its first bytes."""

    def stream_ended(self, source: str, reason: str) -> None:
        """A stream that has opened has ended. Called once for each stream_opened()."""

    def refused(self, code: str) -> None:
        """A request was answered with an error."""

    def replay_began(self, start: str) -> None:
        """A stream begins with older messages."""

    def replayed(self, messages: int, size: int) -> None:
        """A stream has taken older messages of `size` bytes, from memory or from the log, and will send them."""

    def reset(self, reason: str) -> None:
        """A stream has sent a stream-reset."""

    def delivered(self, deliveries: int, size: int, overflows: int) -> None:
        """A hub has handed new messages to live streams: so many deliveries, of so many bytes in total.

        `overflows` streams had no room in their queue. They fall behind and read the messages from the log.
        """

    def found(self, seconds: float, by: str) -> None:
        """A hub has delivered messages so many seconds after their commit (see streams.metrics.DELAY)."""

    def notifier_state(self, state: str) -> None:
        """The listener of this process's notifier is in this state. Called when it can have changed."""

    def notice_failed(self) -> None:
        """The notifier could not send a notice."""

    def published(self, messages: int, seconds: float, *, in_transaction: bool) -> None:
        """publish() has returned. `in_transaction`: the messages belong to the caller's transaction."""

    def publish_failed(self, reason: str) -> None:
        """publish() has raised an exception."""

    def group_written(self, messages: int) -> None:
        """So many messages of concurrent publishers were written in one transaction."""

    def pruned(self, messages: int) -> None:
        """Retention has deleted messages."""

    def generation_ended(self, state: str) -> None:
        """A generation has ended."""


# Read it at each call, and do not import it: `recorder.current.refused(…)`.
current = Recorder()


def install(recorder: Recorder) -> None:
    """Report to `recorder` from now on."""
    global current
    current = recorder
