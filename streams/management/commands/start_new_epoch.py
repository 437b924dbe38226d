"""manage.py start_new_epoch: for a log that was replaced by an older copy, if the database cannot tell."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streams import log


class Command(BaseCommand):
    help = (
        "Start a new epoch of the log. Run it after you have put back an older copy of the database in a way that the "
        "database cannot notice: a SQLite file that was copied over in place, or a data directory or a volume from a "
        "snapshot. Run it before clients come back. Clients that have ids which the copy does not have then get a "
        "stream-reset; all others go on exactly. It is harmless if it was not needed. Prints the position at which the "
        "epoch starts."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--fork",
            type=int,
            metavar="N",
            help="the last position that the copy has in common with what was lost (default: the head). Give it if "
            "messages were published since the copy was put back: 0 if you do not know it",
        )
        parser.add_argument(
            "--reason", default="Started by an operator.", help="kept with the epoch, for whoever looks later"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            start = log.start_new_epoch(options["reason"], fork=options["fork"])
        except ValueError as error:
            raise CommandError(str(error)) from None
        log.current_head()  # gives positions to messages that were left without one while the lock was held
        self.stdout.write(str(start))
