"""Policies decide who can subscribe to a channel, and who can publish to it.

STREAMS['POLICY'] names the site's policy. The views, the admin and the API ask it. publish() in code asks no policy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from streams.channels.policy_methods import PUBLISH_METHODS, READ_METHODS, contradictions, is_builtin
from streams.channels.rules import (
    Access,
    Rules,
    aaccess_rules,
    access_rules,
    is_open,
    is_public,
    known_rules,
    rule_decides,
)
from streams.conf import settings
from streams.private.django import has_sessions_user
from streams.protocol.events import USER_PREFIX
from streams.runtime import executor
from streams.runtime.resets import on_settings_change
from streams.tokens import atoken_of, token_of


class BasePolicy:
    """Decides what a request can read and publish. Subclass it and name the subclass in STREAMS['POLICY'].

    **Default.** Everything is denied. A channel is allowed only if a method of yours returns True for it. A request
    for several channels is denied as a whole if one of them is denied.

    **What to override.** `can_subscribe` and `can_publish` decide about one channel. To decide about many channels with
    one query, override `denied_channels` or `denied_publish_channels`, which then decide alone.

    **Sync and async.** A sync method is obeyed by async callers too: its async twin (`acan_…`, `adenied_…`) runs it
    with sync_to_async, once for all channels of a request, in the request's thread. There it can use the ORM and block.
    Sync views, the API and the admin call the sync methods in their own thread. Override the twin as well if you can
    answer without a thread; it runs on the event loop and must not block. Overriding a twin alone is refused. If the
    rule itself is async, write the sync method as `return async_to_sync(self.acan_subscribe)(request, channel)`; then
    the async method must not call super() (which would call the sync method), but can await
    `sync_to_async(super().can_subscribe)(request, channel)`.

    **Contradictions.** A policy in which two of these methods could give different answers cannot be instantiated:
    ImproperlyConfigured. The system check streams.E006 reports it, with the remedy.

    **What to raise.** Return False to deny. PermissionDenied and Http404 deny as well. django.db.Error means that the
    policy cannot decide: a new stream gets a 503, and an open one continues and is judged again. Any other exception
    fails a new request and ends an open stream, except that OSError leaves an open stream as django.db.Error does.

    **Open streams** are judged again every RECHECK_SECONDS, and after each relevant change, with a copy of the stream's
    request. Its session and user are loaded again. One instance serves all threads: keep no state of a request in it.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> BasePolicy:
        if problems := list(contradictions(cls)):
            raise ImproperlyConfigured(" ".join(problems))
        return super().__new__(cls)

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        """Return True if the request can read `channel`, a valid name of a channel that need not exist yet."""
        return False

    async def acan_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return await sync_to_async(self.can_subscribe)(request, channel)

    def denied_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """Return those of `channels` that the request cannot read. This is the method that callers use."""
        return [channel for channel in channels if not self.can_subscribe(request, channel)]

    async def adenied_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        if self.overrides("acan_subscribe") and not self.overrides("denied_channels"):
            return [channel for channel in channels if not await self.acan_subscribe(request, channel)]
        return await sync_to_async(self.denied_channels)(request, channels)

    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        """Return True if the request can publish to `channel`, a valid name of a channel that need not exist yet."""
        return False

    async def acan_publish(self, request: HttpRequest, channel: str) -> bool:
        return await sync_to_async(self.can_publish)(request, channel)

    def denied_publish_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """Return those of `channels` that the request cannot publish to. This is the method that callers use."""
        return [channel for channel in channels if not self.can_publish(request, channel)]

    async def adenied_publish_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        if self.overrides("acan_publish") and not self.overrides("denied_publish_channels"):
            return [channel for channel in channels if not await self.acan_publish(request, channel)]
        return await sync_to_async(self.denied_publish_channels)(request, channels)

    def can_broadcast(self, request: HttpRequest, channel: str) -> bool:
        """Return True if the request's user can write and send broadcasts to `channel` in the admin.

        The permissions for broadcasts are required as well.
        """
        return not self.denied_publish_channels(request, [channel])

    def can_grant_pattern(self, request: HttpRequest, pattern: str, *, to_publish: bool) -> bool:
        """Return True if the request's user can make tokens for all channels that match `pattern`.

        It is called when a token is made, and only if no subclass below the one that defines it has rules of its own:
        see grants_pattern(). The rules of this class do not apply to what the token then allows. A token for a single
        channel can be made by each user who can read it, or publish to it.
        """
        return False

    def grants_pattern(self, request: HttpRequest, pattern: str, *, to_publish: bool) -> bool:
        """Return can_grant_pattern(), or False if it was inherited by a class with rules that it does not know.

        Callers use this method. Do not override it.
        """
        for each in (self, *type(self).__mro__):
            if "can_grant_pattern" in vars(each):
                return self.can_grant_pattern(request, pattern, to_publish=to_publish)
            if not vars(each).keys().isdisjoint(PUBLISH_METHODS if to_publish else READ_METHODS):
                break
        return False

    def depends_only_on_user(self) -> bool:
        """Return True if reading depends on nothing of a request but its user and its token.

        One decision is then shared by all open streams of a session.
        """
        return False

    def overrides(self, *names: str) -> bool:
        """Return True if this instance, or a class other than those of this module, defines one of the methods."""
        places = [self, *(each for each in type(self).__mro__ if not is_builtin(each))]
        return any(not vars(each).keys().isdisjoint(names) for each in places)

    def describe_readers(self, channel: str) -> str:
        """Return who can read `channel`, in words for staff. It decides nothing."""
        return str(_("whoever the site's policy admits"))

    def denied_message(self, channels: Sequence[str]) -> str:
        """Return the error text for a client that cannot read `channels`."""
        return _("You do not have permission to read %(channels)s.") % {"channels": ", ".join(channels)}

    def denied_publish_message(self, channels: Sequence[str]) -> str:
        """Return the error text for a client that cannot publish to `channels`."""
        return _("You do not have permission to publish to %(channels)s.") % {"channels": ", ".join(channels)}


