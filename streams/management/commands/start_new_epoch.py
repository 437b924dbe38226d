"""manage.py start_new_epoch: run it after restoring an older copy of the log that the database cannot detect."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streams import log


class Command(BaseCommand):
    help = (
        "Start a new epoch of the log. Run this after restoring an older copy of the database in a way that the "
        "database cannot detect: by overwriting a SQLite file in place, or by restoring a data directory or a volume "
        "from a snapshot. Run it before clients reconnect. Clients whose last event id is missing from the copy then "
        "receive a stream-reset event; all others continue without a gap. Running it without need does no harm. Prints "
        "the position at which the epoch starts."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--fork",
            type=int,
            metavar="N",
            help="the last position that the copy shares with the lost history (default: the head). Required if "
            "messages were published after the copy was restored; use 0 if you do not know it",
        )
        parser.add_argument("--reason", default="Started by an operator.", help="a note that is stored with the epoch")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            start = log.start_new_epoch(options["reason"], fork=options["fork"])
        except ValueError as error:
            raise CommandError(str(error)) from None
        log.current_head()  # sequences the messages that arrived while the lock was held
        self.stdout.write(str(start))
