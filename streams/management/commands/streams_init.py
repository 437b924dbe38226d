"""manage.py streams_init: show or make the changes that the project needs to serve streams."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streams.installation import init
from streams.installation.source import CannotChange


class Command(BaseCommand):
    help = init.HELP
    # The checks can report what this command is about to change.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        init.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        choices = {name: options[name] for name in ("write", "prefix", "public")}
        try:
            is_done = init.run(self.stdout.write, self._note, **choices)
        except CannotChange as error:
            raise CommandError(f"{error}"[:1].upper() + f"{error}"[1:]) from None
        if options["write"] and not is_done:
            sys.exit(1)

    def _note(self, text: str) -> None:
        self.stderr.write(text, str)  # without the color of errors
