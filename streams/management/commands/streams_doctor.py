"""manage.py streams_doctor [URL]: find out what is wrong with a site, from inside and through its public URL."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streams.doctor.connection import Target
from streams.doctor.findings import Finding, Level
from streams.doctor.site import check_site
from streams.doctor.stream import Options, check_stream
from streams.protocol.events import validate_channel

LEVELS = ("PROBLEM", "WARNING")

# From this --verbosity on, the log is printed as well.
VERBOSE = 2


class Command(BaseCommand):
    help = (
        "Find out what is wrong with the site. Checks its settings, application, database and notifier. With a URL, "
        "also opens a stream there as a browser does, through all proxies in between. Exits with 1 if there is a "
        "problem."
    )
    requires_system_checks = []  # it runs on broken sites, and reports the system checks itself

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "url", nargs="?", metavar="URL", help="the public URL of a stream, such as https://example.com/events/news/"
        )
        parser.add_argument(
            "--header", action="append", default=[], metavar="'NAME: VALUE'", help="send this header; can be repeated"
        )
        parser.add_argument(
            "--headers-from", metavar="FILE", help="send the headers in this file, one a line; - for standard input"
        )
        parser.add_argument("--token", help="send this signed token as Authorization: Bearer")
        parser.add_argument(
            "--seconds",
            type=float,
            metavar="N",
            help="how long to keep the stream open (default: HEARTBEAT_SECONDS and five more)",
        )
        parser.add_argument(
            "--publish",
            metavar="CHANNEL",
            help="publish three test messages to this channel of the URL, and await them",
        )
        parser.add_argument("--origin", help="also check that pages of this origin can read the stream (CORS)")
        parser.add_argument("--insecure", action="store_true", help="accept a certificate that is not valid")
        parser.add_argument("--json", action="store_true", help="print the findings as a JSON list")
        parser.add_argument(
            "--fail-level", choices=LEVELS, default="PROBLEM", help="exit with 1 from this level on (default: PROBLEM)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        findings, stream = [], self._stream_options(options)
        with _silent_log(options["verbosity"] < VERBOSE):
            for finding in self._findings(stream):
                findings.append(finding)
                if not options["json"]:
                    self._print(finding)
        if options["json"]:
            self.stdout.write(json.dumps([_as_dict(finding) for finding in findings], indent=2, ensure_ascii=False))
        summary = _summary(findings)
        if any(finding.level >= Level[options["fail_level"]] for finding in findings):
            raise CommandError(summary)
        if not options["json"]:
            self.stdout.write(summary)

    def _findings(self, stream: Options | None) -> Iterator[Finding]:
        yield from check_site()
        if stream is not None:
            yield from check_stream(stream)

    def _stream_options(self, options: dict[str, Any]) -> Options | None:
        if options["url"] is None:
            if any(options[name] for name in ("header", "headers_from", "token", "publish", "origin", "seconds")):
                raise CommandError("These options need a URL: --header, --token, --seconds, --publish, --origin.")
            return None
        seconds = options["seconds"]
        if seconds is not None and not (0 < seconds < math.inf):
            raise CommandError(f"--seconds must be a number above 0; got {seconds}.")
        try:
            Target.parse(options["url"])
            if options["publish"] is not None:
                validate_channel(options["publish"])
        except ValueError as error:  # InvalidChannel is one
            raise CommandError(str(error)) from None
        return Options(
            url=options["url"],
            headers=_headers(options),
            seconds=seconds,
            insecure=options["insecure"],
            origin=options["origin"],
            publish=options["publish"],
            report=self.stderr.write,
        )

    def _print(self, finding: Finding) -> None:
        style = {Level.OK: self.style.SUCCESS, Level.WARNING: self.style.WARNING, Level.PROBLEM: self.style.ERROR}
        word = style[finding.level](f"{finding.level.name.lower():8}")
        self.stdout.write(f"{word} {finding.check:17} {finding.text}")
        if finding.remedy:
            self.stdout.write(f"{'':26} → {finding.remedy}")
        self.stdout.flush()


@contextlib.contextmanager
def _silent_log(is_silent: bool) -> Iterator[None]:
    """Turn logging off if `is_silent`: what is logged during the checks is what the findings report."""
    before = logging.root.manager.disable
    if is_silent:
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _summary(findings: list[Finding]) -> str:
    counts = {level: sum(finding.level is level for finding in findings) for level in reversed(Level)}
    words = [f"{n} {level.name.lower()}{'s' if n != 1 and level else ''}" for level, n in counts.items()]
    return f"Found {', '.join(words)}."


def _as_dict(finding: Finding) -> dict[str, str]:
    return {
        "level": finding.level.name.lower(),
        "check": finding.check,
        "text": finding.text,
        "remedy": finding.remedy,
    }


def _headers(options: dict[str, Any]) -> dict[str, str]:
    """Return the headers of the options. Errors do not show their values, which can be secret."""
    lines = list(options["header"])
    if (source := options["headers_from"]) is not None:
        try:
            text = sys.stdin.read() if source == "-" else Path(source).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"--headers-from {source} cannot be read: {type(error).__name__}.") from None
        lines += [line for line in text.splitlines() if line.strip()]
    if options["token"]:
        lines.append(f"Authorization: Bearer {options['token']}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip()
        is_token = bool(name) and all(character.isalnum() or character in "-_" for character in name)
        if not colon or not is_token or not (name + value).isascii() or not value.isprintable():
            raise CommandError("A header must be 'NAME: VALUE' in printable ASCII, such as 'Cookie: sessionid=…'.")
        headers[name] = value
    return headers
