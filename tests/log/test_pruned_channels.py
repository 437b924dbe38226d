"""The records of pruned channels, which show readers whether they have missed messages."""

from __future__ import annotations

import random

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from streams import NewMessage, log, publish, publish_many
from streams.log import pruning
from streams.models import Channel, Message
from tests.log.support import appended, positions
from tests.support.reads import tail

pytestmark = pytest.mark.django_db(transaction=True)


# --- Records of pruned channels ---------------------------------------------------------------------------------------


def test_deletion_is_recorded_for_each_channel() -> None:
    publish_many([NewMessage("ab"[n % 2], n) for n in range(10)] + [NewMessage("quiet", "x")])
    assert log.delete_through(7, limit=3) == 3
    assert log.delete_through(7, limit=3) == 3
    assert log.delete_through(7, limit=3) == 1
    assert log.delete_through(7, limit=3) == 0
    assert dict(Channel.objects.values_list("name", "pruned_through")) == {"a": 7, "b": 6}
    assert positions(log.page(["a", "b", "quiet"], 0, 11).messages) == [8, 9, 10, 11]
    assert log.pruned(["a", "b", "quiet"], 0) == {"a": 7, "b": 6}
    assert log.pruned(["a", "b", "quiet"], 6) == {"a": 7}
    assert log.pruned(["a", "b", "quiet"], 7) == {}
    assert log.page(["b", "quiet"], 5, 11).pruned == {"b": 6}
    assert log.page(["quiet"], 0, 11).pruned == {}


def test_deletion_in_one_channel_spares_others() -> None:
    publish_many([NewMessage("ab"[n % 2], n) for n in range(10)])
    assert log.delete_through(7, channel="a", limit=100) == 4
    assert positions(tail(0)[1]) == [2, 4, 6, 8, 9, 10]
    assert log.pruned(["a", "b"], 0) == {"a": 7}


def test_deletion_spares_unsequenced_messages() -> None:
    publish("news", "x")
    appended("waiting")
    assert log.delete_through(100, limit=100) == 1
    assert tail(1) == (2, [(2, "news", "message", "waiting")])


def test_record_of_channel_never_goes_back() -> None:
    publish_many([NewMessage("news", n) for n in range(10)])
    log.delete_through(8, channel="news", limit=100)
    Message.objects.create(channel="news", data="restored", size=8, position=3)
    log.delete_through(5, limit=100)
    assert log.pruned(["news"], 6) == {"news": 8}


# --- Records that are forgotten ---------------------------------------------------------------------------------------


def test_forgotten_channels_raise_the_floor() -> None:
    publish_many([NewMessage(f"once.{n}", n) for n in range(10)] + [NewMessage("quiet", "x")])
    log.delete_through(10, limit=100)
    log.forget_pruned_channels(keep=4)
    assert set(Channel.objects.values_list("name", flat=True)) == {f"once.{n}" for n in range(6, 10)}
    assert log.head().floor == 6
    # Above the floor, the records are exact. At or below it, any channel without messages could be pruned.
    assert log.pruned(["once.9", "quiet"], 6) == {"once.9": 10}
    assert log.pruned(["once.9", "once.0", "quiet"], 5) == {"once.9": 10, "once.0": 6, "quiet": 6}
    log.forget_pruned_channels(keep=4)
    assert log.head().floor == 6


def test_floor_never_goes_back() -> None:
    publish_many([NewMessage(f"once.{n}", n) for n in range(6)])
    log.delete_through(6, limit=100)
    log.forget_pruned_channels(keep=2)
    assert log.head().floor == 4
    Channel.objects.create(name="older", pruned_through=1)
    log.forget_pruned_channels(keep=2)
    assert log.head().floor == 4


def prune_one_time_channels(name: str = "once") -> None:
    """Publish to ten channels, prune all their messages, and forget their records."""
    channels = [f"{name}.{n}" for n in range(10)]
    first = log.current_head() + 1
    publish_many([NewMessage(channel, "x") for channel in channels])
    log.delete_through(log.current_head(), start=first, limit=100)
    log.forget_pruned_channels(keep=0)
    assert not Channel.objects.filter(name__startswith=f"{name}.").exists()
    assert log.head().floor == log.current_head()


def test_floor_concerns_no_complete_channel() -> None:
    publish("news", "1")
    prune_one_time_channels()
    publish("news", "12")
    assert log.head().floor == 11
    assert log.pruned(["news"], 1) == {}
    assert log.pruned(["news"], 5) == {}
    assert log.pruned(["news", "once.3", "empty"], 5) == {"once.3": 11, "empty": 11}
    assert log.page(["news"], 1, 12).pruned == {}
    # There could have been messages before its first one.
    assert log.pruned(["news"], 0) == {"news": 11}


