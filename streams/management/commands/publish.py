"""manage.py publish CHANNEL DATA: append a message, from a shell, cron or a deployment's script."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streams import publish
from streams.exceptions import InvalidMessage
from streams.json_bodies import check_json


class Command(BaseCommand):
    help = "Publish a message to a channel, and print its position."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("channel")
        parser.add_argument("data", help="the data, sent as it is; - reads it from standard input")
        parser.add_argument("--event", default="message", metavar="TYPE", help="the event's type (default: message)")
        parser.add_argument("--json", action="store_true", help="check that the data is JSON before it is sent")
        parser.add_argument("--idempotency-key", metavar="KEY", help="publish once, however often this is run")

    def handle(self, *args: Any, **options: Any) -> None:
        data = _standard_input() if options["data"] == "-" else options["data"]
        if options["json"]:
            try:
                check_json(data)
            except InvalidMessage as error:
                raise CommandError(str(error)) from None
        try:
            message = publish(
                options["channel"], data, event=options["event"], idempotency_key=options["idempotency_key"]
            )
        except InvalidMessage as error:
            raise CommandError(str(error)) from None
        self.stdout.write(str(message.position))


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise CommandError(f"Standard input is not text in {sys.stdin.encoding}: {error}.") from None
