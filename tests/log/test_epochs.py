"""Epochs: the log recognises that it is an older copy, and continues in a new epoch."""

from __future__ import annotations

import sqlite3
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.db.backends.sqlite3.base import DatabaseWrapper

from streams import NewMessage, log, publish
from streams.log import epochs, known
from streams.log.files import birth
from streams.models import Epoch, LogHead, Message
from streams.runtime.test_run import TestRun

pytestmark = pytest.mark.django_db(transaction=True)

SYSTEM = "system=1 timeline=00000001 database=5 table=7"


def published(count: int) -> list[int | None]:
    return [publish("news", str(n)).position for n in range(count)]


# --- Identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "found", "expected"),
    [
        ("", SYSTEM, False),
        (SYSTEM, SYSTEM, False),
        (SYSTEM, SYSTEM.replace("timeline=00000001", "timeline=00000002"), True),
        (SYSTEM, SYSTEM.replace("database=5", "database=6"), True),
        (SYSTEM, "database=5", False),
        (f"{SYSTEM} run=1", SYSTEM, False),
        (f"{SYSTEM} run=1", f"{SYSTEM} run=2", True),
        (f"{SYSTEM} run=1", "run=1 new=1", False),
    ],
)
def test_identities_differ_in_keys_of_both(stored: str, found: str, expected: bool) -> None:
    assert epochs.differs(stored, found) is expected


def stored() -> str:
    return LogHead.objects.get().identity


def test_identity_is_stored_with_the_first_position() -> None:
    published(1)
    if connection.vendor == "postgresql":
        assert [pair.split("=")[0] for pair in stored().split()] == ["database", "run", "system", "table", "timeline"]
    else:
        assert stored() == ""  # the test database is in memory
    assert not log.head().is_replaced
    assert not Epoch.objects.exists()


