"""`manage.py streams_init` and `python -m streams init`: show or make the changes that a project needs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from django.conf import settings

from streams.exceptions import InvalidChannel
from streams.installation import asgi_file, settings_files, urls_file
from streams.installation.names import asgi_path
from streams.installation.project import Project
from streams.installation.source import CannotChange
from streams.private import runserver
from streams.protocol.events import validate_channel

Write = Callable[[str], object]

HELP = "Show the changes that this project needs to serve streams, as a diff, or make them."


class Plan:
    """The changes that a project needs: those to its files, and those that its developer has to make by hand."""

    def __init__(self, *, prefix: str, public: Sequence[str]) -> None:
        self.project = Project()
        self.by_hand: list[str] = []
        self.is_installable = True
        self._plan_settings(public)
        if not urls_file.has_streams():
            self._try(
                f'In {settings.ROOT_URLCONF}, add to urlpatterns: path("{prefix}", include("streams.urls"))',
                lambda: urls_file.add_urls(self.project, prefix),
            )
        self._plan_asgi()

    def _plan_settings(self, public: Sequence[str]) -> None:
        first, last = settings_files.missing_apps()
        if first or last:
            is_done = self._try(
                f"In the settings, set INSTALLED_APPS = {[*first, '…', *last]!r}.".replace("'…'", "*INSTALLED_APPS"),
                lambda: settings_files.add_apps(self.project, first, last),
            )
            self.is_installable = is_done or not last
        if not hasattr(settings, "ASGI_APPLICATION"):
            self._try(
                f"In the settings, set ASGI_APPLICATION = {asgi_path()!r}.",
                lambda: settings_files.set_asgi_application(self.project),
            )
        if settings_files.needs_sqlite_options():
            self._try(
                "If the site uses SQLite, add to the OPTIONS of DATABASES['default']: "
                '"init_command": "PRAGMA journal_mode=WAL;", "transaction_mode": "IMMEDIATE"',
                lambda: settings_files.add_sqlite_options(self.project),
            )
        if channels := settings_files.closed(public):
            self._try(
                f'In the settings, add to STREAMS: "PUBLIC_CHANNELS": {json.dumps(channels)}',
                lambda: settings_files.open_channels(self.project, channels),
            )
        if runserver.serves_wsgi() and "daphne" not in first:
            self.by_hand.append(
                "`manage.py runserver` serves WSGI. Put 'daphne' at the top of INSTALLED_APPS."
                if importlib.util.find_spec("daphne")
                else "`manage.py runserver` serves WSGI. Run `pip install daphne` and this command again, or develop "
                "with another ASGI server."
            )

    def _plan_asgi(self) -> None:
        text = (
            f"In {asgi_path().rpartition('.')[0]}, wrap the application in streams.asgi.get_asgi_application(…), "
            "without an argument for Django's own."
        )
        try:
            change = asgi_file.change(self.project)
        except CannotChange as reason:
            self.by_hand.append(f"{text} (Not done: {reason}.)")
            return
        if change is not None:
            self._try(text, change)

    def _try(self, text: str, change: Callable[[], None]) -> bool:
        """Make a change. If that is not possible, note it as left to do by hand, and return False."""
        try:
            change()
        except CannotChange as reason:
            self.by_hand.append(f"{text} (Not done: {reason}.)")
            return False
        return True

    def diff(self) -> str:
        return "".join(file.diff(Path.cwd()) for file in self.project.changed())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="make the changes; without it, only show them")
    parser.add_argument("--prefix", default="events/", help="the URL of the streams (default: events/)")
    parser.add_argument(
        "--public",
        metavar="CHANNEL",
        action="append",
        default=[],
        help="a channel that everyone can read, such as news, or a pattern, such as 'room.*'; can be repeated",
    )


def run(out: Write, notes: Write, *, write: bool, prefix: str, public: Sequence[str]) -> bool:
    """Show or make the changes. `django.setup()` must have run.

    Args:
        out: For the diff, or the names of the changed files.
        notes: For everything else.
        write: Make the changes.
        prefix: The URL of the streams, without a leading slash.
        public: Channels and patterns to open to everyone.

    Returns:
        True if nothing is left to do by hand.

    Raises:
        CannotChange: The prefix or a channel is not valid, or the changed files do not work and were restored.
    """
    for channel in public:
        try:
            validate_channel(channel.replace("*", "x"))
        except InvalidChannel:
            text = "a channel's name uses A-Z a-z 0-9 . _ - and at most 99 characters, and a pattern also *"
            raise CannotChange(f"{text}; got {channel!r}") from None
    prefix = prefix.strip("/")
    if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", prefix):
        raise CannotChange(f"a prefix is a path such as events/, of A-Z a-z 0-9 _ - and /; got {prefix!r}")
    plan = Plan(prefix=f"{prefix}/", public=public)
    files = plan.project.changed()
    if write and not plan.is_installable:
        files = []
        notes(
            "No file was changed, because the other changes need the first of these. Run the command again after it.\n"
        )
    elif write:
        plan.project.write()
        for file in files:
            out(f"{'Created' if file.before is None else 'Changed'} {_short(file.path)}\n")
    elif files:
        out(plan.diff())
    for text in plan.by_hand:
        notes(f"To do by hand: {text}\n")
    if files:
        notes("Then run `python manage.py migrate`.\n" if write else "With --write, these changes are made.\n")
    elif not plan.by_hand:
        notes("Nothing to change.\n")
    return not plan.by_hand


def _short(path: Path) -> Path:
    folder = Path.cwd().resolve()
    return path.relative_to(folder) if path.is_relative_to(folder) else path
