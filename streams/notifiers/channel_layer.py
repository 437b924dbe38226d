"""The notifier for sites with a channel layer of Channels. With Redis, it reaches all processes on all machines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from concurrent.futures import Future
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import channel_layers

from streams.exceptions import InvalidSetting
from streams.notifiers.base import Notice
from streams.notifiers.listener_thread import THREAD_NAME, ListenerThread, ProcessNotifier

# Larger notices are sent without their messages, and hubs read these from the log. A layer on Redis stores one copy for
# each process.
MAX_BYTES = 65_536

# How long a publisher waits until its notice is sent, and how long sending can take.
PUBLISHER_SECONDS = 1.0
SENDING_SECONDS = 5.0

# How often the listener sends a ping to itself, which it must receive before the next one. A layer can lose the group
# when Redis restarts, or after its group_expiry, and RedisPubSubChannelLayer raises nothing if its connection breaks.
PING_SECONDS = 3.0

NOTICE = "streams.notice"
PING = "streams.ping"


class ChannelLayerNotifier(ProcessNotifier):
    """A notifier over a channel layer. Its OPTIONS:

    alias: The name of the layer in CHANNEL_LAYERS.
    group: The name of the group. Another site on the same layer needs another name.
    carry_messages: See ProcessNotifier.

    It makes its own instance of the layer and uses it on one event loop only, because the connections of a layer belong
    to the loop that opened them. If the layer is full and drops a notice, hubs find the messages by polling.
    """

    # Sending uses the thread too. This is longer than the pauses of busy publishers, so that they reuse the connection.
    linger_seconds = 10.0

    def __init__(self, alias: str = "default", group: str = "streams", carry_messages: bool | None = None) -> None:
        super().__init__(carry_messages)
        if alias not in channel_layers:
            raise InvalidSetting(
                f"ChannelLayerNotifier's option 'alias' must be a name from CHANNEL_LAYERS "
                f"({', '.join(channel_layers.configs)}); got {alias!r}."
            )
        self._alias = alias
        self._group = group
        self._layers: dict[ListenerThread, Any] = {}
        self._failed: Future[None] | None = None  # the last notice that was not sent, or not in time

    def __repr__(self) -> str:  # without the layer's hosts, which hold passwords
        return f"<ChannelLayerNotifier alias={self._alias!r} group={self._group!r}>"

    def send(self, notice: Notice) -> None:
        """Send the notice, and wait until it is sent, because the process can end right after.

        In an outage only the first publisher waits. Those after it try without waiting, one at a time, until a notice
        is sent.
        """
        failed = self._failed
        if failed is not None and not failed.done():
            raise TimeoutError("The channel layer has not accepted an earlier notice yet.")
        message = {"type": NOTICE, "notice": self.encode(notice, MAX_BYTES)}
        sent = self.on_thread(lambda thread: thread.run(lambda: self._send(thread, message)))
        if failed is not None and (failed.cancelled() or failed.exception() is not None):
            self._failed = sent
            raise ConnectionError(
                "The channel layer failed before; this notice is sent without waiting for the result."
            )
        try:
            sent.result(PUBLISHER_SECONDS)
        except BaseException:
            self._failed = sent
            raise
        self._failed = None

    async def _send(self, thread: ListenerThread, message: dict[str, Any]) -> None:
        async with asyncio.timeout(SENDING_SECONDS):
            await self._layer(thread).group_send(self._group, message)

    def _layer(self, thread: ListenerThread) -> Any:
        """Return the layer of this thread's event loop. Called on that loop only."""
        if thread not in self._layers:  # the layers of threads that have ended are dropped
            self._layers = {thread: channel_layers.make_backend(self._alias)}
        return self._layers[thread]

    async def receive(self, thread: ListenerThread) -> None:
        layer = self._layer(thread)
        async with asyncio.timeout(SENDING_SECONDS):
            name = await layer.new_channel("streams")
        heard = asyncio.Event()
        # In tasks, because cancelling a layer's receive() closes its channel: nothing must interrupt it.
        tasks = [asyncio.ensure_future(work(layer, name, thread, heard)) for work in (self._receive, self._ping)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=SENDING_SECONDS)
            with contextlib.suppress(Exception):  # the layer can be unreachable
                async with asyncio.timeout(PUBLISHER_SECONDS):
                    await layer.group_discard(self._group, name)

    async def _receive(self, layer: Any, name: str, thread: ListenerThread, heard: asyncio.Event) -> None:
        while True:
            message = await layer.receive(name)
            heard.set()
            if message.get("type") == NOTICE:
                self.take(thread, message.get("notice"))

    async def _ping(self, layer: Any, name: str, thread: ListenerThread, heard: asyncio.Event) -> None:
        while True:
            async with asyncio.timeout(PING_SECONDS):
                # Join each time, because the layer can have lost the group, and memberships expire.
                await layer.group_add(self._group, name)
                heard.clear()
                with contextlib.suppress(ChannelFull):  # then there are messages enough to receive
                    await layer.send(name, {"type": PING, "token": secrets.token_hex(4)})
                await heard.wait()
            thread.mark_listening()
            await asyncio.sleep(PING_SECONDS)


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for records about a lost connection from our thread. The hub logs these once."""
    error = record.exc_info[1] if record.exc_info else None
    # By name, because redis has its own classes for them and might not be installed.
    lost = any(kind.__name__ in ("ConnectionError", "TimeoutError") for kind in type(error).__mro__)
    return not lost or record.threadName != THREAD_NAME


# channels_redis 4.3 logs a lost connection once a second, each time with the stack, until our ping is missed.
logging.getLogger("channels_redis.pubsub").addFilter(_is_news)
