"""Read a generation and its text from the database: from its row, and from its chunks in the log.

All functions are synchronous and use the ORM. From an event loop, call them with streams.runtime.executor.run().
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

from django.db.models import Q
from django.db.models.functions import Now

from streams import log
from streams.models.references import with_references
from streams.protocol.sse import StoredEvent
from streams.relay.conf import settings
from streams.relay.generations.rows import Rows, generation_rows
from streams.relay.models import Generation
from streams.runtime import clock

END_EVENT = "end"

# Its worker has not renewed the lease, by the database's clock: the clocks of machines differ.
DESERTED = Q(state=Generation.State.RUNNING, lease_until__lt=Now())


def overdue() -> Q:
    """Return the condition for a queued generation that no worker has claimed in time, by the database's clock."""
    limit = clock.stored_now() - timedelta(seconds=settings.GENERATION_QUEUE_SECONDS)
    return Q(state=Generation.State.QUEUED, created_at__lt=limit)


# How often an answer is read if its chunks are pruned while it is read.
READ_ATTEMPTS = 3


def read(id: str) -> Generation:
    """Return a generation whose `text` and `chunks` are up to date. Do not save it. Raises Generation.DoesNotExist."""
    for _ in range(READ_ATTEMPTS):
        # The head first: the queries that follow see every chunk up to it.
        head = log.current_head()
        generation = get(id)
        if not generation.is_active:
            break
        generation.text, generation.chunks, is_whole = stored_text(generation, head)
        if is_whole:
            break
        # Read again: the text of the row has grown by the chunks that were pruned.
    return generation


def get(id: str) -> Generation:
    """Return a generation with its owner loaded. Raises Generation.DoesNotExist.

    Sets `is_deserted` (its worker is dead) and `is_overdue` (no worker has claimed it in time).
    """
    generation: Generation = with_references(with_deadlines(generation_rows()), "owner").get(pk=id)
    return generation


def with_deadlines(rows: Rows) -> Rows:
    """Add `is_deserted` and `is_overdue` to the generations of a query."""
    return rows.annotate(is_deserted=DESERTED, is_overdue=overdue())  # type: ignore[no-redef]


def stored_text(generation: Generation, through: int) -> tuple[str, int, bool]:
    """Return the text of a generation, its number of chunks, and True if the text is whole.

    It consists of the row's text and the later chunks in the log. Chunks between the two can be missing if the log's
    retention is shorter than the few seconds by which the row is behind the log.
    """
    texts, chunks, is_whole = [generation.text], generation.chunks, True
    after = max(generation.text_position, generation.start_position)
    for n, text, _ in chunks_after(generation, after, through):
        is_whole = is_whole and n <= chunks
        if n >= chunks:
            texts.append(text)
            chunks = n + 1
    return "".join(texts), chunks, is_whole


def chunks_after(generation: Generation, after: int, through: int) -> Iterator[tuple[int, str, int]]:
    """Yield (number, text, position) of the chunks in (after, through] that are still in the log, in order.

    Other messages that were published to the channel are skipped.
    """
    while after < through:
        page = log.page([generation.channel], after, through)
        for message in page.messages:
            if (chunk := _chunk(message)) is not None:
                yield *chunk, message.position
        after = page.through


def _chunk(message: StoredEvent) -> tuple[int, str] | None:
    try:
        chunk = json.loads(message.data)
    except ValueError:
        return None
    if message.event != "message" or not isinstance(chunk, dict):
        return None
    n, text = chunk.get("n"), chunk.get("text")
    return (n, text) if isinstance(n, int) and isinstance(text, str) else None


def storable(text: str) -> str:
    """Return `text` in a form that every database can store: lone surrogates and NUL become U+FFFD."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "\ufffd")
