"""Notices as text: what is taken for one, and what is not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from django.db import connections
from django.test import override_settings

from streams.databases import log_name
from streams.events import StoredEvent
from streams.notifiers import Notice, Revocation, wire

NOTICE = Notice(4, 5, (StoredEvent(4, "news", "message", "雨 \u2028 \U0001f30a \ud800"), StoredEvent(5, "b", "t", "")))


def test_notice_comes_back_as_it_was_and_travels_in_ascii() -> None:
    text = wire.encode(NOTICE, 1000)
    assert text.isascii()
    assert wire.decode(text) == NOTICE


@pytest.mark.parametrize(
    "revocation",
    [
        Revocation(),
        Revocation(ends=True, user="7", channel="a.b", token="x" * 64, session="f" * 32),
        Revocation(user="é"),
    ],
)
def test_revocation_comes_back_as_it_was(revocation: Revocation) -> None:
    text = wire.encode(Notice(0, 0, revocation=revocation), 1000)
    assert text.isascii()
    assert wire.decode(text) == Notice(0, 0, revocation=revocation)


@pytest.mark.parametrize("most", range(80, 260, 7))
def test_messages_are_left_out_where_they_do_not_fit(most: int) -> None:
    text = wire.encode(NOTICE, most)
    assert len(text) <= most
    assert wire.decode(text) in (NOTICE, Notice(4, 5))


def test_old_keys_are_accepted_for_as_long_as_settings_name_them() -> None:
    with override_settings(SECRET_KEY="old"):
        text = wire.encode(NOTICE, 1000)
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"]):
        assert wire.decode(text) == NOTICE
    with override_settings(SECRET_KEY="new"):
        assert wire.decode(text) is None


def test_notice_of_another_log_is_none_also_under_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    text = wire.encode(NOTICE, 1000)
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", "of a copy of the site")
    assert wire.decode(text) is None
    assert wire.decode(wire.encode(NOTICE, 1000)) == NOTICE


def test_logs_have_names_that_differ_where_they_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SQLite's: by where the file is, however that is written."""
    connection = connections["default"]
    if connection.vendor != "sqlite":
        pytest.skip("a PostgreSQL database's is its NAME")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "current").symlink_to(tmp_path)
    names = {}
    for name in (
        "log.sqlite3",
        tmp_path / "log.sqlite3",
        f"{tmp_path}/current/log.sqlite3",
        "other.sqlite3",
        ":memory:",
    ):
        monkeypatch.setitem(connection.settings_dict, "NAME", name)
        names[name] = log_name()
    assert len(set(names.values())) == 3
    assert (
        len({found for name, found in names.items() if str(name).endswith("/log.sqlite3")} | {names["log.sqlite3"]})
        == 1
    )


@pytest.mark.parametrize("text", ["", "hello", None, 7, "1:a:b", "2" + wire.encode(Notice(1, 1), 99)[1:], "1:é:[]"])
def test_anything_else_is_none(text: object) -> None:
    assert wire.decode(text) is None


def test_changed_notice_is_none() -> None:
    assert wire.decode(wire.encode(NOTICE, 1000).replace("[4,5,", "[4,9,")) is None


def test_what_is_ignored_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    wire._said.clear()
    with caplog.at_level(logging.WARNING, "streams.notifiers"):
        for _ in range(3):
            wire.decode("1:a:b")
    [record] = caplog.records
    assert "signed with another SECRET_KEY" in record.getMessage()
