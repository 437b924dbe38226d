"""Write generations to the database. Each step of an answer is one transaction.

Every change locks the generation's row first and then reads its state. So if a worker whose lease has expired, a cancel
and the worker's last write happen at the same time, the first one wins. Chunks, state and the channel's messages are
written in the same transaction: everything that a client has seen is durable, and nothing follows the end.

All functions are synchronous and use the ORM. From an event loop, call them with streams.runtime.executor.run().
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import connections
from django.db.models import Q
from django.db.models.functions import Now

from streams import log
from streams.exceptions import HTTPError
from streams.relay import usage
from streams.relay.access import Principal
from streams.relay.conf import settings
from streams.relay.generations.chunks import DESERTED, chunks_after, stored_text
from streams.relay.generations.endings import Batch, Ending, fields_of, messages_of
from streams.relay.generations.owners import forget_owner
from streams.relay.generations.rows import generation_rows, locked
from streams.relay.limits import check_generation
from streams.relay.models import KEY_MAX_LENGTH, Generation
from streams.runtime import clock
from streams.runtime.executor import database
from streams.telemetry import recorder

State = Generation.State

# Without an account, the key is all that distinguishes one client from another, so it must be a secret.
ANONYMOUS_KEY_MIN_LENGTH = 32


def create(
    principal: Principal, body: Mapping[str, Any], upstream: str, key: str | None = None, *, sent: object = None
) -> tuple[Generation, bool]:
    """Queue an answer to the checked request `body`. Return the generation, and True if it is new.

    If the principal has used the idempotency key `key` before, the first generation is returned, provided that `sent`,
    the JSON that the client sent (default: `body`), is the same. `body` also contains the site's limits, which can have
    changed in between.

    Raises HTTPError: 400 if the key is invalid, 401 if the user was deleted, 422 if the key was used for another
    request, 429 if the principal or the site has too many unfinished generations.
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
                    "This Idempotency-Key was used for another request. Send a new key with each request.",
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
        if clock.is_shifted():
            generation.created_at = clock.read()  # otherwise the database sets it
        generation.save(using=database(), force_insert=True)
    if principal.user is not None and not usage.user_exists(principal.user.pk):
        forget_owner(principal.user.pk)  # deleted since the request was identified
        raise HTTPError(401, "not-logged-in", "This user was deleted. Log in as another user.")
    return generation, True


def _check_key(principal: Principal, key: str | None) -> None:
    if key is None:
        return
    least = 1 if principal.user is not None else ANONYMOUS_KEY_MIN_LENGTH
    if not (least <= len(key) <= KEY_MAX_LENGTH and key.isprintable()):
        raise HTTPError(
            400,
            "invalid-idempotency-key",
            f"An Idempotency-Key has {least} to {KEY_MAX_LENGTH} printable characters"
            f"{'' if principal.user is not None else ' if you are not logged in'}; got {key[:100]!r}. Use a UUID.",
        )


def claim(worker: str, limit: int) -> list[Generation]:
    """Assign at most `limit` queued generations to a worker, the oldest first, and return them."""
    if not generation_rows().filter(state=State.QUEUED).exists():
        return []
    with log.own_transaction():
        queued = locked(generation_rows().filter(state=State.QUEUED).order_by("created_at", "pk"), skip_locked=True)
        ids = [generation.pk for generation in queued[:limit]]
        ours = generation_rows().filter(pk__in=ids)
        ours.update(state=State.RUNNING, worker=worker, lease_until=_lease(), started_at=clock.stored_now())
        return list(ours.order_by("created_at", "pk"))


def write(worker: str, batches: Sequence[Batch], renew: bool = False) -> dict[str, int]:
    """Store a worker's batches, all in one transaction. With `renew`, renew its lease on their generations as well.

    Returns {generation: position of its newest message}. Generations that do not belong to the worker any more are
    missing in it, and nothing of them was stored.
    """
    with log.sequencing_transaction():
        held = _hold(worker, [batch.id for batch in batches])
        kept = [batch for batch in batches if batch.id in held]
        if renew:  # only these: the worker does not know of a claim that was stored while its connection broke
            generation_rows().filter(pk__in=held).update(lease_until=_lease())
        for batch in kept:
            if batch.ending is not None:
                _record(held[batch.id], batch.ending)
            elif batch.text is not None:
                generation_rows().filter(pk=batch.id).update(
                    text=batch.text, chunks=batch.number, text_position=batch.position
                )
        messages = [messages_of(batch) for batch in kept]
        rows = log.append([message for each in messages for message in each])
        # Take the head's lock as late as possible, because the messages of all other publishers wait for it.
        positions = log.sequence() if rows else {}
        slots = iter([positions[row.pk] for row in rows])
        newest = {}
        for batch, each in zip(kept, messages, strict=True):
            last = newest[batch.id] = max((next(slots) for _ in each), default=batch.position)
            if batch.ending is not None:
                assert batch.text is not None
                ended = fields_of(batch.ending, batch.text, batch.number + len(batch.chunks), last)
                generation_rows().filter(pk=batch.id).update(**ended)
    if rows:
        log.finish(positions, rows)
    for batch in kept:
        if batch.ending is not None:
            recorder.current.generation_ended(batch.ending.state)
    return newest


