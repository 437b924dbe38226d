"""A generation and its text, as the database has them: from its row, and from its pieces in the log. Reads only.

Everything here is synchronous and uses the ORM; see streams.threads.run for the way in from an event loop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import BooleanField, ExpressionWrapper, Q
from django.db.models.functions import Now

from streams import log
from streams.events import StoredEvent
from streams.references import with_references
from streams.relay.conf import settings
from streams.relay.models import Generation
from streams.threads import database

END_EVENT = "end"

# Its worker has not renewed the lease. By the database's clock, for those of the machines differ.
DESERTED = Q(state=Generation.State.RUNNING, lease_until__lt=Now())


def overdue() -> Q:
    """The condition for a queued generation that no worker has taken in time, by the database's clock."""
    limit = Now() - timedelta(seconds=settings.GENERATION_QUEUE_SECONDS)
    return Q(state=Generation.State.QUEUED, created_at__lt=limit)


# How often an answer is read again that lost pieces to pruning under the reader's hands.
READ_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """A generation as it stood when the log's head was `position`: its text, in so many pieces."""

    generation: Generation
    text: str
    pieces: int
    position: int


def read(id: str) -> Answer:
    """A generation and its text so far. Raises Generation.DoesNotExist."""
    for attempt in range(READ_ATTEMPTS):
        # The head first: every piece up to it is there for the queries that follow.
        head = log.current_head()
        generation = get(id)
        if not generation.is_active:
            assert generation.end_position is not None
            return Answer(generation, generation.text, generation.pieces, generation.end_position)
        try:
            text, pieces = stored_text(generation, head, strict=attempt < READ_ATTEMPTS - 1)
        except _Pruned:
            continue  # the row's own text has moved on since, by what was pruned
        break
    return Answer(generation, text, pieces, head)


def get(id: str) -> Generation:
    """Return a generation with its owner loaded. Raises Generation.DoesNotExist.

    `is_deserted`: its worker is dead; `is_overdue`: no worker has taken it in time.
    """
    rows = Generation.objects.using(database()).annotate(  # type: ignore[no-redef]
        is_deserted=ExpressionWrapper(DESERTED, output_field=BooleanField()),
        is_overdue=ExpressionWrapper(overdue(), output_field=BooleanField()),
    )
    generation: Generation = with_references(rows, "owner").get(pk=id)
    return generation


class _Pruned(Exception):
    pass


def stored_text(generation: Generation, through: int, *, strict: bool = False) -> tuple[str, int]:
    """The text of a generation, and its number of pieces: the row's, and what the log has after it.

    Pieces may be missing between the two, where retention keeps less than the seconds by which the row runs after the
    log; `strict` raises _Pruned there.
    """
    texts, pieces = [generation.text], generation.pieces
    after = max(generation.text_position, generation.start_position)
    for n, text, _ in pieces_after(generation, after, through):
        if strict and n > pieces:
            raise _Pruned
        if n >= pieces:
            texts.append(text)
            pieces = n + 1
    return "".join(texts), pieces


def pieces_after(generation: Generation, after: int, through: int) -> Iterator[tuple[int, str, int]]:
    """(number, text, position) of the pieces in (after, through], in order: those that the log still has.

    What somebody else has published to the channel is none.
    """
    while after < through:
        page = log.page([generation.channel], after, through)
        for message in page.messages:
            if (piece := _piece(message)) is not None:
                yield *piece, message.position
        after = page.through


def _piece(message: StoredEvent) -> tuple[int, str] | None:
    try:
        piece = json.loads(message.data)
    except ValueError:
        return None
    if message.event != "message" or not isinstance(piece, dict):
        return None
    n, text = piece.get("n"), piece.get("text")
    return (n, text) if isinstance(n, int) and isinstance(text, str) else None


def storable(text: str) -> str:
    """`text` as every database can store it: halves of characters and NUL become U+FFFD."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "\ufffd")
