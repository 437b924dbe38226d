"""manage.py run_generations: run a worker outside of the server's processes. See GENERATION_WORKER."""

from __future__ import annotations

import asyncio
import signal
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streams.relay.generations.worker import Worker


class Command(BaseCommand):
    help = (
        "Run a worker for generations until SIGTERM or SIGINT. For sites that set STREAMS['GENERATION_WORKER'] to "
        "'command', so that answers continue while the servers are restarted."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--grace",
            type=float,
            default=30,
            metavar="SECONDS",
            help="After a signal, wait this long for running answers before they are interrupted. A second signal "
            "interrupts them at once. Default: 30.",
        )
        parser.add_argument(
            "--until-idle",
            action="store_true",
            help="End when no answer is running or queued. For tests and cron.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["grace"] < 0:
            raise CommandError(f"--grace must be a number of seconds, 0 or greater; got {options['grace']:g}.")
        asyncio.run(self._serve(options["grace"], until_idle=options["until_idle"]))

    async def _serve(self, grace: float, *, until_idle: bool) -> None:
        worker = Worker()
        serving = asyncio.create_task(worker.run(linger=0 if until_idle else None, grace=grace))
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if worker.is_stopping:
                worker.interrupt()
            worker.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        if not until_idle:
            self.stdout.write("Running a worker for generations. Stop it with Ctrl-C.")
        await serving
