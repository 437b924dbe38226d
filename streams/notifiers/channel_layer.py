"""The notifier for sites that have a channel layer of Channels: over Redis, it reaches all processes and machines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import channel_layers

from streams.exceptions import InvalidSetting
from streams.notifiers.base import Notice
from streams.notifiers.line import THREAD_NAME, Line, LineNotifier

# Beyond that, hubs read the messages from the log. A layer over Redis keeps a copy for each process.
MAX_BYTES = 65_536

# How long a publisher waits for its notice to be sent, and for how long that is tried at all.
PUBLISHER_SECONDS = 1.0
SENDING_SECONDS = 5.0

# How often the listener sends itself a word, which it must have heard before the next: a layer may lose the group when
# Redis is restarted, or after its group_expiry, and RedisPubSubChannelLayer says nothing when its connection breaks.
PING_SECONDS = 3.0

NOTICE = "streams.notice"
PING = "streams.ping"


class ChannelLayerNotifier(LineNotifier):
    """OPTIONS: `alias`, the layer's name in CHANNEL_LAYERS; `group`, which no other site on the layer may have;
    `carry_messages`, see LineNotifier.

    It makes a layer of its own and uses it on one event loop only, for a layer's connections belong to the loop that
    opened them. Where the layer drops a notice because it is full, hubs find the messages by polling.
    """

    # Sending needs the loop as well. Longer than busy publishers pause, so that they do not connect each time.
    linger_seconds = 10.0

    def __init__(self, alias: str = "default", group: str = "streams", carry_messages: bool | None = None) -> None:
        super().__init__(carry_messages)
        if alias not in channel_layers:
            raise InvalidSetting(
                f"ChannelLayerNotifier's alias is one from CHANNEL_LAYERS ({', '.join(channel_layers.configs)}); "
                f"got {alias!r}."
            )
        self._alias = alias
        self._group = group
        self._layers: dict[Line, Any] = {}
        self._trouble: Future[None] | None = None  # the last sending that failed, or has not ended in time

    def __repr__(self) -> str:  # without the layer's hosts, which hold passwords
        return f"<ChannelLayerNotifier alias={self._alias!r} group={self._group!r}>"

    def carry(self, notice: Notice) -> None:
        """Waits until it is sent: the process may end right after. In an outage the first waits, and those that
        follow only try, one at a time, until one has gone through."""
        trouble = self._trouble
        if trouble is not None and not trouble.done():
            raise TimeoutError("The channel layer has not taken an earlier notice yet.")
        message = {"type": NOTICE, "notice": self.encode(notice, MAX_BYTES)}
        line = self.line(Line.hold)
        sent = line.call(self._send(line, message))
        if trouble is not None and (trouble.cancelled() or trouble.exception() is not None):
            self._trouble = sent
            raise ConnectionError("The channel layer failed before; nobody waits for this notice to go through.")
        try:
            sent.result(PUBLISHER_SECONDS)
        except BaseException:
            self._trouble = sent
            raise
        self._trouble = None

    async def _send(self, line: Line, message: dict[str, Any]) -> None:
        async with asyncio.timeout(SENDING_SECONDS):
            await self._layer(line).group_send(self._group, message)

    def _layer(self, line: Line) -> Any:
        """The layer of this line's loop. Asked for on that loop only."""
        if line not in self._layers:
            self._layers = {line: channel_layers.make_backend(self._alias)}  # those of lines that ended are let go
        return self._layers[line]

    async def hear(self, line: Line) -> None:
        layer = self._layer(line)
        async with asyncio.timeout(SENDING_SECONDS):
            name = await layer.new_channel("streams")
        heard = asyncio.Event()
        # In tasks: a layer's receive() takes being cancelled as its channel's end, so that nothing may interrupt it.
        tasks = [asyncio.ensure_future(self._receive(layer, name, line, heard))]
        tasks.append(asyncio.ensure_future(self._ping(layer, name, line, heard)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=SENDING_SECONDS)
            with contextlib.suppress(Exception):  # where it is reachable
                async with asyncio.timeout(PUBLISHER_SECONDS):
                    await layer.group_discard(self._group, name)

    async def _receive(self, layer: Any, name: str, line: Line, heard: asyncio.Event) -> None:
        async for message in _messages(layer, name):
            heard.set()
            if message.get("type") == NOTICE and (notice := self.decode(message.get("notice"))) is not None:
                line.take(notice)

    async def _ping(self, layer: Any, name: str, line: Line, heard: asyncio.Event) -> None:
        while True:
            async with asyncio.timeout(PING_SECONDS):
                # Each time: a layer that has lost the group since, or lets memberships expire, has it again.
                await layer.group_add(self._group, name)
                heard.clear()
                with contextlib.suppress(ChannelFull):  # then there is enough to hear
                    await layer.send(name, {"type": PING, "token": secrets.token_hex(4)})
                await heard.wait()
            line.begin()
            await asyncio.sleep(PING_SECONDS)


async def _messages(layer: Any, name: str) -> AsyncIterator[dict[str, Any]]:
    while True:
        yield await layer.receive(name)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a layer says something else than that its connection is lost, in our thread: that the line says, once."""
    error = record.exc_info[1] if record.exc_info else None
    # By name: redis has classes of its own for them, and need not be installed.
    lost = any(kind.__name__ in ("ConnectionError", "TimeoutError") for kind in type(error).__mro__)
    return not lost or record.threadName != THREAD_NAME


# It logs a lost connection once a second, each time with the stack, until our ping is missed (seen in 4.3).
logging.getLogger("channels_redis.pubsub").addFilter(_is_news)