def find(batch: Batch) -> int | None:
    """Return the position of a batch's last message if it was stored although the connection broke, else None.

    Waits for a transaction that is still storing the batch. If the generation was ended from outside, the result is
    None, and the next write() reports it.
    """
    with log.own_transaction():
        generation = locked(generation_rows().filter(pk=batch.id)).first()
        if generation is None:
            return None
        if batch.ending is not None and generation.state == batch.ending.state:
            return generation.end_position
        last = batch.number + len(batch.chunks) - 1
        after = max(batch.position, generation.start_position)
        for n, _, position in chunks_after(generation, after, log.current_head()):
            if batch.chunks and n == last:
                return position
    return None


def cancel(id: str) -> Generation:
    """End a generation at its owner's request. A generation that has ended does not change."""
    return end(id, Ending(State.CANCELLED))


def interrupt(id: str) -> Generation:
    """End a generation if its worker is dead, so that its lease has expired. Other generations do not change."""
    ending = Ending(
        State.INTERRUPTED,
        error_code="interrupted",
        error_message="The process that wrote this answer has ended. Send the request again.",
    )
    return end(id, ending, only=DESERTED)


def give_up(id: str) -> Generation:
    """End a generation that no worker has claimed. A generation that has started does not change."""
    ending = Ending(
        State.FAILED,
        error_code="no-worker",
        error_message="No worker was free in time. Send the request again later.",
    )
    return end(id, ending, only=Q(state=State.QUEUED))


def end(id: str, ending: Ending, *, only: Q | None = None) -> Generation:
    """End an active generation from outside of its worker, if its row meets the condition `only`.

    Raises Generation.DoesNotExist.
    """
    rows, positions = [], {}
    with log.sequencing_transaction():
        found = generation_rows().filter(pk=id)
        generation = locked(found).get()
        # Check the condition again: the row can have changed before it was locked.
        if generation.is_active and (only is None or found.filter(only).exists()):
            text, chunks, _ = stored_text(generation, log.current_head())
            rows = log.append(messages_of(Batch(id, chunks, ending=ending)))
            if generation.state == State.RUNNING:
                # At least this many tokens. If its worker is alive, it corrects the number with correct().
                _record(generation, dataclasses.replace(ending, tokens=chunks))
            positions = log.sequence()
            found.update(**fields_of(ending, text, chunks, positions[rows[0].pk]))
            generation.refresh_from_db(using=database())
    if rows:
        log.finish(positions, rows)
        recorder.current.generation_ended(ending.state)
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
        chunks=ending.tokens,
        seconds=seconds,
        generation=generation.pk,
    )


def correct(generation: Generation, found: Mapping[str, Any] | None, tokens: int, seconds: float) -> None:
    """Correct the usage of a generation that was ended or deleted from outside, with its worker's numbers."""
    gone = not generation_rows().filter(pk=generation.pk).exists()
    if not usage.improve(generation.pk, found, tokens, seconds) and gone:
        generation.owner_id, generation.caller = None, ""
        _record(generation, Ending(State.CANCELLED, usage=found, tokens=tokens, seconds=seconds))


def mark_compacted(id: str) -> None:
    """Record that the generation's messages were deleted, so that only the row has its text."""
    generation_rows().filter(pk=id).update(compacted_at=clock.stored_now())


def _lease() -> Any:
    """Return the expiry of a lease that is renewed now, by the database's clock: the clocks of machines differ."""
    return Now() + timedelta(seconds=settings.GENERATION_LEASE_SECONDS)


def _hold(worker: str, ids: Collection[str]) -> dict[str, Generation]:
    """Lock and return the generations that still belong to the worker, without their texts."""
    ours = generation_rows().filter(pk__in=ids, worker=worker, state=State.RUNNING)
    return {each.pk: each for each in locked(ours.order_by("pk").defer("request", "text"))}


def _take_turn(*names: str) -> None:
    """Lock these names until the end of the transaction. Waits while another transaction has one of them."""
    connection = connections[database()]
    if connection.vendor != "postgresql":
        locked(generation_rows())
        return
    with connection.cursor() as cursor:
        for name in names:
            number = int.from_bytes(hashlib.sha256(f"streams.relay {name}".encode()).digest()[:8], signed=True)
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
