"""manage.py publish CHANNEL DATA: publish from a shell, from cron or from a deployment script."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streams import publish
from streams.exceptions import InvalidMessage, UnsupportedDatabase
from streams.protocol.json_bodies import check_json


class Command(BaseCommand):
    help = "Publish a message to a channel and print its position."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("channel")
        parser.add_argument("data", help="the data, sent unchanged; - reads it from standard input")
        parser.add_argument("--event", default="message", metavar="TYPE", help="the event's type (default: message)")
        parser.add_argument("--json", action="store_true", help="refuse data that is not valid JSON")
        parser.add_argument(
            "--idempotency-key", metavar="KEY", help="publish only once, even if the command runs again with this key"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        data = _standard_input() if options["data"] == "-" else options["data"]
        try:
            if options["json"]:
                check_json(data)
            message = publish(
                options["channel"], data, event=options["event"], idempotency_key=options["idempotency_key"]
            )
        except (InvalidMessage, UnsupportedDatabase) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(str(message.position))


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise CommandError(f"Standard input is not valid {sys.stdin.encoding} text: {error}.") from None
