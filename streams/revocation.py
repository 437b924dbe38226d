"""Telling all processes that somebody may not read any more: when a user, a session, a token or a channel has changed.

    disconnect(user=7, channel="score.1")

It goes by the notifier, as control notices, and so may get lost: rechecks.py asks again by and by in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookies
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, transaction
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.utils.crypto import salted_hmac

from streams import outages, tokens
from streams.events import validate_channel
from streams.exceptions import InvalidToken
from streams.models import ChannelSettings
from streams.notifiers import Notice, Revocation, get_notifier
from streams.private.django import in_callers_transaction
from streams.redaction import PREFIX
from streams.threads import database

logger = logging.getLogger("streams")

# Users that one change concerns. Beyond it, everybody is looked at.
MAX_NOTICES = 20


def disconnect(*, user: Any = None, channel: str | None = None, token: str | None = None) -> None:
    """End streams, in all processes: those for which all holds that is named.

    Args:
        user: the user, or the primary key, in whose name they were opened, by session or token.
        channel: a channel that they have.
        token: the token, or its id, with which they were opened. It is revoked as well, and never opens one again.

    Whoever still may read comes back, and has missed nothing: change first who may. Where a transaction is open, it
    happens with its commit.

    Raises:
        ValueError: nothing is named, a user who has no primary key, or a token that opens nothing any more.
        InvalidChannel: the channel's name is outside the rule.
        SynchronousOnlyOperation: called on a running event loop; await adisconnect() there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        _disconnect(user, channel, token)
    else:
        raise SynchronousOnlyOperation("disconnect() waits for the notifier. Use `await adisconnect(…)` here.")


async def adisconnect(*, user: Any = None, channel: str | None = None, token: str | None = None) -> None:
    """See disconnect()."""
    await sync_to_async(_disconnect)(user, channel, token)


def _disconnect(user: Any, channel: str | None, token: str | None) -> None:
    if user is None and channel is None and token is None:
        raise ValueError("disconnect() takes a user, a channel or a token.")
    if channel is not None:
        validate_channel(channel)
    pk = None if user is None else str(getattr(user, "pk", user))
    if pk in ("", "None"):
        raise ValueError("disconnect() takes a user who is in the database, or the primary key of one.")
    token_id = None if token is None else _revoke(token)
    revocation = Revocation(ends=True, user=pk, channel=channel, token=token_id)
    try:
        if pk is not None or token_id is not None:
            for take_back in _on_disconnect:
                # First, so that no client comes back by it.
                _after_commit(partial(take_back, pk, channel, token_id), database())
    finally:
        announce(revocation)


TakeBack = Callable[[str | None, str | None, str | None], object]
_on_disconnect: list[TakeBack] = []


def on_disconnect(take_back: TakeBack) -> None:
    """Have `take_back(user, channel, token_id)` called when disconnect() names a user or a token.

    For apps that issue tokens of their own: these must not let the user's clients come back. The arguments are those of
    disconnect(), or None: `user` is the primary key as text, `token_id` the id of a token that is revoked already. With
    a `token_id`, no other token is to end.
    """
    _on_disconnect.append(take_back)


def _revoke(token: str) -> str:
    token_id, expires_at = token, None
    if token.startswith(PREFIX):
        try:
            told = tokens.read_token(token)
        except InvalidToken as error:
            raise ValueError(f"{error} It opens no stream any more.") from None
        token_id, expires_at = told.id, told.expires_at
    tokens.revoke(token_id, expires_at)
    return token_id


def announce(revocation: Revocation, using: str | None = None) -> None:
    """Tell all processes, after the commit where a transaction is open in the database `using`, or in the log's."""
    _after_commit(partial(_tell, revocation), using or database())


def _after_commit(act: Callable[[], object], using: str) -> None:
    if not in_callers_transaction(connections[using]):
        act()
    else:
        transaction.on_commit(act, using=using, robust=True)


def _tell(revocation: Revocation) -> None:
    try:
        get_notifier().notify(Notice(0, 0, revocation=revocation))
    except Exception:
        outages.SENDING.record_failure(logger, "The notifier failed; open streams are looked at every RECHECK_SECONDS.")
    else:
        outages.SENDING.recovered()


def mark_of_session(session_key: str) -> str:
    """What stands for a session where its key must not be seen."""
    return salted_hmac("streams.revocation", session_key, algorithm="sha256").hexdigest()[:32]


# --- What is found out by itself --------------------------------------------------------------------------------------


def connect() -> None:
    """Listen to the signals of what decides who may read. Changes without signals, as by `update()`, are found by
    asking again."""
    user = get_user_model()
    user_logged_out.connect(_logged_out)
    for signal in (post_save, post_delete):
        for model in apps.get_models():
            if issubclass(model, user):  # proxies of it as well
                signal.connect(_user_changed, sender=model)
        signal.connect(_channel_changed, sender=ChannelSettings)
    m2m_changed.connect(_channel_changed, sender=ChannelSettings.groups.through)
    for name in ("groups", "user_permissions"):
        if (field := getattr(user, name, None)) is not None:  # a site's own kind of user may do without
            m2m_changed.connect(_users_rights_changed, sender=field.through)
    m2m_changed.connect(_rights_changed, sender=Group.permissions.through)
    for model in (Group, Permission):
        post_delete.connect(_rights_changed, sender=model)


def _logged_out(*, request: Any, user: Any, **kwargs: Any) -> None:
    session = getattr(request, "session", None)
    if isinstance(session, SignedCookies):
        # Its key is all that is in it, and another one with each change: the user's other sessions end along, and come
        # back. (Whoever keeps the cookie may too: Django cannot take it back.)
        pk = session.get(SESSION_KEY) if user is None else user.pk
        if pk is not None:
            announce(Revocation(ends=True, user=str(pk)))
    # The session goes right after this signal; who is quick enough to come back before is found a moment later.
    elif (key := getattr(session, "session_key", None)) is not None:
        announce(Revocation(ends=True, session=mark_of_session(key)))


def _user_changed(
    *, instance: Model, using: str, created: bool = False, update_fields: Any = None, raw: bool = False, **kwargs: Any
) -> None:
    # A login writes its time, and nothing else.
    if not created and not raw and (update_fields is None or set(update_fields) - {"last_login"}):
        announce(Revocation(user=str(instance.pk)), using)


def _channel_changed(*, instance: Any, using: str, action: str = "post", **kwargs: Any) -> None:
    if action.startswith("post"):
        # Of a group's own side there is no name for it.
        channel = instance.channel if isinstance(instance, ChannelSettings) else None
        announce(Revocation(channel=channel), using)


def _users_rights_changed(
    *, instance: Model, action: str, reverse: bool, pk_set: set[Any] | None, using: str, **kwargs: Any
) -> None:
    if not action.startswith("post"):
        return
    users = [instance.pk] if not reverse else pk_set
    if users is None or len(users) > MAX_NOTICES:
        announce(Revocation(), using)
        return
    for pk in users:
        announce(Revocation(user=str(pk)), using)


def _rights_changed(*, using: str, action: str = "post", **kwargs: Any) -> None:
    if action.startswith("post"):
        announce(Revocation(), using)
