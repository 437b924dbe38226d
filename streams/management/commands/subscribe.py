"""manage.py subscribe CHANNEL…: follow channels in a terminal. It reconnects and resumes as an EventSource does."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streams.delivery.subscriber import Subscriber
from streams.exceptions import InvalidChannel
from streams.protocol import sse
from streams.protocol.events import CONTROL_PREFIX, validate_channels

RETRY_SECONDS = 3.0


class Command(BaseCommand):
    help = "Print the events of one or more channels as they are published. Stop with Ctrl-C."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("channels", nargs="+", metavar="channel")
        parser.add_argument("--last-event-id", metavar="ID", help="first print the events after this id")
        parser.add_argument("--replay", type=int, default=0, metavar="N", help="first print the newest N messages")
        parser.add_argument("--raw", action="store_true", help="print the stream unchanged, as clients receive it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            channels = validate_channels(options["channels"])
        except InvalidChannel as error:
            raise CommandError(str(error)) from None
        if options["replay"] < 0:
            raise CommandError(f"--replay must be 0 or more; got {options['replay']}.")
        try:
            asyncio.run(self._follow(channels, options))
        except BrokenPipeError:
            # The reader has exited, as `head -1` does. Python flushes stdout once more at exit, and that must not fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    async def _follow(self, channels: tuple[str, ...], options: dict[str, Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        last_event_id, replay = options["last_event_id"], options["replay"]
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                subscriber = Subscriber(channels, last_event_id=last_event_id, replay=replay)
                decoder = sse.EventStreamDecoder()
                try:
                    async for chunk in subscriber:
                        self._print(chunk, decoder, raw=options["raw"])
                except BrokenPipeError:
                    raise
                except Exception as error:
                    self.stderr.write(f"The stream failed. Reconnecting in {RETRY_SECONDS:.0f} s: {error}")
                finally:
                    await subscriber.aclose()
                # Like a browser, resume from the last event id.
                last_event_id, replay = decoder.last_event_id or last_event_id, 0
                await asyncio.sleep(RETRY_SECONDS)

    def _print(self, chunk: bytes, decoder: sse.EventStreamDecoder, *, raw: bool) -> None:
        events = decoder.feed(chunk)
        if raw:
            self.stdout.write(chunk.decode(), ending="")
        else:
            for event in events:
                if event.event == f"{CONTROL_PREFIX}reset":
                    self.stderr.write(f"Events might have been missed: {event.data}")
                elif not event.event.startswith(CONTROL_PREFIX):
                    self.stdout.write(f"{event.id}\t{event.event}\t{event.data}")
        self.stdout.flush()
