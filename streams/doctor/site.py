"""Check the site from inside: its settings, its application, its database, and its notifier."""

from __future__ import annotations

from collections.abc import Callable

from django.core import checks

from streams.doctor import application, database, log, notifier
from streams.doctor.findings import Finding, Findings, Level, ok, problem, warning
from streams.exceptions import InvalidSetting
from streams.redaction import hide
from streams.runtime.executor import database as log_database

# The doctor's name for the subject of a system check. All others are reported as "settings".
SUBJECTS = {
    "streams.E005": "database",
    "streams.W001": "SQLite",
    "streams.W002": "notifier",
    "streams.W003": "client address",
    "streams.W004": "connections",
    "streams.W005": "connections",
}

PREFIX = "streams"

# System checks of the server and its application. The doctor makes these itself, also if DEBUG is off.
LEFT_OUT = ("streams.W008", "streams.W009", "streams.W010")


def check_site() -> Findings:
    """Yield the findings about the site. This blocks, for at most a few times DATABASE_SECONDS (see `database`)."""
    reported: set[str] = set()
    for name, check in CHECKS.items():
        for finding in _guarded(name, check):
            # The system checks come first. What they complain about is not called good by a later check.
            if finding.level is not Level.OK or finding.check not in reported:
                yield finding
            if finding.level is not Level.OK:
                reported.add(finding.check)


def _guarded(name: str, check: Callable[[], Findings]) -> Findings:
    """Yield the findings of the check `name`. An exception becomes a finding too."""
    try:
        yield from check()
    except InvalidSetting as error:
        yield problem("settings", f"Not everything was checked, because a setting is wrong: {error}")
    except Exception as error:
        yield problem(
            name,
            f"This could not be checked. {type(error).__name__}: {hide(str(error))}",
            "Run `manage.py check`, which shows errors of the site's own code with their traceback.",
        )


def _system_checks() -> Findings:
    """Yield the messages of the system checks whose ids start with "streams"."""
    try:
        alias = log_database()
        messages = checks.run_checks() + checks.run_checks(tags=[checks.Tags.database], databases=[alias])
    except Exception as error:  # a check imports the URLs, and so nearly all code of the site
        yield problem(
            "settings",
            f"The system checks failed. {type(error).__name__}: {hide(str(error))}",
            "Run `manage.py check`, which shows the traceback.",
        )
        return
    own = [each for each in messages if (each.id or "").startswith(PREFIX) and not each.is_silenced()]
    own = [each for each in own if each.id not in LEFT_OUT]
    for message in own:
        yield _finding(message)
    if not own:
        yield ok("settings", "The system checks of Streams found nothing.")


def _finding(message: checks.CheckMessage) -> Finding:
    make = problem if message.is_serious() else warning if message.level >= checks.WARNING else ok
    identifier = str(message.id)
    return make(SUBJECTS.get(identifier, "settings"), f"{message.msg} ({identifier})", message.hint or "")


def _log() -> Findings:
    """Yield the findings about the log's database. Those about its tables only if it has them."""
    if (yield from database.check_database()) and (yield from database.check_migrations()):
        for name, check in CHECKS_OF_TABLES.items():
            yield from _guarded(name, check)


# By the names of the findings that they yield, or of most of them.
CHECKS: dict[str, Callable[[], Findings]] = {
    "settings": _system_checks,
    "application": application.check_application,
    "runserver": application.check_runserver,
    "database": _log,
    "notifier": notifier.check,
}
CHECKS_OF_TABLES: dict[str, Callable[[], Findings]] = {
    "connections": database.check_options,
    "clock": log.check_clock,
    "waiting messages": log.check_waiting,
    "pruning": log.check_pruning,
    "processes": log.check_processes,
}
