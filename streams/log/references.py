"""The log's references to users."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction

from streams.models import Message
from streams.threads import database


def forget_publisher(user_pk: Any) -> None:
    """Clear `published_by` of a deleted user's messages, in the calling thread's transaction if one is open.

    A message without a position is cleared after the commit: otherwise the process that numbers it, and with it every
    publisher, would wait for this transaction.
    """
    alias = database()
    published = Message.objects.using(alias).filter(published_by=user_pk)
    published.filter(position__isnull=False).update(published_by=None)
    transaction.on_commit(partial(published.update, published_by=None), using=alias, robust=True)
