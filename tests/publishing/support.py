"""Helpers and notifiers for several tests of publishing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import DataError, connections, transaction

from streams.models import Message
from streams.notifiers import BaseNotifier, Notice

# The exceptions that databases raise for a value that a column cannot hold.
UNSTORABLE = (DataError, OverflowError)


class RolledBack(Exception):
    """Raised to roll back a transaction."""


class RecordingNotifier(BaseNotifier):
    """A notifier that records its notices."""

    notices: list[Notice] = []

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        await asyncio.Event().wait()
        yield self.notices[0]


class BrokenNotifier(RecordingNotifier):
    """A notifier that cannot reach its server."""

    def notify(self, notice: Notice) -> None:
        raise ConnectionError("no server")


class UnsteadyNotifier(RecordingNotifier):
    """A notifier that reaches its server only while `works` is true."""

    works = True

    def notify(self, notice: Notice) -> None:
        if not self.works:
            raise ConnectionError("no server")


def stored() -> list[tuple[int | None, str]]:
    """Return (position, data) of all messages, in order."""
    return list(Message.objects.order_by("position", "pk").values_list("position", "data"))


@contextlib.contextmanager
def rolled_back() -> Iterator[None]:
    """Run the block in a transaction or a savepoint, and roll it back."""
    with contextlib.suppress(RolledBack), transaction.atomic():
        yield
        raise RolledBack


async def off_the_loop(function: Any, *args: Any) -> Any:
    """Run a function that uses the database in a thread, and close its connections."""

    def run() -> Any:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await sync_to_async(run)()


def in_thread(function: Any) -> None:
    """Run a function in a thread with its own connection. Its exception is raised here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
