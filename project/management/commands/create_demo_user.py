"""manage.py create_demo_user: a superuser to try the demo site with, made once."""

from __future__ import annotations

import argparse
import secrets
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Make a staff superuser with a random password, which is printed this once. Does nothing where there is one."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--username", default="demo", help="the user's name (default: demo)")

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["username"]
        users = get_user_model().objects
        if users.filter(username=name).exists():
            self.stdout.write(
                f"The user {name} exists; its password was printed when it was made. "
                f"`python manage.py changepassword {name}` sets a new one."
            )
            return
        password = secrets.token_urlsafe(12)
        users.create_superuser(name, password=password)
        self.stdout.write(f"Made a staff user to log in with. Name: {name}  Password: {password}")
        self.stdout.write("The password is not shown again.")
