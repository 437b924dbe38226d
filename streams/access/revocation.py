"""Notify all processes when a user, session, token or channel has changed, so that streams may have to end.

    disconnect(user=7, channel="score.1")

These notices can be lost. So delivery/rechecks.py also checks every open stream regularly.
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

from streams import tokens
from streams.exceptions import InvalidToken
from streams.models import ChannelSettings
from streams.notifiers import Notice, Revocation, get_notifier
from streams.private.django import in_callers_transaction
from streams.protocol.events import validate_channel
from streams.redaction import PREFIX
from streams.runtime import failures
from streams.runtime.executor import database

logger = logging.getLogger("streams")

# If one change concerns more users than this, all streams are checked.
MAX_NOTICES = 20


def disconnect(*, user: Any = None, channel: str | None = None, token: str | None = None) -> None:
    """End the streams that match all of the given arguments, in all processes.

    A client that is still authorized reconnects and misses nothing. To keep a client out, take its permission away
    first. In a transaction, the streams end after the commit.

    Args:
        user: the user in whose name the streams were opened, by session or token, or the user's primary key.
        channel: a channel that the streams have.
        token: the token with which the streams were opened, or its id. It is also revoked, and opens no more streams.

    Raises:
        ValueError: no argument is given, the user has no primary key, or the token is invalid or has expired.
        InvalidChannel: the channel's name is not valid.
        SynchronousOnlyOperation: it was called on a running event loop. Use `await adisconnect(…)` there.
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
        raise ValueError("disconnect() takes a user who is in the database, or the user's primary key.")
    token_id = None if token is None else _revoke(token)
    revocation = Revocation(ends=True, user=pk, channel=channel, token=token_id)
    try:
        if pk is not None or token_id is not None:
            for revoke in _on_disconnect:
                # This comes before the streams end, so that no client reconnects with such a token.
                _after_commit(partial(revoke, pk, channel, token_id), database())
    finally:
        announce(revocation)


RevokeTokens = Callable[[str | None, str | None, str | None], object]
_on_disconnect: list[RevokeTokens] = []


def on_disconnect(revoke: RevokeTokens) -> None:
    """Register a function to be called when disconnect() is called with a user or a token.

    It is for apps that issue their own tokens, which must not let the user's clients reconnect.

    Args:
        revoke: called as `revoke(user, channel, token_id)` with the arguments of disconnect(), each of which can be
            None. `user` is the primary key as text. `token_id` is the id of a token that is revoked already; if it is
            given, no other token is to be revoked.
    """
    _on_disconnect.append(revoke)


def _revoke(token: str) -> str:
    if not token.startswith(PREFIX):
        tokens.revoke(token)
        return token
    try:
        parsed = tokens.read_token(token)
    except InvalidToken as error:
        raise ValueError(f"The token is not valid and opens no streams: {error}") from None
    tokens.revoke(parsed.id, parsed.expires_at)
    return parsed.id


def announce(revocation: Revocation, using: str | None = None) -> None:
    """Send a revocation to all processes. If a transaction is open, it is sent after the commit.

    `using`: the alias of the database with that transaction; by default the log's database.
    """
    _after_commit(partial(_notify, revocation), using or database())


def _after_commit(function: Callable[[], object], using: str) -> None:
    if not in_callers_transaction(connections[using]):
        function()
    else:
        transaction.on_commit(function, using=using, robust=True)


def _notify(revocation: Revocation) -> None:
    try:
        get_notifier().notify(Notice(0, 0, revocation=revocation))
    except Exception:
        failures.SENDING.record_failure(
            logger, "The notifier failed. Open streams are checked only every RECHECK_SECONDS."
        )
    else:
        failures.SENDING.recovered()


def session_fingerprint(session_key: str) -> str:
    """Return a hash that identifies a session in notices. The key itself would let a reader take the session over."""
    return salted_hmac("streams.revocation", session_key, algorithm="sha256").hexdigest()[:32]


# --- Django signals ---------------------------------------------------------------------------------------------------


def connect() -> None:
    """Connect to the signals of all models that authorization depends on.

    Changes that send no signal, such as those by `update()`, are found by the regular checks.
    """
    user = get_user_model()
    user_logged_out.connect(_logged_out)
    for signal in (post_save, post_delete):
        for model in apps.get_models():
            if issubclass(model, user):  # proxies of it as well
                signal.connect(_user_changed, sender=model)
        signal.connect(_rules_changed, sender=ChannelSettings)
    for name in ("groups", "user_permissions"):
        if (field := getattr(user, name, None)) is not None:  # a custom user model can lack it
            m2m_changed.connect(_users_rights_changed, sender=field.through)
    for through in (ChannelSettings.groups.through, Group.permissions.through):
        m2m_changed.connect(_rules_changed, sender=through)
    for model in (Group, Permission):
        post_delete.connect(_rules_changed, sender=model)


def _logged_out(*, request: Any, user: Any, **kwargs: Any) -> None:
    session = getattr(request, "session", None)
    if isinstance(session, SignedCookies):
        # The key changes with the session's data, so that it does not identify the session. All of the user's streams
        # end, and those of other sessions reconnect. Django cannot revoke the cookie itself.
        pk = session.get(SESSION_KEY) if user is None else user.pk
        if pk is not None:
            announce(Revocation(ends=True, user=str(pk)))
    # Django deletes the session after this signal. delivery/rechecks.py applies the revocation twice, for clients that
    # reconnect before that.
    elif (key := getattr(session, "session_key", None)) is not None:
        announce(Revocation(ends=True, session=session_fingerprint(key)))


def _user_changed(
    *, instance: Model, using: str, created: bool = False, update_fields: Any = None, raw: bool = False, **kwargs: Any
) -> None:
    # A login saves only `last_login`, which decides nothing.
    if not created and not raw and (update_fields is None or set(update_fields) - {"last_login"}):
        announce(Revocation(user=str(instance.pk)), using)


def _rules_changed(*, instance: Model, using: str, action: str = "post", **kwargs: Any) -> None:
    if action.startswith("post"):
        # A group or a permission can concern any channel.
        channel = instance.channel if isinstance(instance, ChannelSettings) else None
        announce(Revocation(channel=channel), using)


def _users_rights_changed(
    *, instance: Model, action: str, reverse: bool, pk_set: set[Any] | None, using: str, **kwargs: Any
) -> None:
    if not action.startswith("post"):
        return
    users = pk_set if reverse else {instance.pk}
    if users is None or len(users) > MAX_NOTICES:
        announce(Revocation(), using)
    else:
        for pk in users:
            announce(Revocation(user=str(pk)), using)
