"""The state of one running generation: the text that its upstream has sent, and how much of it is stored. No I/O."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from streams.conf import settings as core_settings
from streams.relay.conf import settings
from streams.relay.generations.chunks import storable
from streams.relay.generations.endings import Batch, Ending
from streams.relay.models import Generation
from streams.relay.usage import counted

# If a generation has more bytes than this that are not stored yet, reading from its upstream pauses.
MAX_PENDING_BYTES = 262_144

# The row keeps this much of an error, and of single words from the upstream, which can have any length.
MAX_ERROR_CHARACTERS = 2000
MAX_WORD_CHARACTERS = 64

# A character has at most six bytes in JSON, and a chunk has a few bytes in addition to its text.
BYTES_PER_CHARACTER = 6
BYTES_AROUND_CHUNK = 64


class Producer:
    """The received and the stored part of one generation. Used by one worker, on its event loop."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.task: asyncio.Task[None] | None = None  # reads the upstream
        self.ending: Ending | None = None
        self.batch: Batch | None = None  # the batch that is being stored
        self.room = asyncio.Event()  # set while reading from the upstream can go on
        self.room.set()
        self.tokens = 0
        self.usage: Mapping[str, Any] | None = None
        self._began_at = time.monotonic()
        self._pending: list[str] = []
        self._pending_bytes = 0
        self._pending_since: float | None = None
        self._half = ""  # a high surrogate, whose other half is in the next chunk
        self._stored: list[str] = []  # the texts that are stored
        self._number = 0  # of the next chunk
        self._position = 0  # of the newest message that is stored
        self._kept = 0  # number of chunks in the row's text

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began_at

    def take(self, text: str) -> None:
        """Add a chunk of the upstream's answer."""
        self.tokens += 1
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        self._add(text)

    def _add(self, text: str) -> None:
        if not text:
            return
        text = storable(text)
        self._pending.append(text)
        self._pending_bytes += len(text.encode())
        if self._pending_since is None:
            self._pending_since = time.monotonic()
        if self._pending_bytes > MAX_PENDING_BYTES:
            self.room.clear()

    def end(self, state: Generation.State, *, reason: str = "", code: str = "", message: str = "") -> None:
        """End the answer. The text before the end is stored together with it, or earlier."""
        self._add(self._half)
        self._half = ""
        self.ending = Ending(
            state,
            finish_reason=storable(reason[:MAX_WORD_CHARACTERS]),
            error_code=storable(code[:MAX_WORD_CHARACTERS]),
            error_message=storable(message[:MAX_ERROR_CHARACTERS]),
            usage=counted(self.usage),
            tokens=self.tokens,
            seconds=self.seconds,
        )

    def due(self) -> float | None:
        """Return the time.monotonic() at which to store the next batch, or None if there is nothing to store."""
        if self.batch is not None or self.ending is not None:
            return 0.0
        if self._pending_since is None:
            return None
        at_once = self._number == 0 or self._pending_bytes >= settings.GENERATION_FLUSH_BYTES
        return 0.0 if at_once else self._pending_since + settings.GENERATION_FLUSH_MILLISECONDS / 1000

    def collect(self, *, keep_text: bool) -> Batch:
        """Return the batch to store now, the same one until stored() is called. `keep_text`: with the row's text."""
        if self.batch is not None:
            return self.batch
        text = "".join(self._pending)
        self._pending.clear()
        self._pending_bytes, self._pending_since = 0, None
        size = max(1, (core_settings.MAX_MESSAGE_BYTES - BYTES_AROUND_CHUNK) // BYTES_PER_CHARACTER)
        chunks = tuple(text[start : start + size] for start in range(0, len(text), size))
        kept = None
        if self.ending is not None:
            kept = "".join([*self._stored, *chunks])
        elif keep_text and self._number > self._kept:
            kept = "".join(self._stored)
            self._stored = [kept]
        self.batch = Batch(self.generation.pk, self._number, chunks, self._position, kept, self.ending)
        return self.batch

    def stored(self, position: int) -> bool:
        """Record that the batch was stored, with its last message at `position`. Return True if it had the end."""
        assert self.batch is not None
        batch, self.batch = self.batch, None
        self._stored += batch.chunks
        self._kept = self._number if batch.text is not None else self._kept
        self._number += len(batch.chunks)
        self._position = position
        if self._pending_bytes <= MAX_PENDING_BYTES:
            self.room.set()
        return batch.ending is not None
