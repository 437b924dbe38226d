"""Delete the generations of deleted users, and end the tokens of users whose streams are disconnected."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F

from streams import log
from streams.protocol.events import GENERATION_PREFIX
from streams.relay.generations.rows import generation_rows, locked
from streams.relay.models import Generation
from streams.runtime.executor import database


def forget_owner(user_pk: Any) -> None:
    """Delete all generations of a deleted user, with their chunks in the log, also those that have not ended.

    Their workers notice that the rows are gone. A generation that is created before the caller's transaction commits is
    deleted after the commit, and a later one by create().
    """
    alias = database()
    with transaction.atomic(using=alias):
        _forget_owned(user_pk)
        transaction.on_commit(partial(_forget_owned, user_pk), using=alias, robust=True)


def _forget_owned(user_pk: Any) -> None:
    with transaction.atomic(using=database()):
        # Locked, so that no worker adds a chunk between the two steps. Compacted ones have no chunks in the log.
        owned = list(locked(generation_rows().filter(owner=user_pk).order_by("pk").only("pk", "compacted_at")))
        generation_rows().filter(owner=user_pk).delete()
        log.erase_channels([generation.channel for generation in owned if generation.compacted_at is None])


def take_back_tokens(user_pk: str | None, channel: str | None = None, token_id: str | None = None) -> None:
    """Invalidate the tokens of a user's generations, or of the one with this channel. See revocation.on_disconnect().

    A token that was revoked by its id is already invalid. New tokens of its generation then get another id.
    """
    if token_id is not None:
        pk, _, series = token_id.rpartition(".")  # the form that tokens.make() gives it
        if series.isascii() and series.isdecimal():
            generation_rows().filter(pk=pk, token_series=int(series)).update(token_series=F("token_series") + 1)
        return
    try:
        owned = generation_rows().filter(owner_id=Generation._meta.get_field("owner").to_python(user_pk))
    except (TypeError, ValueError, OverflowError, ValidationError):  # not a primary key of this user model
        return
    if channel is not None:
        if not channel.startswith(GENERATION_PREFIX):
            return
        owned = owned.filter(pk=channel.removeprefix(GENERATION_PREFIX))
    owned.update(token_series=F("token_series") + 1)
