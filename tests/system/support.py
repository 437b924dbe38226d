"""Helpers for the tests that publish from many processes."""

from __future__ import annotations

import asyncio
import select
import sys
import threading

from django.db import connections, transaction

from streams import apublish, publish, publish_many
from streams.protocol.events import NewMessage
from tests.support.forks import ForkedProcess
from tests.support.sites import Site


class RolledBack(Exception):
    """Raised to roll back a transaction."""


# --- Between the test and its processes -------------------------------------------------------------------------------


def send_line(word: str) -> None:
    """Send the test a line; see ForkedProcess.expect_line()."""
    print(word, flush=True)


def wait_for_line(word: str) -> None:
    """Wait until the test sends this process the line `word`."""
    line = sys.stdin.readline().strip()
    assert line == word, f"expected {word!r}, got {line!r}"


def expect_line_soon(process: ForkedProcess, word: str) -> None:
    """Like expect_line(), but fail after a minute. Use it if the process could be waiting for this test."""
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready, f"the line {word!r} did not arrive"
    process.expect_line(word)


# --- The log ----------------------------------------------------------------------------------------------------------


def sequenced(site: Site) -> list[tuple[int, str]]:
    """Return (position, data) of all messages with a position, in order."""
    return site.execute("SELECT position, data FROM streams_message WHERE position IS NOT NULL ORDER BY position")


def assert_no_holes(site: Site) -> list[str]:
    """Assert that the positions are 1…n, the head is n, and all messages have a position. Return the data in order."""
    rows = sequenced(site)
    assert [position for position, _ in rows] == list(range(1, len(rows) + 1))
    assert site.execute("SELECT head FROM streams_loghead") == [(len(rows),)]
    assert site.execute("SELECT count(*) FROM streams_message WHERE position IS NULL") == [(0,)]
    return [data for _, data in rows]


# --- For the processes ------------------------------------------------------------------------------------------------


def in_threads(*functions: object) -> None:
    """Run the functions at the same time, each in a thread, and raise the first error."""
    errors: list[BaseException] = []

    def run(function: object) -> None:
        try:
            function()  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    running = [threading.Thread(target=run, args=[function]) for function in functions]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


def hold_open(*channels: str) -> None:
    """Publish to the channels in one transaction, and wait for the test after each one. Prints the last position."""
    with transaction.atomic():
        for channel in channels:
            message = publish(channel, f"held {channel}")
            send_line("published")
            wait_for_line("go on")
    assert message.position is not None
    print(message.position)


def publish_in_every_way(prefix: str) -> None:
    """Publish fifteen messages: alone, in a transaction, several at once, from threads and from an event loop."""
    assert publish("news", f"{prefix} alone").position is not None
    with transaction.atomic():
        inside = publish("news", f"{prefix} inside")
    assert inside.position is not None
    publish_many([NewMessage("news", f"{prefix} many") for _ in range(3)])
    in_threads(*[lambda: publish("news", f"{prefix} thread")] * 5)

    async def together() -> None:
        await asyncio.gather(*(apublish("news", f"{prefix} task") for _ in range(5)))

    asyncio.run(together())
