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
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import connections, router, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from streams import clock, log
from streams.events import GENERATION_PREFIX, NewMessage, check, encode_data
from streams.exceptions import HTTPError
from streams.relay import usage
from streams.relay.access import Caller
from streams.relay.conf import settings
from streams.relay.generations.chunks import DESERTED, END_EVENT, pieces_after, stored_text
from streams.relay.limits import check_generation
from streams.relay.models import KEY_MAX_LENGTH, Generation
from streams.threads import database

Rows: TypeAlias = "QuerySet[Generation]"
State = Generation.State

# A caller without an account has nothing but the key to tell it from others, so that the key must be a secret.
ANONYMOUS_KEY_MIN_LENGTH = 32


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
    """What a worker has of one generation: the pieces from `number` on, which are not stored, and the end.

    `position` is that of the newest piece before these, which write() has told. `text` is what the row is to have: the
    pieces before these, or, with an ending, all there are; None where the row may stay behind.
    """

    id: str
    number: int
    pieces: tuple[str, ...] = ()
    position: int = 0
    text: str | None = None
    ending: Ending | None = None


# --- Asking -----------------------------------------------------------------------------------------------------------


def create(
    caller: Caller, body: Mapping[str, Any], upstream: str, key: str | None = None, *, sent: object = None
) -> tuple[Generation, bool]:
    """Queue an answer to the checked request `body`. Returns the generation, and whether it is a new one.

    The same idempotency key of the same caller returns the first, if what the client has `sent` (JSON; by default
    `body`) is the same: the site's limits, which are in `body`, may have changed meanwhile.

    Raises HTTPError: 400 for a key that cannot be one, 401 for a user who was deleted, 422 for a key that was used for
    another question, 429 if the caller, or the site, has too many unfinished ones.
    """
    _check_key(caller, key)
    fingerprint = hashlib.sha256(json.dumps(body if sent is None else sent, sort_keys=True).encode()).hexdigest()
    with log.own_transaction():
        _take_turn(f"caller {caller.key}", *([] if key is None else [f"key {caller.user and caller.user.pk} {key}"]))
        if key is not None and (first := _rows().filter(owner=caller.user, idempotency_key=key).first()):
            if first.fingerprint != fingerprint:
                raise HTTPError(
                    422,
                    "idempotency-key-reused",
                    "This Idempotency-Key was used for another question. Send a new key with each question.",
                )
            return first, False
        size = len(json.dumps(body).encode())
        check_generation(caller.key, size)
        generation = Generation(
            owner=caller.user,
            caller=caller.key,
            upstream=upstream,
            model=str(body["model"]),
            request=dict(body),
            idempotency_key=key,
            fingerprint=fingerprint,
            size=size,
            start_position=log.current_head(),
        )
        generation.save(using=database(), force_insert=True)
    if caller.user is not None and not _is_stored(caller.user):
        forget_owner(caller.user.pk)  # deleted since the request was identified
        raise HTTPError(401, "not-signed-in", "This user was deleted. Sign in to have an answer.")
    return generation, True


def _is_stored(user: Any) -> bool:
    model = get_user_model()
    # Not from a copy of the database, which can be behind.
    return model._base_manager.using(router.db_for_write(model)).filter(pk=user.pk).exists()


