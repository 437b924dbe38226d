"""Findings about the event type and the connections."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from streams import publish
from streams.admin.diagnosis.findings import Verdict
from streams.models import Node
from streams.presence import counter
from tests.admin.diagnosis.support import about, as_text, ask
from tests.admin.people import node

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("event", "verdict", "expected"),
    [
        ("message", Verdict.GOOD, "which EventSource passes to onmessage"),
        ("alert", Verdict.NOTE, "passes it only to addEventListener(“alert”, …), not to onmessage."),
        ("error", Verdict.BAD, "an event of EventSource itself"),
        ("open", Verdict.BAD, "an event of EventSource itself"),
        ("100%s", Verdict.NOTE, "“100%s”"),
    ],
)
def test_type_says_who_is_handed_it(event: str, verdict: Verdict, expected: str) -> None:
    publish("news", "x", event=event)
    finding = about(ask(1), "Its event type")
    assert finding.verdict is verdict
    assert expected in finding.sentence


def test_who_listens_now() -> None:
    publish("news", "x")
    assert about(ask(1), "No client is connected now, to this channel or to any other.").verdict is Verdict.BAD
    node({"other": 2})
    assert about(ask(1), "news has no connections now, but other channels do.").verdict is Verdict.BAD
    node({"news": 1})
    assert about(ask(1), "news has 1 connection now.").verdict is Verdict.GOOD
    node({"news": 4})
    assert about(ask(1), "news has 5 connections now.").verdict is Verdict.GOOD


def test_zero_connections_needs_complete_reports() -> None:
    publish("news", "x")
    node({"other": 2}, channels_left_out=1)
    finding = about(ask(1), "It is not known whether news has connections now")
    assert finding.verdict is Verdict.NOTE
    assert "the 500 busiest ones" in finding.sentence
    assert "no connections" not in as_text(ask(1))
    node({"news": 1})
    assert about(ask(1), "news has 1 connection now.").verdict is Verdict.GOOD
    assert "not known whether" not in as_text(ask(1))


def test_own_unlisted_channels_are_counted() -> None:
    publish("news", "x")
    node({"other": 2}, channels_left_out=1)
    Node.objects.update(id=counter.process.node_id)
    assert about(ask(1), "news has no connections now").verdict is Verdict.BAD


def test_stopped_process_does_not_hide_counts() -> None:
    publish("news", "x")
    node({"other": 2}, channels_left_out=1)
    Node.objects.update(seen_at=timezone.now() - datetime.timedelta(minutes=5))
    assert "No client is connected now" in as_text(ask(1))


def test_process_that_hears_nothing() -> None:
    publish("news", "x")
    node({"news": 1}, notifier_problem="Connection refused.")
    assert "Process h:1 is not notified of new messages: Connection refused." in as_text(ask(1))
