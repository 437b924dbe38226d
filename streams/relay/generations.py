"""Generations in the database: every step of an answer, each in one transaction, and the only module that writes them.

Whoever changes a generation takes its row first, and then looks at its state: a worker whose lease was lost, a cancel
and the worker's own last word meet at that lock, and one of them is first. Pieces, state and what the channel is told
of it are one transaction, so that what a client has seen is durable, and nothing follows the end.

Everything here is synchronous and uses the ORM; see streams.threads.run for the way in from an event loop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from django.db import connections
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from streams import log
from streams.events import NewMessage, StoredEvent, check
from streams.relay import usage
from streams.relay.access import Caller
from streams.relay.conf import settings
from streams.relay.errors import RelayError
from streams.relay.models import KEY_MAX_LENGTH, Generation
from streams.threads import database
from streams.writer import notify

Rows: TypeAlias = "QuerySet[Generation]"
State = Generation.State

END_EVENT = "end"

# A caller without an account has nothing but the key to tell it from others, so that the key must be a secret.
ANONYMOUS_KEY_MIN_LENGTH = 32
RETRY_AFTER_SECONDS = 5

# How often an answer is read again that lost pieces to pruning under the reader's hands.
READ_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended: a final state, and what is told of it."""

    state: State
    finish_reason: str = ""
    error_code: str = ""
    error_message: str = ""
    usage: Mapping[str, Any] | None = None
    tokens: int = 0  # pieces that the upstream sent, which stand in for tokens where it did not count them
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What a worker has of one generation: pieces from `number` on that are not stored, all of the text, the end.

    `whole` is the text up to and with these pieces, where the row is to have it; `position` that of the last piece
    before these, which write() told.
    """

    id: str
    number: int
    pieces: tuple[str, ...] = ()
    whole: str | None = None
    position: int = 0
    ending: Ending | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A generation as it stood when the log's head was `position`: its text, in so many pieces."""

    generation: Generation
    text: str
    pieces: int
    position: int


# --- Asking -----------------------------------------------------------------------------------------------------------


def create(caller: Caller, body: Mapping[str, Any], upstream: str, key: str | None = None) -> tuple[Generation, bool]:
    """Queue an answer to the checked request `body`. Returns the generation, and whether it is a new one.

    The same idempotency key of the same caller returns the first. Raises RelayError: 400 for a key that cannot be one,
    422 for one that was used for another question, 429 where the caller, or the site, has too many unfinished ones.
    """
    _check_key(caller, key)
    with log.own_transaction():
        _take_turn(f"caller {caller.key}", *([] if key is None else [f"key {caller.user and caller.user.pk} {key}"]))
        if key is not None and (first := _rows().filter(owner=caller.user, idempotency_key=key).first()):
            if (first.upstream, first.request) != (upstream, dict(body)):
                raise RelayError(
                    422,
                    "idempotency-key-reused",
                    "This Idempotency-Key was used for another question. Send a new key with each question.",
                )
            return first, False
        _check_limits(caller)
        generation = Generation(
            owner=caller.user,
            caller=caller.key,
            upstream=upstream,
            model=str(body["model"]),
            request=dict(body),
            idempotency_key=key,
            start_position=log.current_head(),
        )
        generation.save(using=database(), force_insert=True)
    return generation, True


def _check_key(caller: Caller, key: str | None) -> None:
    if key is None:
        return
    least = 1 if caller.user is not None else ANONYMOUS_KEY_MIN_LENGTH
    if not (least <= len(key) <= KEY_MAX_LENGTH and key.isprintable()):
        raise RelayError(
            400,
            "invalid-idempotency-key",
            f"An Idempotency-Key has {least} to {KEY_MAX_LENGTH} printable characters"
            f"{'' if caller.user is not None else ' where nobody is signed in'}; got {key[:100]!r}. Use a UUID.",
        )


