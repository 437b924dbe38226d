"""The signed text form of notices: valid texts are decoded, and all others are ignored."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from django.db import connections
from django.test import override_settings

from streams.notifiers import Notice, Revocation, signing
from streams.protocol.sse import StoredEvent
from streams.runtime.database import log_name

NOTICE = Notice(4, 5, (StoredEvent(4, "news", "message", "雨 \u2028 \U0001f30a \ud800"), StoredEvent(5, "b", "t", "")))


def decode(text: object) -> Notice | None:
    """Decode with a new decoder, like a process that has just begun to listen."""
    return signing.Decoder().decode(text)


def test_notice_comes_back_as_it_was_and_travels_in_ascii() -> None:
    text = signing.encode(NOTICE, 1000)
    assert text.isascii()
    assert decode(text) == NOTICE


@pytest.mark.parametrize(
    "revocation",
    [
        Revocation(),
        Revocation(ends=True, user="7", channel="a.b", token="x" * 64, session="f" * 32),
        Revocation(user="é"),
    ],
)
def test_revocation_comes_back_as_it_was(revocation: Revocation) -> None:
    text = signing.encode(Notice(0, 0, revocation=revocation), 1000)
    assert text.isascii()
    assert decode(text) == Notice(0, 0, revocation=revocation)


@pytest.mark.parametrize("max_length", range(80, 260, 7))
def test_messages_are_left_out_where_they_do_not_fit(max_length: int) -> None:
    text = signing.encode(NOTICE, max_length)
    assert len(text) <= max_length
    assert decode(text) in (NOTICE, Notice(4, 5))


def test_old_keys_are_accepted_for_as_long_as_settings_name_them() -> None:
    with override_settings(SECRET_KEY="old"):
        text = signing.encode(NOTICE, 1000)
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"]):
        assert decode(text) == NOTICE
    with override_settings(SECRET_KEY="new"):
        assert decode(text) is None


def test_notice_of_another_log_is_none_also_under_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    text = signing.encode(NOTICE, 1000)
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", "of a copy of the site")
    assert decode(text) is None
    assert decode(signing.encode(NOTICE, 1000)) == NOTICE


def test_logs_have_names_that_differ_where_they_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The name of a SQLite log depends on the location of its file, and not on the spelling of the path."""
    connection = connections["default"]
    if connection.vendor != "sqlite":
        pytest.skip("the name of a PostgreSQL log is the database's NAME")
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


@pytest.mark.parametrize("text", ["", "hello", None, 7, "3:a:b", "1" + signing.encode(Notice(1, 1), 99)[1:], "3:é:[]"])
def test_anything_else_is_none(text: object) -> None:
    assert decode(text) is None


def test_changed_notice_is_none() -> None:
    assert decode(signing.encode(NOTICE, 1000).replace("[4,5,", "[4,9,")) is None


def test_ignored_text_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    signing._is_logged.clear()
    with caplog.at_level(logging.WARNING, "streams.notifiers"):
        for _ in range(3):
            decode("3:a:b")
    [record] = caplog.records
    assert "signed with another SECRET_KEY" in record.getMessage()


def test_other_version_is_ignored_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    signing._is_logged.clear()
    with caplog.at_level(logging.INFO, "streams.notifiers"):
        for version in ("2", "4"):
            assert decode(version + signing.encode(NOTICE, 1000)[1:]) is None
    assert caplog.records == []


# --- Control notices that are sent again ------------------------------------------------------------------------------

CONTROL = Notice(0, 0, revocation=Revocation(ends=True, user="7"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock by a list with one time, which a test can change."""
    now = [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_control_notice_works_once() -> None:
    text, decoder = signing.encode(CONTROL, 1000), signing.Decoder()
    assert [decoder.decode(text) for _ in range(3)] == [CONTROL, None, None]
    assert decoder.decode(signing.encode(CONTROL, 1000)) == CONTROL, "a second notice with the same content works too"
    assert signing.Decoder().decode(text) == CONTROL, "every process accepts it once"


@pytest.mark.parametrize(("seconds", "expected"), [(59, CONTROL), (-59, CONTROL), (61, None), (-61, None)])
def test_control_notice_is_heard_near_its_time(clock: list[float], seconds: float, expected: Notice | None) -> None:
    text = signing.encode(CONTROL, 1000)
    clock[0] += seconds
    assert decode(text) == expected


def test_control_notice_of_the_past_is_explained(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    signing._is_logged.clear()
    text = signing.encode(CONTROL, 1000)
    clock[0] += 600
    with caplog.at_level(logging.WARNING, "streams.notifiers"):
        assert decode(text) is None
    [record] = caplog.records
    assert "must arrive within 60 s, and this one was sent 600 s ago" in record.getMessage()


def test_control_notice_from_ahead_works_once(clock: list[float]) -> None:
    """The nonce is kept until the notice is too old, also if the sender's clock is fast."""
    clock[0] += 50
    text, decoder = signing.encode(CONTROL, 1000), signing.Decoder()
    clock[0] -= 50
    assert decoder.decode(text) == CONTROL
    for _ in range(11):
        clock[0] += 10
        decoder.decode(signing.encode(CONTROL, 1000))
        assert decoder.decode(text) is None


def test_control_notice_cannot_be_made_young(clock: list[float]) -> None:
    text = signing.encode(CONTROL, 1000)
    clock[0] += 600
    head, _, tail = text.rpartition(f",{round(clock[0] - 600, 3)}")
    assert head
    assert decode(f"{head},{round(clock[0], 3)}{tail}") is None


def test_nonces_take_bounded_memory(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "MAX_NONCES", 20)
    decoder = signing.Decoder()
    for _ in range(50):
        assert decoder.decode(signing.encode(CONTROL, 1000)) == CONTROL
    assert len(decoder._nonces) == 20
    clock[0] += 61
    decoder.decode(signing.encode(CONTROL, 1000))
    assert len(decoder._nonces) == 1, "nonces of notices that are too old are removed"
