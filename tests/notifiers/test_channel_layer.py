"""ChannelLayerNotifier: its options, and an outage of the channel layer."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from django.test import override_settings
from redis.exceptions import ConnectionError as RedisConnectionError

from streams.exceptions import InvalidSetting
from streams.notifiers.channel_layer import ChannelLayerNotifier
from tests.support.notices import REDIS_LAYERS, notice, tell
from tests.support.services.redis import RedisServer

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("database_in_threads")]


def test_alias_that_is_none_is_refused_with_those_that_there_are() -> None:
    with override_settings(CHANNEL_LAYERS={"bus": {}}), pytest.raises(InvalidSetting, match=r"\(bus\); got 'default'"):
        ChannelLayerNotifier()


async def test_outage_of_the_layer_does_not_hold_up_each_publisher(redis: RedisServer) -> None:
    config = {"BACKEND": REDIS_LAYERS["pubsub"], "CONFIG": {"hosts": [redis.url]}}
    with override_settings(CHANNEL_LAYERS={"default": config}), redis.hanging():
        notifier = ChannelLayerNotifier()
        began = time.monotonic()
        for number in range(50):
            with pytest.raises((TimeoutError, ConnectionError)):
                await tell(notifier, notice(number))
        assert time.monotonic() - began < 20, "one publisher waits for the timeout, and not all 50"


@pytest.mark.parametrize(
    ("thread", "error", "is_logged"),
    [
        ("streams-notifier", ConnectionRefusedError("no server"), False),
        ("streams-notifier", RedisConnectionError("no server"), False),
        ("streams-notifier", ValueError("what is this?"), True),
        ("MainThread", RedisConnectionError("of the site's own consumers"), True),
    ],
)
def test_of_what_a_layer_logs_only_our_own_lost_connection_is_left_out(
    thread: str, error: Exception, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def log() -> None:
        logging.getLogger("channels_redis.pubsub").error("Unexpected exception in receive task", exc_info=error)

    begun = threading.Thread(target=log, name=thread)
    begun.start()
    begun.join()
    assert bool(caplog.records) is is_logged
