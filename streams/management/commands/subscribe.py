"""manage.py subscribe CHANNEL…: follow channels in a terminal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streams.delivery.subscriber import Subscriber
from streams.delivery.subscription import subscribe
from streams.exceptions import EventsMissed, InvalidChannel, LogUnavailable
from streams.protocol.events import validate_channels


class Command(BaseCommand):
    help = "Print the events of one or more channels as they are published. Stop with Ctrl-C."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("channels", nargs="+", metavar="channel")
        parser.add_argument("--last-event-id", metavar="ID", help="first print the events after this id")
        parser.add_argument("--replay", type=int, default=0, metavar="N", help="first print the newest N messages")
        parser.add_argument("--raw", action="store_true", help="print one stream unchanged, as clients receive it")

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
        with contextlib.suppress(asyncio.CancelledError):
            await (self._print_bytes if options["raw"] else self._print_events)(
                channels, options["last_event_id"], options["replay"]
            )

    async def _print_events(self, channels: tuple[str, ...], last_event_id: str | None, replay: int) -> None:
        try:
            events = subscribe(*channels, after=last_event_id, replay=replay, on_reset=self._print_gap)
        except ValueError as error:
            raise CommandError(str(error)) from None
        async with events:
            async for event in events:
                self.stdout.write(f"{event.id}\t{event.event}\t{event.data}")
                self.stdout.flush()

    def _print_gap(self, gap: EventsMissed) -> None:
        self.stderr.write(f"Events might have been missed: {json.dumps(vars(gap))}")

    async def _print_bytes(self, channels: tuple[str, ...], last_event_id: str | None, replay: int) -> None:
        stream = Subscriber(channels, last_event_id=last_event_id, replay=replay)
        try:
            async for chunk in stream:
                self.stdout.write(chunk.decode(), ending="")
                self.stdout.flush()
        except LogUnavailable as error:
            raise CommandError(str(error)) from None
        finally:
            await stream.aclose()
