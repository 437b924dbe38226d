"""manage.py create_relay_key NAME: print a key with which a program can request answers in a user's name."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from streams.relay.access import make_key


class Command(BaseCommand):
    help = (
        "Print a key for programs, such as the openai client (as its api_key). It expires after --days, and becomes "
        "invalid when the user's password changes."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="The user name, as it is typed to log in.")
        parser.add_argument(
            "--days", type=float, default=30, help="The number of days until the key expires. Default: 30."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["days"] <= 0:
            raise CommandError(f"--days must be greater than 0; got {options['days']:g}.")
        users = get_user_model()
        user = users.objects.filter(**{users.USERNAME_FIELD: options["name"]}, is_active=True).first()
        if user is None:
            raise CommandError(f"There is no active user {options['name']!r}.")
        self.stdout.write(make_key(user, options["days"] * 86_400))
