"""The notices that publishing sends, and notifiers that fail."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.db import transaction

from streams import NewMessage, log, publish
from streams.notifiers import Notice, get_notifier
from tests.publishing.support import UnsteadyNotifier, stored

pytestmark = pytest.mark.django_db(transaction=True)


def test_notice_contains_range_and_messages(notices: list[Notice]) -> None:
    publish("news", {"n": 1}, event="alert")
    assert notices == [Notice(1, 1, ((1, "news", "alert", '{"n":1}'),))]  # type: ignore[arg-type]


def test_notice_of_shared_range_has_no_messages(notices: list[Notice]) -> None:
    """The range contains a message that another publisher has appended."""
    log.append([NewMessage("news", "left by another")])
    publish("news", "ours")
    assert notices == [Notice(1, 2)]


def test_nothing_is_notified_before_the_commit(notices: list[Notice]) -> None:
    with transaction.atomic():
        publish("news", "x")
        assert notices == []
    assert len(notices) == 1


@pytest.mark.parametrize("inside", [False, True])
def test_failing_notifier_is_only_logged(settings: Any, caplog: pytest.LogCaptureFixture, inside: bool) -> None:
    settings.STREAMS = {**settings.STREAMS, "NOTIFIER": {"BACKEND": "tests.publishing.support.BrokenNotifier"}}
    if inside:
        with transaction.atomic():
            message = publish("news", "x")
    else:
        message = publish("news", "x")
    assert message.position == 1
    assert stored() == [(1, "x")]
    [record] = [record for record in caplog.records if record.name.startswith("streams")]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ConnectionError)


def test_notifier_outage_is_logged_once(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.STREAMS = {**settings.STREAMS, "NOTIFIER": {"BACKEND": "tests.publishing.support.UnsteadyNotifier"}}
    notifier = get_notifier()
    assert isinstance(notifier, UnsteadyNotifier)
    with caplog.at_level(logging.INFO, "streams"):
        for works in (True, False, False, True, True, False, False, True):
            notifier.works = works
            publish("news", "x")
    levels = [record.levelname for record in caplog.records if record.name == "streams.publishing"]
    assert levels == ["ERROR", "INFO", "ERROR", "INFO"]
