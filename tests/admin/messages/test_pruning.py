"""Deleting expired messages."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import OperationalError, connection
from django.test import Client
from django.utils import timezone

from streams import log
from streams.log import retention
from streams.models import ChannelSettings, Message
from tests.admin.messages.support import LIST, link, page, publish_some, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def keep_two(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RETENTION_MESSAGES_PER_CHANNEL": 2}


@pytest.mark.usefixtures("keep_two")
def test_dry_run_deletes_nothing(pruner: Client) -> None:
    publish_some(5)
    publish_some(4, "weather")
    publish_some(3, "kept")
    ChannelSettings.objects.create(channel="kept", retention_messages=0)
    Message.objects.filter(position=1).update(created_at=timezone.now() - datetime.timedelta(days=30))
    path = link(page(pruner), "Delete expired messages")
    assert path is not None
    text = text_of(page(pruner, path))
    assert "all channels too old 1 1" in text
    assert "news too many 3 3" in text
    assert "weather too many 2 7" in text
    assert "RETENTION_MESSAGES_PER_CHANNEL 2 maximum number of messages in a channel" in text
    assert "RETENTION_SECONDS 604800" in text
    assert "RETENTION_BYTES no limit" in text
    assert "kept site setting no limit" in text
    assert Message.objects.count() == 12


@pytest.mark.usefixtures("keep_two")
def test_prune_now_deletes_and_counts(pruner: Client) -> None:
    publish_some(5)
    answer = pruner.post(f"{LIST}prune/", follow=True)
    assert "Deleted 3 messages." in answer.content.decode()
    assert "There are more expired messages" not in answer.content.decode()
    assert "There are no expired messages" in text_of(answer.content.decode())
    assert list(Message.objects.values_list("position", flat=True)) == [4, 5]
    assert log.pruned(["news"], 0) == {"news": 3}
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.change_message, entry.object_id) == ("editor", "Deleted 3 messages.", None)
    assert entry.content_type.model == "message"


@pytest.mark.usefixtures("keep_two")
def test_unfinished_prune_says_so(pruner: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr("streams.admin.messages.pruning.MAX_SECONDS", 0)
    publish_some(5)
    answer = pruner.post(f"{LIST}prune/", follow=True)
    assert "Deleted 0 messages." in answer.content.decode()
    assert "There are more expired messages than one request can delete." in answer.content.decode()


def test_nothing_to_prune_says_so(pruner: Client) -> None:
    publish_some(2)
    assert "There are no expired messages." in text_of(page(pruner, f"{LIST}prune/"))
    answer = pruner.post(f"{LIST}prune/", follow=True)
    assert "There were no expired messages." in answer.content.decode()
    assert LogEntry.objects.count() == 0
    assert Message.objects.count() == 2
    assert list(retention.cuts()) == []


@contextlib.contextmanager
def stopped_after(batches: int, monkeypatch: Any, error: BaseException) -> Iterator[None]:
    """Prune in batches of two messages. The database deletes `batches` batches, and then raises `error`."""
    monkeypatch.setattr(retention, "BATCH_MESSAGES", 2)
    left = batches

    def execute(run: Any, sql: str, *args: Any) -> Any:
        nonlocal left
        if sql.startswith('DELETE FROM "streams_message"'):
            if not left:
                raise error
            left -= 1
        return run(sql, *args)

    with connection.execute_wrapper(execute):
        yield


@pytest.mark.usefixtures("keep_two")
def test_partly_failed_prune_is_logged(pruner: Client, monkeypatch: Any, caplog: Any) -> None:
    publish_some(9)
    with stopped_after(2, monkeypatch, OperationalError("the database went away")):
        answer = pruner.post(f"{LIST}prune/", follow=True)
    assert "An error stopped the deletion." in answer.content.decode()
    assert "the database went away" in caplog.text
    assert Message.objects.count() == 5
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.object_id) == ("editor", None)
    assert "Messages that were deleted before the error stay deleted." in entry.change_message


@pytest.mark.usefixtures("keep_two")
def test_interrupted_prune_is_logged(pruner: Client, monkeypatch: Any) -> None:
    publish_some(9)
    with stopped_after(1, monkeypatch, SystemExit(1)), pytest.raises(SystemExit):
        pruner.post(f"{LIST}prune/")
    assert Message.objects.count() == 7
    assert LogEntry.objects.get().user.username == "editor"


@pytest.mark.usefixtures("keep_two")
def test_immediately_failed_prune_is_not_logged(pruner: Client, monkeypatch: Any) -> None:
    publish_some(9)
    with stopped_after(0, monkeypatch, OperationalError("the database went away")):
        answer = pruner.post(f"{LIST}prune/", follow=True)
    assert "An error stopped the deletion" in answer.content.decode()
    assert Message.objects.count() == 9
    assert LogEntry.objects.count() == 0