class DefaultPolicy(BasePolicy):
    """Allows reading by the channel's settings in the admin, or else by PUBLIC_CHANNELS.

    A user can also read `user.<pk>`, and staff with the permission `streams.view_message` can read everything. Staff
    with `streams.add_message` can publish. Staff with a permission to change broadcasts can broadcast.

    If a request has a signed token, only the token and the public channels count, and the logged-in user does not.

    Settings in the admin cannot open channels that begin with `user.` or `generation.`, but can restrict them further.
    A pattern of PUBLIC_CHANNELS opens them only if it begins with that prefix.
    """

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return _can_read(request, channel, access_rules())

    def denied_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        if self.overrides("can_subscribe"):
            return super().denied_channels(request, channels)
        rules = access_rules()
        return [channel for channel in channels if not _can_read(request, channel, rules)]

    async def adenied_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        if not self.overrides(*READ_METHODS):
            # Public channels and tokens are decided without the user, and so without a query or a thread.
            rules = await aaccess_rules()
            channels = [channel for channel in channels if not is_open(channel, rules.get(channel))]
            if channels and (token := await atoken_of(request)) is not None:
                return [channel for channel in channels if not token.may_read(channel)]
            if channels and _is_loaded_by_django(request):
                # In a thread that has a connection already. The request's own thread would have to open one.
                return await executor.run(self.denied_channels, request, channels)
        return await super().adenied_channels(request, channels) if channels else []

    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        if (token := token_of(request)) is not None:
            return token.may_publish(channel)
        return _is_staff_with(request, "streams.add_message")

    async def adenied_publish_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        if not self.overrides(*PUBLISH_METHODS) and (token := await atoken_of(request)) is not None:
            return [channel for channel in channels if not token.may_publish(channel)]
        return await super().adenied_publish_channels(request, channels)

    def can_broadcast(self, request: HttpRequest, channel: str) -> bool:
        verbs = ("add", "change", "send", "schedule", "delete")
        if not _is_staff_with(request, *(f"streams.{verb}_broadcast" for verb in verbs)):
            return False
        # The rules of a subclass for publishing apply to broadcasts as well.
        return not self.overrides(*PUBLISH_METHODS) or super().can_broadcast(request, channel)

    def can_grant_pattern(self, request: HttpRequest, pattern: str, *, to_publish: bool) -> bool:
        """Return True for staff with the permission for all channels. See BasePolicy.can_grant_pattern().

        If a subclass has rules of its own, return False, even when called with super(), because the pattern can match
        a channel that these rules deny. Such a subclass decides here by itself.
        """
        if self.overrides(*(PUBLISH_METHODS if to_publish else READ_METHODS)) or token_of(request) is not None:
            return False
        return _is_staff_with(request, "streams.add_message" if to_publish else "streams.view_message")

    def depends_only_on_user(self) -> bool:
        return not self.overrides(*READ_METHODS)

    def describe_readers(self, channel: str) -> str:
        rule = access_rules().get(channel)
        staff = str(_("staff with permission to view messages"))
        if rule is not None and rule_decides(channel):
            readers = {
                Access.PUBLIC: _("everyone, by the channel's settings"),
                Access.LOGGED_IN: _("users who are logged in, by the channel's settings"),
                Access.STAFF: _("staff, by the channel's settings"),
                Access.GROUPS: _("members of the channel's groups, and staff with permission to view messages"),
            }
            return str(readers.get(Access(rule.access), staff))
        if is_public(channel):
            return str(_("everyone, by PUBLIC_CHANNELS"))
        if channel.startswith(USER_PREFIX) and channel != USER_PREFIX:
            if rule is None or rule.access in (Access.PUBLIC, Access.LOGGED_IN):
                return str(_("this user, and staff with permission to view messages"))
            return str(_("this user, if the channel's settings admit them, and staff with permission to view messages"))
        return staff

    def denied_message(self, channels: Sequence[str]) -> str:
        remedy = _(
            "To open a channel to everyone, add it to STREAMS['PUBLIC_CHANNELS'] (patterns such as 'score.*' match "
            "too), or choose its readers in the admin. For other rules, set STREAMS['POLICY']."
        )
        return f"{super().denied_message(channels)} {remedy}"


