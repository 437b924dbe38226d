"""manage.py prune_messages: delete expired messages now. Processes with a hub do it by themselves."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand

from streams.log import retention


class Command(BaseCommand):
    help = "Delete the messages that exceed RETENTION_SECONDS, RETENTION_BYTES or RETENTION_MESSAGES_PER_CHANNEL."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="show what would be deleted, without deleting it")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["dry_run"]:
            self.stdout.write(f"Pruned {retention.prune()} messages.")
            return
        cuts = list(retention.cuts())
        for cut in cuts:
            channels = f"channel {cut.channel}" if cut.channel else "all channels"
            self.stdout.write(
                f"By {cut.reason}, {channels}: {cut.messages()} messages up to position {cut.through} would be deleted."
            )
        if not cuts:
            self.stdout.write("Nothing to delete.")
