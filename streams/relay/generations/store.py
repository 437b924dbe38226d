"""Generations in the database: every step of an answer, each in one transaction, and the only module that writes them.

Whoever changes a generation takes its row first, and then looks at its state: a worker whose lease was lost, a cancel
and the worker's own last word meet at that lock, and one of them is first. Pieces, state and what the channel is told
of it are one transaction, so that what a client has seen is durable, and nothing follows the end.

Everything here is synchronous and uses the ORM; see streams.threads.run for the way in from an event loop.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connections, router
from django.db.models import F, Q
from django.db.models.functions import Now

from streams import clock, log
from streams.exceptions import HTTPError
from streams.relay import usage
from streams.relay.access import Principal
from streams.relay.conf import settings
from streams.relay.generations.chunks import DESERTED, pieces_after, stored_text
from streams.relay.generations.endings import Batch, Ending, fields_of, messages_of
from streams.relay.generations.owners import forget_owner
from streams.relay.generations.rows import generation_rows, locked
from streams.relay.limits import check_generation
from streams.relay.models import KEY_MAX_LENGTH, Generation
from streams.threads import database

State = Generation.State

# A caller without an account has nothing but the key to tell it from others, so that the key must be a secret.
ANONYMOUS_KEY_MIN_LENGTH = 32


# --- Asking -----------------------------------------------------------------------------------------------------------


def create(
    principal: Principal, body: Mapping[str, Any], upstream: str, key: str | None = None, *, sent: object = None
) -> tuple[Generation, bool]:
    """Queue an answer to the checked request `body`. Returns the generation, and whether it is a new one.

    The same idempotency key of the same caller returns the first, if what the client has `sent` (JSON; by default
    `body`) is the same: the site's limits, which are in `body`, may have changed meanwhile.

    Raises HTTPError: 400 for a key that cannot be one, 401 for a user who was deleted, 422 for a key that was used for
    another question, 429 if the principal, or the site, has too many unfinished ones.
    """
    _check_key(principal, key)
    fingerprint = hashlib.sha256(json.dumps(body if sent is None else sent, sort_keys=True).encode()).hexdigest()
    with log.own_transaction():
        turns = [] if key is None else [f"key {principal.user and principal.user.pk} {key}"]
        _take_turn(f"caller {principal.key}", *turns)
        if key is not None and (first := generation_rows().filter(owner=principal.user, idempotency_key=key).first()):
            if first.fingerprint != fingerprint:
                raise HTTPError(
                    422,
                    "idempotency-key-reused",
                    "This Idempotency-Key was used for another question. Send a new key with each question.",
                )
            return first, False
        size = len(json.dumps(body).encode())
        check_generation(principal.key, size)
        generation = Generation(
            owner=principal.user,
            caller=principal.key,
            upstream=upstream,
            model=str(body["model"]),
            request=dict(body),
            idempotency_key=key,
            fingerprint=fingerprint,
            size=size,
            start_position=log.current_head(),
        )
        generation.save(using=database(), force_insert=True)
    if principal.user is not None and not _is_stored(principal.user):
        forget_owner(principal.user.pk)  # deleted since the request was identified
        raise HTTPError(401, "not-signed-in", "This user was deleted. Sign in to have an answer.")
    return generation, True


def _is_stored(user: Any) -> bool:
    model = get_user_model()
    # Not from a copy of the database, which can be behind.
    return model._base_manager.using(router.db_for_write(model)).filter(pk=user.pk).exists()


def _check_key(principal: Principal, key: str | None) -> None:
    if key is None:
        return
    least = 1 if principal.user is not None else ANONYMOUS_KEY_MIN_LENGTH
    if not (least <= len(key) <= KEY_MAX_LENGTH and key.isprintable()):
        raise HTTPError(
            400,
            "invalid-idempotency-key",
            f"An Idempotency-Key has {least} to {KEY_MAX_LENGTH} printable characters"
            f"{'' if principal.user is not None else ' where nobody is signed in'}; got {key[:100]!r}. Use a UUID.",
        )


# --- A worker's steps -------------------------------------------------------------------------------------------------


def claim(worker: str, most: int) -> list[Generation]:
    """Take at most `most` queued generations, the oldest first; from then on they are this worker's."""
    if not generation_rows().filter(state=State.QUEUED).exists():
        return []
    with log.own_transaction():
        queued = locked(generation_rows().filter(state=State.QUEUED).order_by("created_at", "pk"), skip_locked=True)
        ids = [generation.pk for generation in queued[:most]]
        ours = generation_rows().filter(pk__in=ids)
        ours.update(state=State.RUNNING, worker=worker, lease_until=_lease(), started_at=Now())
        return list(ours.order_by("created_at", "pk"))


