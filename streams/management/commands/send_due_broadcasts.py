"""manage.py send_due_broadcasts: send what is due, for sites that want cron. Processes that stream do it too."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from streams import broadcasts


class Command(BaseCommand):
    help = "Send the scheduled broadcasts that are due. Safe beside processes that do the same."

    def handle(self, *args: Any, **options: Any) -> None:
        sent = 0
        for broadcast in broadcasts.send_due():
            sent += 1
            where = ", ".join(f"{channel} (event {position})" for channel, position in broadcast.places.items())
            self.stdout.write(f"Sent broadcast {broadcast.pk}, {broadcast.title!r}, to {where}.")
        if not sent:
            self.stdout.write("Nothing is due.")