def _check_limits(caller: Caller) -> None:
    active = _rows().filter(state__in=Generation.ACTIVE)
    own, most = active.filter(caller=caller.key).count(), settings.RELAY_MAX_STREAMS_PER_USER
    if own >= most:
        raise RelayError(
            429,
            "too-many-answers",
            f"You have {own} answers under way, and may have {most} (STREAMS['RELAY_MAX_STREAMS_PER_USER']). Wait for "
            "one to end, or cancel one.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    if active.count() >= (most := settings.GENERATION_MAX_ACTIVE):
        raise RelayError(
            429,
            "too-many-answers",
            f"The site has its {most} answers under way (STREAMS['GENERATION_MAX_ACTIVE']). Try again later.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )


# --- A worker's steps -------------------------------------------------------------------------------------------------


def claim(worker: str, most: int) -> list[Generation]:
    """Take at most `most` queued generations, the oldest first; from then on they are this worker's."""
    if not _rows().filter(state=State.QUEUED).exists():
        return []
    with log.own_transaction():
        queued = _locked(_rows().filter(state=State.QUEUED).order_by("created_at", "pk"), skip_locked=True)
        ids = [generation.pk for generation in queued[:most]]
        ours = _rows().filter(pk__in=ids)
        ours.update(state=State.RUNNING, worker=worker, lease_until=_lease(), started_at=Now())
        return list(ours.order_by("created_at", "pk"))


def write(worker: str, batches: Sequence[Batch], *, renew: bool = False) -> dict[str, int]:
    """Store what a worker has of its generations, all in one transaction; `renew` renews its lease on all of them.

    Returns {id: position of its newest message}. Those that are missing in it are no longer the worker's, and nothing
    of them was stored.
    """
    with log.own_transaction():
        held = _hold(worker, [batch.id for batch in batches])
        kept = [batch for batch in batches if batch.id in held]
        messages = {batch.id: _messages(batch) for batch in kept}
        rows = log.append([message for batch in kept for message in messages[batch.id]])
        for batch in kept:
            if batch.ending is not None:
                _record(held[batch.id], batch.ending)
        for batch in batches:
            if batch.id not in held and batch.ending is not None:  # ended by others, who could not count as well
                usage.improve(batch.id, batch.ending.usage, batch.ending.tokens, batch.ending.seconds)
        if renew:
            _rows().filter(worker=worker, state=State.RUNNING).update(lease_until=_lease())
        # The head's lock as late as can be, for everybody else's messages wait for it.
        positions = log.sequence() if rows else {}
        places = iter([positions[row.pk] for row in rows])
        newest = {batch.id: max((next(places) for _ in messages[batch.id]), default=batch.position) for batch in kept}
        for batch in kept:
            if batch.whole is not None:
                _keep_text(batch, newest[batch.id])
    notify(positions, {row.pk: row for row in rows})
    return newest


def find(batch: Batch) -> int | None:
    """The position of a batch's last message, where it was stored although the connection broke; None where it was not.

    A generation that somebody else has ended meanwhile has none to come either: that is for write() to find out.
    """
    generation = _rows().filter(pk=batch.id).first()
    if generation is None:
        return None
    if batch.ending is not None and generation.state == batch.ending.state:
        return generation.end_position
    last = batch.number + len(batch.pieces) - 1
    for event in _events_after(generation, max(batch.position, generation.start_position), log.current_head()):
        if batch.pieces and event.event != END_EVENT and json.loads(event.data)["n"] == last:
            return event.position
    return None


def _messages(batch: Batch) -> list[NewMessage]:
    channel = Generation(pk=batch.id).channel
    pieces = [NewMessage(channel, {"n": batch.number + n, "text": text}) for n, text in enumerate(batch.pieces)]
    ends = [] if batch.ending is None else [NewMessage(channel, _told(batch.ending), END_EVENT)]
    return [check(message) for message in (*pieces, *ends)]


def _keep_text(batch: Batch, last: int) -> None:
    kept: dict[str, Any] = {
        "text": batch.whole,
        "pieces": batch.number + len(batch.pieces),
        "text_position": last,
    }
    if batch.ending is not None:
        kept |= _ended(batch.ending, last)
    _rows().filter(pk=batch.id).update(**kept)


# Its worker has not renewed the lease.
DESERTED = Q(state=State.RUNNING, lease_until__lt=Now())


# --- Ends from outside ------------------------------------------------------------------------------------------------


def cancel(id: str) -> Generation:
    """End a generation because its owner asks for it. One that has ended stays as it is."""
    return end(id, Ending(State.CANCELLED))


def interrupt(id: str) -> Generation:
    """End a generation whose worker is dead, so that its lease has run out. One that lives stays as it is."""
    ending = Ending(
        State.INTERRUPTED,
        error_code="interrupted",
        error_message="The process that wrote this answer has ended. Ask again for another answer.",
    )
    return end(id, ending, only=DESERTED)


def give_up(id: str) -> Generation:
    """End a generation that no worker has taken. One that has begun stays as it is."""
    ending = Ending(
        State.FAILED,
        error_code="no-worker",
        error_message="Nobody has begun with this answer in time. Is a worker running (`manage.py run_generations`)?",
    )
    return end(id, ending, only=Q(state=State.QUEUED))


def end(id: str, ending: Ending, *, only: Q | None = None) -> Generation:
    """End an active generation, whoever has it, where its row meets the condition. Raises Generation.DoesNotExist."""
    rows, positions = [], {}
    with log.own_transaction():
        found = _rows().filter(pk=id)
        generation = _locked(found).get()
        # Asked anew, for it may have changed until the lock was ours.
        if generation.is_active and (only is None or found.filter(only).exists()):
            text, pieces = _stored_pieces(generation, log.current_head())
            rows = log.append(_messages(Batch(id, pieces, ending=ending)))
            if generation.state == State.RUNNING:
                _record(generation, ending, pieces)
            positions = log.sequence()
            last = positions[rows[0].pk]
            found.update(text=text, pieces=pieces, text_position=last, **_ended(ending, last))
            generation.refresh_from_db(using=database())
    notify(positions, {row.pk: row for row in rows})
    return generation


def _told(ending: Ending) -> dict[str, Any]:
    """What the channel's last message says."""
    error = {"code": ending.error_code, "message": ending.error_message} if ending.error_code else None
    return {
        "state": ending.state.value,
        "finish_reason": ending.finish_reason or None,
        "usage": ending.usage,
        "error": error,
    }


def told(generation: Generation) -> dict[str, Any]:
    """What the last message of a generation that has ended said."""
    return _told(
        Ending(
            State(generation.state),
            generation.finish_reason,
            generation.error_code,
            generation.error_message,
            generation.usage,
        )
    )


def _ended(ending: Ending, position: int) -> dict[str, Any]:
    """The fields of a generation that has ended."""
    return {
        "state": ending.state,
        "ended_at": Now(),
        "end_position": position,
        "lease_until": None,
        "finish_reason": ending.finish_reason,
        "error_code": ending.error_code,
        "error_message": ending.error_message,
        "usage": ending.usage,
    }


def _record(generation: Generation, ending: Ending, pieces: int | None = None) -> None:
    seconds = ending.seconds
    if not seconds and generation.started_at is not None:
        seconds = max(0.0, (timezone.now() - generation.started_at).total_seconds())
    usage.record(
        user_id=generation.owner_id,
        caller=generation.caller,
        upstream=generation.upstream,
        model=generation.model,
        outcome=ending.state,
        usage=ending.usage,
        pieces=ending.tokens if pieces is None else pieces,
        seconds=seconds,
        generation=generation.pk,
    )


def mark_compacted(id: str) -> None:
    """From now on the text is in the row only."""
    _rows().filter(pk=id).update(compacted_at=Now())


def delete(id: str) -> None:
    """Forget a generation that has ended."""
    _rows().filter(pk=id).exclude(state__in=Generation.ACTIVE).delete()


# --- Reading ----------------------------------------------------------------------------------------------------------


def read(id: str) -> Answer:
    """A generation and its text so far. Raises Generation.DoesNotExist."""
    for attempt in range(READ_ATTEMPTS):
        # The head first: every piece up to it is there for the queries that follow.
        head = log.current_head()
        generation = _rows().get(pk=id)
        if not generation.is_active:
            assert generation.end_position is not None
            return Answer(generation, generation.text, generation.pieces, generation.end_position)
        try:
            text, pieces = _stored_pieces(generation, head, strict=attempt < READ_ATTEMPTS - 1)
        except _Pruned:
            continue  # the row's own text has moved on since, by what was pruned
        break
    return Answer(generation, text, pieces, head)


def owner_of(generation: Generation) -> Any:
    """The user who has asked, while they are active; None for somebody who was not signed in."""
    owner = generation.owner
    return owner if owner is not None and owner.is_active else None


class _Pruned(Exception):
    pass


def _stored_pieces(generation: Generation, through: int, *, strict: bool = False) -> tuple[str, int]:
    """The text of a generation, and its number of pieces: the row's, and what the log has after it.

    Pieces may be missing between the two, where retention keeps less than the seconds by which the row runs after the
    log; `strict` raises _Pruned there.
    """
    texts, pieces = [generation.text], generation.pieces
    for event in _events_after(generation, max(generation.text_position, generation.start_position), through):
        piece = json.loads(event.data)
        if strict and piece["n"] != pieces:
            raise _Pruned
        texts.append(piece["text"])
        pieces = piece["n"] + 1
    return "".join(texts), pieces


def _events_after(generation: Generation, after: int, through: int) -> Iterator[StoredEvent]:
    """The messages of a generation in (after, through], in order: those that the log still has."""
    while after < through:
        page = log.page([generation.channel], after, through)
        yield from page.messages
        after = page.through


# --- Rows and locks ---------------------------------------------------------------------------------------------------


def _rows() -> Rows:
    return Generation.objects.using(database())


def _lease() -> Any:
    """Until when a lease is good that is renewed now; by the database's clock, for those of the machines differ."""
    return Now() + timedelta(seconds=settings.GENERATION_LEASE_SECONDS)


def _hold(worker: str, ids: Collection[str]) -> dict[str, Generation]:
    """Those of the generations that are still this worker's, locked, without their texts."""
    ours = _rows().filter(pk__in=ids, worker=worker, state=State.RUNNING)
    return {each.pk: each for each in _locked(ours.order_by("pk").defer("request", "text"))}


def _locked(rows: Rows, *, skip_locked: bool = False) -> Rows:
    """`rows`, to be locked as they are read, in their order; on SQLite the database is locked now."""
    if connections[database()].vendor == "postgresql":
        return rows.select_for_update(skip_locked=skip_locked, of=("self",))
    # A write that changes nothing: SQLite takes its one lock at once, and never has to upgrade a read.
    _rows().filter(pk="").update(worker=F("worker"))
    return rows


def _take_turn(*names: str) -> None:
    """Wait until nobody else's transaction has one of these turns, and keep them to the transaction's end."""
    connection = connections[database()]
    if connection.vendor != "postgresql":
        _locked(_rows())
        return
    with connection.cursor() as cursor:
        for name in names:
            number = int.from_bytes(hashlib.sha256(f"streams.relay {name}".encode()).digest()[:8], signed=True)
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