def _check_key(caller: Caller, key: str | None) -> None:
    if key is None:
        return
    least = 1 if caller.user is not None else ANONYMOUS_KEY_MIN_LENGTH
    if not (least <= len(key) <= KEY_MAX_LENGTH and key.isprintable()):
        raise HTTPError(
            400,
            "invalid-idempotency-key",
            f"An Idempotency-Key has {least} to {KEY_MAX_LENGTH} printable characters"
            f"{'' if caller.user is not None else ' where nobody is signed in'}; got {key[:100]!r}. Use a UUID.",
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
    """Store what a worker has of its generations, all in one transaction; `renew` renews its lease on them.

    Returns {id: position of its newest message}. Those that are missing in it are no longer the worker's, and nothing
    of them was stored.
    """
    with log.sequencing_transaction():
        held = _hold(worker, [batch.id for batch in batches])
        kept = [batch for batch in batches if batch.id in held]
        if renew:  # those that it knows of, and not all that bear its name: a claim may have been stored unseen
            _rows().filter(pk__in=held).update(lease_until=_lease())
        for batch in kept:
            if batch.ending is not None:
                _record(held[batch.id], batch.ending)
            elif batch.text is not None:
                _rows().filter(pk=batch.id).update(text=batch.text, pieces=batch.number, text_position=batch.position)
        messages = [_messages(batch) for batch in kept]
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
                _rows().filter(pk=batch.id).update(size=size, **kept_text, **_ended(batch.ending, last))
    if rows:
        log.finish(positions, rows)
    return newest


def find(batch: Batch) -> int | None:
    """The position of a batch's last message, where it was stored although the connection broke; None where it was not.

    Waits for the transaction that may just be storing it. Of a generation that somebody else has ended meanwhile
    nothing will be found, and write() says so.
    """
    with log.own_transaction():
        generation = _locked(_rows().filter(pk=batch.id)).first()
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


def _messages(batch: Batch) -> list[NewMessage]:
    channel = Generation(pk=batch.id).channel
    messages = [
        check(NewMessage(channel, {"n": batch.number + n, "text": text})) for n, text in enumerate(batch.pieces)
    ]
    if batch.ending is not None:  # of any size: an end must be told
        messages.append(NewMessage(channel, encode_data(_told(batch.ending), max_bytes=None), END_EVENT))
    return messages


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
        found = _rows().filter(pk=id)
        generation = _locked(found).get()
        # Asked anew, for it may have changed until the lock was ours.
        if generation.is_active and (only is None or found.filter(only).exists()):
            text, pieces = stored_text(generation, log.current_head())
            rows = log.append(_messages(Batch(id, pieces, ending=ending)))
            if generation.state == State.RUNNING:
                # So many tokens at the least. Its worker, if it lives, knows better, and corrects it.
                _record(generation, dataclasses.replace(ending, tokens=pieces))
            positions = log.sequence()
            last = positions[rows[0].pk]
            size = F("size") + len(text.encode())
            found.update(size=size, text=text, pieces=pieces, text_position=last, **_ended(ending, last))
            generation.refresh_from_db(using=database())
    if rows:
        log.finish(positions, rows)
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
    gone = not _rows().filter(pk=generation.pk).exists()
    if not usage.improve(generation.pk, told, tokens, seconds) and gone:
        generation.owner_id, generation.caller = None, ""
        _record(generation, Ending(State.CANCELLED, usage=told, tokens=tokens, seconds=seconds))


def mark_compacted(id: str) -> None:
    """From now on the text is in the row only."""
    _rows().filter(pk=id).update(compacted_at=Now())


def delete(id: str) -> None:
    """Forget a generation that has ended."""
    _rows().filter(pk=id).exclude(state__in=Generation.ACTIVE).delete()


def forget_owner(user_pk: Any) -> None:
    """Delete the generations of a deleted user with their pieces in the log, also those that have not ended.

    Their workers find them gone. Those that are compacted have no pieces in the log any more. One that is created
    before the caller's transaction commits is deleted after the commit, and a later one by create().
    """
    alias = database()
    with transaction.atomic(using=alias):
        _forget_owned(user_pk)
        transaction.on_commit(partial(_forget_owned, user_pk), using=alias, robust=True)


def _forget_owned(user_pk: Any) -> None:
    with transaction.atomic(using=database()):
        # Locked, so that no worker adds a piece between the two steps.
        owned = list(_locked(_rows().filter(owner=user_pk).order_by("pk").only("pk", "compacted_at")))
        _rows().filter(owner=user_pk).delete()
        log.erase_channels([generation.channel for generation in owned if generation.compacted_at is None])


def take_back_tokens(user_pk: str | None, channel: str | None = None, token_id: str | None = None) -> None:
    """End the tokens of a user's generations, or of the one that has this channel. See revocation.on_disconnect().

    A token that was revoked by its id has ended already. The next tokens of its generation then get another id.
    """
    if token_id is not None:
        pk, _, series = token_id.rpartition(".")  # as answer_tokens has it
        if series.isascii() and series.isdecimal():
            _rows().filter(pk=pk, token_series=int(series)).update(token_series=F("token_series") + 1)
        return
    try:
        owned = _rows().filter(owner_id=Generation._meta.get_field("owner").to_python(user_pk))
    except (TypeError, ValueError, OverflowError, ValidationError):  # a key of another kind of user
        return
    if channel is not None:
        owned = (
            owned.filter(pk=channel.removeprefix(GENERATION_PREFIX))
            if channel.startswith(GENERATION_PREFIX)
            else owned.none()
        )
    owned.update(token_series=F("token_series") + 1)


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
