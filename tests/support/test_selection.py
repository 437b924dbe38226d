"""The selection of tests for the parts of a run, and the report about skipped tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.test import SimpleTestCase, TestCase

from tests.support import selection


def item(*fixtures: str, cls: type | None = None, marks: tuple[str, ...] = ()) -> SimpleNamespace:
    return SimpleNamespace(
        fixturenames=list(fixtures), cls=cls, get_closest_marker=lambda name: name if name in marks else None
    )


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (item("tmp_path"), False),
        (item("client"), False),
        (item("tmp_path", "db"), True),
        (item("transactional_db"), True),
        (item(marks=("django_db",)), True),
        (item(marks=("django_db", "once")), False),
        (item(cls=TestCase), True),
        (item(cls=SimpleTestCase), False),
        (item(cls=object), False),
    ],
)
def test_tests_without_database_run_once(test: SimpleNamespace, expected: bool) -> None:
    assert selection.is_for_each_database(test) is expected


def test_system_path_exists() -> None:
    assert selection.SYSTEM.is_dir()


@pytest.mark.parametrize(
    ("path", "fixtures", "expected"),
    [
        ("test_events.py", [], False),
        ("test_events.py", ["tmp_path", "site"], True),
        ("test_events.py", ["postgres"], True),
        ("system/servers/test_live.py", [], True),
    ],
)
def test_system_is_by_path_or_fixture(path: str, fixtures: list[str], expected: bool) -> None:
    test = item(*fixtures)
    test.path = selection.SYSTEM.parent / path
    assert selection.is_system(test) is expected


def test_skipped_line_names_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.services import missing

    monkeypatch.delenv("REQUIRE_SERVICES", raising=False)
    reports = [SimpleNamespace(longrepr=("a.py", 1, "Skipped: SQLite has no server that closes connections"))]
    assert selection.skipped_line(reports) == ""
    for program, package in (("Redis", "redis-server"), ("PostgreSQL", "postgresql"), ("PostgreSQL", "postgresql")):
        with pytest.raises(pytest.skip.Exception) as skipped:
            missing(program, package)
        reports.append(SimpleNamespace(longrepr=("a.py", 1, f"Skipped: {skipped.value}")))
    assert selection.skipped_line(reports) == (
        "Skipped: 2 without PostgreSQL, 1 without Redis. To run them: apt-get install postgresql redis-server"
    )


def test_each_process_begins_with_slow_tests() -> None:
    """The other tests keep their order."""
    tests: list[Any] = [item(marks=("slow",) if number % 3 == 2 else ()) for number in range(12)]
    ordered = selection.slow_first(tests, 2)
    assert sorted(map(tests.index, ordered)) == list(range(12))
    assert [[tests.index(test) for test in ordered[half : half + 6]] for half in (0, 6)] == [
        [2, 8, 0, 1, 3, 4],
        [5, 11, 6, 7, 9, 10],
    ]