def _can_read(request: HttpRequest, channel: str, rules: Rules) -> bool:
    rule = rules.get(channel)
    if is_open(channel, rule):
        return True
    if (token := token_of(request)) is not None:
        return token.may_read(channel)
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated or not user.is_active:
        return False
    # These rarely need a query. The permission does, so that it comes last.
    is_own = channel == f"{USER_PREFIX}{user.pk}"
    if is_own if rule is None else rule.admits(user) and (is_own or rule_decides(channel)):
        return True
    return _is_staff_with(request, "streams.view_message")


def _is_loaded_by_django(request: HttpRequest) -> bool:
    """Return True if only Django's own code loads the request's session, user and permissions.

    Other code could wait for another service, and the reads of the log would wait for a thread in the meantime.
    """
    backends = django_settings.AUTHENTICATION_BACKENDS
    return (
        list(backends) == ["django.contrib.auth.backends.ModelBackend"]
        and django_settings.SESSION_ENGINE.startswith("django.contrib.sessions.backends.")
        and has_sessions_user(request)
    )


def _is_staff_with(request: HttpRequest, *permissions: str) -> bool:
    """Return True if the request's user is active staff and has at least one of the permissions."""
    user: Any = getattr(request, "user", None)
    is_staff = user and user.is_active and getattr(user, "is_staff", False)
    return bool(is_staff) and any(has_permission(user, permission) for permission in permissions)


def has_permission(user: Any, permission: str) -> bool:
    """Return True if `user` has the permission. A custom user model without has_perm() has none."""
    has_perm = getattr(user, "has_perm", None)
    return has_perm is not None and bool(has_perm(permission))


def are_known_to_be_open(channels: Iterable[str]) -> bool:
    """Return True if it is known without a query that everyone can read all of `channels`.

    Return False if the site has its own policy, or if this process has not read the channels' settings recently.
    """
    if (rules := known_rules()) is None or type(get_policy()) is not DefaultPolicy:
        return False
    return all(is_open(channel, rules.get(channel)) for channel in channels)


@functools.cache
def get_policy() -> BasePolicy:
    """Return the instance of STREAMS['POLICY'] that serves this process."""
    policy: BasePolicy = import_string(settings.POLICY)()
    return policy


on_settings_change(get_policy.cache_clear)
