"""The default notifier. It reaches the hubs of this process; those of other processes find new messages by polling."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from streams.notifiers.base import BaseNotifier, Notice
from streams.notifiers.mailboxes import Mailboxes


class LocalNotifier(BaseNotifier):
    """Delivers notices to the event loops of this process, from any of its threads. Needs no server and no options."""

    def __init__(self) -> None:
        self._mailboxes = Mailboxes()

    def notify(self, notice: Notice) -> None:
        self._mailboxes.put(notice)

    def listen(self) -> AsyncGenerator[Notice | None, None]:
        return self._mailboxes.listen()
