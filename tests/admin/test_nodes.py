"""The admin's page of processes: its permission, the description of each process, and the charts."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from streams.admin.nodes import series
from streams.models import Node
from streams.presence import counter
from tests.admin.people import staff

pytestmark = pytest.mark.django_db

NODES = "/admin/streams/node/"


def make(pk: str = "n1", seen_seconds_ago: float = 0, **fields: Any) -> Node:
    now = timezone.now()
    defaults = {
        "host": "web-1",
        "pid": 7,
        "started_at": now,
        "seen_at": now - datetime.timedelta(seconds=seen_seconds_ago),
        "notifier": "streams.notifiers.local.LocalNotifier",
    }
    return Node.objects.create(id=pk, **{**defaults, **fields})


def text_of(client: Client) -> str:
    return " ".join(client.get(NODES).content.decode().split())


@pytest.mark.parametrize("path", ["", "data/"])
def test_page_needs_permission(path: str) -> None:
    make()
    assert staff("view_message", "view_channelsettings").get(NODES + path).status_code == 403
    assert Client().get(NODES + path).status_code == 302
    assert staff("view_node").get(NODES + path).status_code == 200


@pytest.mark.parametrize("path", ["add/", "n1/change/", "n1/delete/", "n1/history/"])
def test_processes_cannot_be_edited(path: str) -> None:
    make()
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(NODES + path).status_code == 404
    assert client.post(NODES + path).status_code == 404


def test_page_without_processes_explains() -> None:
    text = text_of(staff("view_node"))
    assert "No process is serving streams right now. A process appears here when it has an open stream." in text
    assert "0 connections in 0 processes." in text


def test_process_is_described() -> None:
    channels = {f"c{n:02}": n for n in range(1, 16)} | {"<b>\u202e": 99}
    make(connections=120, channels=channels, channels_left_out=4)
    make("n2", pid=8, connections=1, notifier_problem="OSError: <no route>")
    text = text_of(staff("view_node"))
    assert "121 connections in 2 processes." in text
    assert "web-1:7" in text
    assert "<code>c15</code> 15" in text
    assert "<code>c07</code> 7" in text
    assert "<code>c06</code>" not in text, "the page lists ten channels"
    assert "and 10 more" in text
    assert "LocalNotifier" in text
    assert "listening" in text
    assert "problem: OSError: &lt;no route&gt;" in text
    assert "<b>" not in text
    assert "U+202E" in text


def test_this_process_is_marked() -> None:
    make(counter.process.node_id)
    make("other", pid=8)
    nodes = staff("view_node").get(f"{NODES}data/").json()["nodes"]
    assert [(node["id"], node["own"]) for node in nodes] == [(counter.process.node_id, True), ("other", False)]


def test_late_process_is_marked_then_removed() -> None:
    make("fresh", pid=1, seen_seconds_ago=1)
    make("late", pid=2, seen_seconds_ago=13)
    make("gone", pid=3, seen_seconds_ago=17)
    nodes = staff("view_node").get(f"{NODES}data/").json()["nodes"]
    assert [(node["id"], node["state"]) for node in nodes] == [("fresh", "good"), ("late", "warning")]


def test_disabled_presence_is_explained(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "PRESENCE_SECONDS": None}
    assert "This process does not report, because PRESENCE_SECONDS is None." in text_of(staff("view_node"))
    assert staff("view_node").get(f"{NODES}data/").status_code == 200


# --- Charts -----------------------------------------------------------------------------------------------------------


def sampled(*samples: tuple[int, int, int]) -> Node:
    return Node(samples=[list(sample) for sample in samples])


def test_connections_of_processes_are_added() -> None:
    nodes = [sampled((1000, 3, 10), (1005, 4, 10), (1010, 5, 10)), sampled((1001, 10, 10), (1006, 20, 10))]
    assert series(nodes, now=1010, seconds=5, count=3).connections == [3, 14, 25]


def test_rate_is_the_heads_difference() -> None:
    nodes = [sampled((1000, 1, 100), (1005, 1, 150), (1010, 1, 150)), sampled((1004, 1, 120))]
    assert series(nodes, now=1010, seconds=5, count=2).rates == [10, 0]


def test_unknown_head_gives_no_rate() -> None:
    unknown: Any = None
    idle = sampled((1000, 0, unknown), (1005, 1, 1_000_000), (1010, 1, 1_000_010), (1015, 0, unknown))
    assert series([idle], now=1010, seconds=5, count=2).rates == [0, 2]
    assert max(series([idle], now=1015, seconds=5, count=5).rates) == 2
    known = sampled((1000, 1, 999_990), (1005, 1, 1_000_000))
    assert series([idle, known], now=1005, seconds=5, count=1).rates == [2]


def test_first_messages_have_a_rate() -> None:
    assert series([sampled((1000, 1, 0), (1005, 1, 10))], now=1005, seconds=5, count=1).rates == [2]


def test_silent_process_is_not_counted() -> None:
    assert series([sampled((1000, 7, 5))], now=1020, seconds=5, count=5).connections == [7, 7, 7, 0, 0]


def test_new_log_has_no_negative_rate() -> None:
    assert series([sampled((1000, 1, 500), (1005, 1, 2))], now=1005, seconds=5, count=1).rates == [0]


def test_epoch_that_starts_makes_no_rate() -> None:
    start = 5 << 40
    leaps = sampled((1000, 1, 500), (1005, 1, start), (1010, 1, start + 10), (1015, 1, start + (10 << 20)))
    assert series([leaps], now=1015, seconds=5, count=3).rates == [0, 2, 0]


def test_charts_of_nothing_are_flat() -> None:
    flat = series([], now=1000, seconds=5)
    assert set(flat.connections) == {0}
    assert set(flat.rates) == {0}
    assert len(flat.connections) == len(flat.rates) == counter.MAX_SAMPLES
