"""Select the tests of a run, and report the tests that it skipped at its end.

There are two parts, `make test` and `make test-system`:

- A test marked `system` starts servers, browsers, services, other processes with a database of their own, or whole
  test suites. It is below `tests/system`, or it uses one of `SYSTEM_FIXTURES`.
- All other tests run on SQLite. Those that use the database run again on PostgreSQL; see `is_for_each_database`.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

# All tests below this directory are marked `system`.
SYSTEM = Path(__file__).resolve().parents[1] / "system"

SYSTEM_FIXTURES = {"durable_postgres", "postgres", "postgres_site", "redis", "settings_database", "site", "sqlite_site"}

DATABASE_FIXTURES = {"db", "transactional_db", "live_server", "django_db_reset_sequences"}

# The text of tests.support.services.missing().
MISSING = re.compile(r"(?P<program>[\w-]+) is not installed; `apt-get install (?P<package>[\w-]+)` brings it")


@functools.cache
def is_system_path(path: Path) -> bool:
    """Return True if all tests in the file or directory are marked `system`."""
    return path == SYSTEM or SYSTEM in path.parents


def is_system(item: pytest.Item) -> bool:
    """Return True if the test is to be marked `system`."""
    return is_system_path(item.path) or not SYSTEM_FIXTURES.isdisjoint(fixtures(item))


def fixtures(item: pytest.Item) -> list[str]:
    """Return the names of all fixtures that the test uses, directly or through others."""
    return getattr(item, "fixturenames", [])


def uses_database(item: pytest.Item) -> bool:
    """Return True if pytest-django gives the test a database."""
    if item.get_closest_marker("django_db") or not DATABASE_FIXTURES.isdisjoint(fixtures(item)):
        return True
    from django.test import TransactionTestCase

    cls = getattr(item, "cls", None)
    return cls is not None and issubclass(cls, TransactionTestCase)


def is_for_each_database(item: pytest.Item) -> bool:
    """Return True if the test can behave differently on another database.

    A test marked `once` uses the default database as well, but the result does not depend on it: most of these tests
    make databases of their own, of each kind.
    """
    return uses_database(item) and item.get_closest_marker("once") is None


def slow_first(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """Return the tests in an order in which no process runs a slow test alone at the end.

    xdist gives each process an equal part of the list, one after the other. Each part begins with some of the tests
    that are marked `slow`. The other tests keep their order, because those of a file share its fixtures.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    ordered: list[pytest.Item] = []
    for number in range(processes):
        part = slow[number::processes]
        end = max(0, len(items) // processes - len(part))
        ordered += part + others[:end]
        others = others[end:]
    return ordered + others


def skipped_line(reports: Iterable[object]) -> str:
    """Return the line about tests that were skipped because a program is missing, or an empty string."""
    programs: Counter[str] = Counter()
    packages = set()
    for report in reports:
        longrepr = getattr(report, "longrepr", None)
        if isinstance(longrepr, tuple) and (found := MISSING.search(longrepr[2])):
            programs[found["program"]] += 1
            packages.add(found["package"])
    if not programs:
        return ""
    counts = ", ".join(f"{count} without {program}" for program, count in programs.most_common())
    return f"Skipped: {counts}. To run them: apt-get install {' '.join(sorted(packages))}"