def write(worker: str, batches: Sequence[Batch], *, renew: bool = False) -> dict[str, int]:
    """Store what a worker has of its generations, all in one transaction; `renew` renews its lease on them.

    Returns {id: position of its newest message}. Those that are missing in it are no longer the worker's, and nothing
    of them was stored.
    """
    with log.sequencing_transaction():
        held = _hold(worker, [batch.id for batch in batches])
        kept = [batch for batch in batches if batch.id in held]
        if renew:  # those that it knows of, and not all that bear its name: a claim may have been stored unseen
            generation_rows().filter(pk__in=held).update(lease_until=_lease())
        for batch in kept:
            if batch.ending is not None:
                _record(held[batch.id], batch.ending)
            elif batch.text is not None:
                generation_rows().filter(pk=batch.id).update(
                    text=batch.text, pieces=batch.number, text_position=batch.position
                )
        messages = [messages_of(batch) for batch in kept]
        rows = log.append([message for each in messages for message in each])
        # The head's lock as late as can be, for everybody else's messages wait for it.
        positions = log.sequence() if rows else {}
        places = iter([positions[row.pk] for row in rows])
        newest = {}
        for batch, each in zip(kept, messages, strict=True):
            last = newest[batch.id] = max((next(places) for _ in each), default=batch.position)
            if batch.ending is not None:
                assert batch.text is not None
                size = F("size") + len(batch.text.encode())
                kept_text = {"text": batch.text, "pieces": batch.number + len(batch.pieces), "text_position": last}
                generation_rows().filter(pk=batch.id).update(size=size, **kept_text, **fields_of(batch.ending, last))
    if rows:
        log.finish(positions, rows)
    return newest


def find(batch: Batch) -> int | None:
    """The position of a batch's last message, where it was stored although the connection broke; None where it was not.

    Waits for the transaction that may just be storing it. Of a generation that somebody else has ended meanwhile
    nothing will be found, and write() says so.
    """
    with log.own_transaction():
        generation = locked(generation_rows().filter(pk=batch.id)).first()
        if generation is None:
            return None
        if batch.ending is not None and generation.state == batch.ending.state:
            return generation.end_position
        last = batch.number + len(batch.pieces) - 1
        after = max(batch.position, generation.start_position)
        for n, _, position in pieces_after(generation, after, log.current_head()):
            if batch.pieces and n == last:
                return position
    return None


# --- Ends from outside ------------------------------------------------------------------------------------------------


def cancel(id: str) -> Generation:
    """End a generation because its owner asks for it. One that has ended stays as it is."""
    return end(id, Ending(State.CANCELLED))


def interrupt(id: str) -> Generation:
    """End a generation whose worker is dead, so that its lease has run out. Others stay as they are."""
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
        error_message="Nobody could begin with this answer in time. Ask again later.",
    )
    return end(id, ending, only=Q(state=State.QUEUED))


def end(id: str, ending: Ending, *, only: Q | None = None) -> Generation:
    """End an active generation, whoever has it, where its row meets the condition. Raises Generation.DoesNotExist."""
    rows, positions = [], {}
    with log.sequencing_transaction():
        found = generation_rows().filter(pk=id)
        generation = locked(found).get()
        # Asked anew, for it may have changed until the lock was ours.
        if generation.is_active and (only is None or found.filter(only).exists()):
            text, pieces = stored_text(generation, log.current_head())
            rows = log.append(messages_of(Batch(id, pieces, ending=ending)))
            if generation.state == State.RUNNING:
                # So many tokens at the least. Its worker, if it lives, knows better, and corrects it.
                _record(generation, dataclasses.replace(ending, tokens=pieces))
            positions = log.sequence()
            last = positions[rows[0].pk]
            size = F("size") + len(text.encode())
            found.update(size=size, text=text, pieces=pieces, text_position=last, **fields_of(ending, last))
            generation.refresh_from_db(using=database())
    if rows:
        log.finish(positions, rows)
    return generation


def _record(generation: Generation, ending: Ending) -> None:
    seconds = ending.seconds
    if not seconds and generation.started_at is not None:
        seconds = max(0.0, (clock.read() - generation.started_at).total_seconds())
    usage.record(
        user_id=generation.owner_id,
        caller=generation.caller,
        upstream=generation.upstream,
        model=generation.model,
        outcome=ending.state,
        usage=ending.usage,
        pieces=ending.tokens,
        seconds=seconds,
        generation=generation.pk,
    )


def correct(generation: Generation, told: Mapping[str, Any] | None, tokens: int, seconds: float) -> None:
    """Write down what an answer has cost, as its worker knows, that somebody else has ended or deleted."""
    gone = not generation_rows().filter(pk=generation.pk).exists()
    if not usage.improve(generation.pk, told, tokens, seconds) and gone:
        generation.owner_id, generation.caller = None, ""
        _record(generation, Ending(State.CANCELLED, usage=told, tokens=tokens, seconds=seconds))


def mark_compacted(id: str) -> None:
    """From now on the text is in the row only."""
    generation_rows().filter(pk=id).update(compacted_at=Now())


def delete(id: str) -> None:
    """Forget a generation that has ended."""
    generation_rows().filter(pk=id).exclude(state__in=Generation.ACTIVE).delete()


# --- Rows and locks ---------------------------------------------------------------------------------------------------


def _lease() -> Any:
    """Until when a lease is good that is renewed now; by the database's clock, for those of the machines differ."""
    return Now() + timedelta(seconds=settings.GENERATION_LEASE_SECONDS)


def _hold(worker: str, ids: Collection[str]) -> dict[str, Generation]:
    """Those of the generations that are still this worker's, locked, without their texts."""
    ours = generation_rows().filter(pk__in=ids, worker=worker, state=State.RUNNING)
    return {each.pk: each for each in locked(ours.order_by("pk").defer("request", "text"))}


def _take_turn(*names: str) -> None:
    """Wait until nobody else's transaction has one of these turns, and keep them to the transaction's end."""
    connection = connections[database()]
    if connection.vendor != "postgresql":
        locked(generation_rows())
        return
    with connection.cursor() as cursor:
        for name in names:
            number = int.from_bytes(hashlib.sha256(f"streams.relay {name}".encode()).digest()[:8], signed=True)
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
