"""manage.py send_due_broadcasts: for sites that use cron. Processes that serve streams do the same by themselves."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from streams.broadcasts.schedule import send_due


class Command(BaseCommand):
    help = "Send the scheduled broadcasts that are due. Other processes can do the same at the same time."

    def handle(self, *args: Any, **options: Any) -> None:
        sent = 0
        for broadcast in send_due():
            sent += 1
            positions = broadcast.positions_by_channel.items()
            channels = ", ".join(f"{channel} (event {position})" for channel, position in positions)
            self.stdout.write(f"Sent broadcast {broadcast.pk}, {broadcast.title!r}, to {channels}.")
        if not sent:
            self.stdout.write("No broadcast is due.")