def test_channel_with_messages_keeps_its_record() -> None:
    publish_many([NewMessage("news", n) for n in range(4)])
    log.delete_through(2, channel="news", limit=10)
    prune_one_time_channels()
    assert log.head().floor == 14
    assert log.pruned(["news"], 1) == {"news": 2}
    assert log.pruned(["news"], 2) == {}
    log.delete_through(4, channel="news", limit=10)
    log.forget_pruned_channels(keep=0)
    assert not Channel.objects.exists()
    assert log.pruned(["news"], 2) == {"news": 14}


def test_forgotten_channel_still_counts_as_pruned() -> None:
    prune_one_time_channels()
    publish("once.3", "again")
    prune_one_time_channels("other")
    assert log.head().floor == 21
    # It has a message below the floor and no record.
    assert log.pruned(["once.3"], 2) == {"once.3": 21}
    publish("once.3", "and again")
    assert log.pruned(["once.3"], 22) == {}


@pytest.mark.parametrize("seed", range(4))
def test_pruned_is_never_silent_and_seldom_false(seed: int) -> None:
    """Publish, prune and forget at random, and compare the records with the messages that each channel lost."""
    chance = random.Random(seed)
    channels = [f"c{n}" for n in range(5)]
    lost = dict.fromkeys(channels, 0)
    for _ in range(40):
        match chance.choice(["publish", "publish", "prune", "prune one", "forget"]):
            case "publish":
                publish_many([NewMessage(chance.choice(channels), "x") for _ in range(chance.randint(1, 4))])
            case "forget":
                log.forget_pruned_channels(keep=chance.randint(0, 2))
            case kind:
                channel = None if kind == "prune" else chance.choice(channels)
                before = dict(Message.objects.values_list("position", "channel"))
                start = chance.choice([0, chance.randint(0, log.current_head())])
                log.delete_through(log.current_head(), start=start, channel=channel, limit=chance.randint(1, 9))
                left = set(Message.objects.values_list("position", flat=True))
                for place, name in before.items():
                    lost[name] = lost[name] if place in left else max(lost[name], place)
        recorded = set(Channel.objects.values_list("name", flat=True))
        for after in range(log.current_head() + 1):
            found = log.pruned(channels, after)
            reaching_back = set(Message.objects.filter(position__lte=after).values_list("channel", flat=True))
            for channel in channels:
                if lost[channel] > after:
                    assert found[channel] >= lost[channel], (channel, after)
                elif channel in recorded or channel in reaching_back:
                    assert channel not in found, (channel, after)


def test_channel_with_unsequenced_message_is_kept() -> None:
    publish("news", "x")
    log.delete_through(1, limit=10)
    appended("waits")
    assert log.forget_pruned_channels(keep=0) == 0
    assert log.pruned(["news"], 0) == {"news": 1}


def test_forgetting_locks_the_head_briefly() -> None:
    """Publishers that find the lock taken rely on its holder to number their messages."""
    publish_many([NewMessage(f"once.{n}", n) for n in range(20)])
    log.delete_through(20, limit=100)
    appended("left by a publisher")
    with CaptureQueriesContext(connection) as queries:
        assert log.forget_pruned_channels(keep=5) == 15
    assert not log.head().unsequenced
    statements = [query["sql"] for query in queries.captured_queries]
    [floor] = [index for index, sql in enumerate(statements) if "SET" in sql and '"floor"' in sql.split("WHERE")[0]]
    [deletion] = [index for index, sql in enumerate(statements) if sql.startswith("DELETE")]
    assert "COMMIT" in statements[floor:deletion]
    assert not any("streams_loghead" in sql for sql in statements[deletion:])


def test_forgetting_goes_in_bounded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "FOLDED_AT_ONCE", 7)
    monkeypatch.setattr(pruning, "BATCH_CHANNELS", 3)
    publish_many([NewMessage(f"once.{n}", n) for n in range(20)])
    log.delete_through(20, limit=100)
    assert [log.forget_pruned_channels(keep=5) for _ in range(4)] == [7, 7, 1, 0]
    assert log.head().floor == 15
    assert set(Channel.objects.values_list("pruned_through", flat=True)) == set(range(16, 21))


def test_nothing_is_forgotten_while_there_is_room() -> None:
    publish("news", "x")
    log.delete_through(1, limit=100)
    log.forget_pruned_channels()
    assert log.pruned(["news"], 0) == {"news": 1}
    assert log.head().floor == 0
