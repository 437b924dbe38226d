"""The traces of users in the log: the messages that they published, and the messages of their own channels."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction

from streams.log.appending import lock_sqlite
from streams.log.pruning import erase_channels
from streams.log.sizing import lock_size
from streams.models import Message
from streams.protocol.events import USER_PREFIX
from streams.runtime.executor import database


def forget_publisher(user_pk: Any) -> None:
    """Clear `published_by` of a deleted user's messages, in the calling thread's transaction if one is open.

    A message without a position is cleared after the commit: otherwise the process that numbers it, and with it every
    publisher, would wait for this transaction.
    """
    alias = database()
    published = Message.objects.using(alias).filter(published_by=user_pk)
    with transaction.atomic(using=alias):
        lock_sqlite()
        numbered = published.filter(position__isnull=False)
        if numbered.exists():
            lock_size()  # before the messages, as a pruning does: each would wait for the other
            numbered.update(published_by=None)
        transaction.on_commit(partial(published.update, published_by=None), using=alias, robust=True)


def forget_addressee(user_pk: Any) -> None:
    """Delete the messages of a deleted user's own channel, in the calling thread's transaction if one is open."""
    erase_channels([f"{USER_PREFIX}{user_pk}"])