def report_identity(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the database report this identity from now on, as if this process had just connected to it."""
    known.forget()
    monkeypatch.setattr(epochs, "identity", lambda connection, found=None: text)


def test_other_database_starts_an_epoch_before_a_position_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    report_identity(monkeypatch, SYSTEM)
    assert published(3) == [1, 2, 3]
    report_identity(monkeypatch, SYSTEM.replace("timeline=00000001", "timeline=00000002"))
    [position] = published(1)
    epoch = Epoch.objects.get()
    assert (epoch.number, epoch.fork, position) == (2, 3, epoch.start + 1)
    assert log.head() == log.Head(epoch.start + 1, 0, False, epoch.start)
    assert log.opening() == (log.Epochs(2, epoch.start, ((3, epoch.start),)), epoch.start + 1)


def test_other_database_starts_an_epoch_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    report_identity(monkeypatch, SYSTEM)
    published(3)
    report_identity(monkeypatch, SYSTEM.replace("system=1", "system=2"))
    assert log.head().is_replaced
    assert log.current_head() == Epoch.objects.get().start
    assert not log.head().is_replaced


def test_restart_starts_an_epoch_only_if_commits_can_be_lost_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    report_identity(monkeypatch, f"{SYSTEM} run=1")
    published(1)
    assert stored() == epochs._text(epochs._pairs(SYSTEM))
    report_identity(monkeypatch, f"{SYSTEM} run=2")
    assert published(1) == [2]
    report_identity(monkeypatch, f"{SYSTEM} run=2 durable=off")  # another session, with synchronous_commit = off
    assert published(1) == [3]
    assert "run=2" in stored()
    report_identity(monkeypatch, f"{SYSTEM} run=3")  # the first session after the restart notices it
    [position] = published(1)
    assert position == Epoch.objects.get().start + 1
    assert "run" not in stored()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="needs PostgreSQL")
def test_part_that_the_server_refuses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"forbidden": "pg_read_file('/etc/hostname')", "unknown": "no_such_function()", "database": "5"}
    monkeypatch.setattr(epochs, "_ON_POSTGRESQL", parts)
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE plain; SET ROLE plain")
    epochs._available.cache_clear()
    try:
        assert epochs.identity(connection) == "database=5"
    finally:
        epochs._available.cache_clear()
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE; DROP ROLE plain")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="needs PostgreSQL")
def test_plain_role_can_read_every_part() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE plain; SET ROLE plain")
    epochs._available.cache_clear()
    try:
        assert epochs._available("default") == tuple(epochs._ON_POSTGRESQL)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE; DROP ROLE plain")


# --- SQLite's files ---------------------------------------------------------------------------------------------------


class File:
    """A Django connection to a separate SQLite file."""

    def __init__(self, path: Path) -> None:
        alias = connections["default"]
        settings = {**alias.settings_dict, "ENGINE": "django.db.backends.sqlite3", "NAME": path, "OPTIONS": {}}
        self.connection = DatabaseWrapper(settings, "file")

    def identity(self) -> dict[str, str]:
        self.connection.ensure_connection()
        return epochs._pairs(epochs.identity(self.connection))


@pytest.fixture
def file(tmp_path: Path) -> Any:
    path = tmp_path / "db.sqlite3"
    sqlite3.connect(path).executescript("CREATE TABLE t (x)")
    found = File(path)
    yield found
    found.connection.close()


def test_sqlite_file_that_replaces_another_is_recognised(file: File, tmp_path: Path) -> None:
    """It is recognised even if it gets the inode number of the deleted file."""
    before = file.identity()
    file.connection.close()
    assert file.identity() == before
    file.connection.close()
    path = tmp_path / "db.sqlite3"
    content = path.read_bytes()
    path.unlink()
    time.sleep(0.01)
    path.write_bytes(content)
    after = file.identity()
    assert any(before[key] != after[key] for key in before.keys() & after.keys())


def test_sqlite_file_that_was_replaced_while_open_is_refused_once(file: File, tmp_path: Path) -> None:
    file.identity()
    other = tmp_path / "other"
    sqlite3.connect(other).executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    other.replace(tmp_path / "db.sqlite3")
    with pytest.raises(OperationalError, match="was replaced while this process had it open"):
        file.identity()
    file.identity()
    with file.connection.cursor() as cursor:
        cursor.execute("SELECT x FROM t")
        assert cursor.fetchall() == [(1,)]


def test_sqlite_counts_the_machine_s_start_only_if_a_power_cut_can_take_commits(file: File) -> None:
    assert "durable" not in file.identity()
    with file.connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous = NORMAL")
    assert file.identity()["durable"] == "off"


def test_birth_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = time.time()
    path.touch()
    born = birth(str(path))
    if not born:
        pytest.skip("this system does not store a file's creation time")
    assert abs(float(born) - before) < 60
    time.sleep(0.02)
    path.write_text("changed")
    assert birth(str(path)) == born
    with pytest.raises(FileNotFoundError):
        birth(str(tmp_path / "none"))


# --- Starts -----------------------------------------------------------------------------------------------------------


def test_start_lies_past_every_earlier_epoch() -> None:
    published(3)
    first = log.start_new_epoch("restored")
    assert first is not None
    assert 2**40 < first < 2**53
    assert published(2) == [first + 1, first + 2]
    second = log.start_new_epoch("restored", fork=2)
    assert second is not None
    assert second > first + 2
    known, _ = log.opening()
    lost = [3, first, first + 1, first + 2, second - 1]
    assert [position for position in [0, 1, 2, *lost, second, second + 1] if known.is_lost(position)] == lost


def test_two_restores_of_one_backup_get_different_starts() -> None:
    published(3)
    [backup] = LogHead.objects.values()
    starts = set()
    for _ in range(5):
        time.sleep(0.005)  # SQLite's clock has a resolution of one millisecond
        starts.add(log.start_new_epoch("restored"))
        Epoch.objects.all().delete()
        LogHead.objects.update(**backup)
    assert len(starts) == 5


@pytest.mark.parametrize("clock", ["-86400", "0", "2"])
def test_wrong_clock_gives_different_starts_too(monkeypatch: pytest.MonkeyPatch, clock: str) -> None:
    """The head is ahead of the clock: the clock is slow now, or it was fast when an epoch started."""
    monkeypatch.setitem(epochs._SECONDS, connection.vendor, clock)
    published(1)
    head = 3 << 20
    starts = []
    for _ in range(5):
        LogHead.objects.update(head=head, epoch=1)
        Epoch.objects.all().delete()
        starts.append(log.start_new_epoch("restored") or 0)
    assert min(starts) > head + 2**23
    assert max(starts) < 2**53
    assert len(set(starts)) > 1


def test_epoch_that_another_process_has_started_is_enough() -> None:
    published(3)
    known, _ = log.opening()
    start = log.start_new_epoch("first", fork=1, seen=known.start)
    assert log.start_new_epoch("second", fork=0, seen=known.start) is None
    assert log.opening()[0].start == start
    assert Epoch.objects.count() == 1


def test_emptied_log_starts_an_epoch_outside_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    published(3)
    Message.objects.all().delete()
    LogHead.objects.all().delete()
    monkeypatch.setattr(TestRun, "starts_new_epochs", True)
    [position] = published(1)
    epoch = Epoch.objects.get()
    assert (epoch.number, epoch.fork, position) == (2, 0, epoch.start + 1)
    assert LogHead.objects.get().epoch == 2


# --- The command ------------------------------------------------------------------------------------------------------


def run(*args: str) -> str:
    out = StringIO()
    call_command("start_new_epoch", *args, stdout=out)
    return out.getvalue().strip()


def test_command_starts_an_epoch() -> None:
    published(3)
    start = int(run("--fork", "2", "--reason", "snapshot of Monday"))
    epoch = Epoch.objects.get()
    assert (epoch.fork, epoch.start, epoch.reason) == (2, start, "snapshot of Monday")
    assert published(1) == [start + 1]


def test_command_forks_from_the_head() -> None:
    published(3)
    run()
    assert Epoch.objects.get().fork == 3


def test_command_sequences_what_waits() -> None:
    published(1)
    log.append([NewMessage("news", "left")])
    start = int(run())
    assert log.head() == log.Head(start + 1, 0, False, start)


@pytest.mark.parametrize("fork", ["4", "-1"])
def test_command_refuses_a_fork_outside_of_the_log(fork: str) -> None:
    published(3)
    with pytest.raises(CommandError, match=f"between 0 and the head, which is 3; got {fork}"):
        run(f"--fork={fork}")
    assert not Epoch.objects.exists()
