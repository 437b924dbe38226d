"""manage.py create_demo_user: create a superuser for the demo site, once."""

from __future__ import annotations

import argparse
import secrets
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Create a superuser with a random password, and print the password. Do nothing if the user exists."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--username", default="demo", help="the username (default: demo)")

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["username"]
        users = get_user_model().objects
        if users.filter(username=name).exists():
            self.stdout.write(
                f"The user {name} already exists. The password was printed when the user was created. "
                f"`python manage.py changepassword {name}` sets a new one."
            )
            return
        password = secrets.token_urlsafe(12)
        users.create_superuser(name, password=password)
        self.stdout.write(f"Created a user for the admin. Name: {name}  Password: {password}")
        self.stdout.write("The password will not be shown again.")
