"""Who may subscribe, and who may publish through the site's own doors. Deny first; what a refusal says is decided here.

Calling publish() in code asks no policy: whoever can run code can publish.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from streams.channels import (
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
from streams.events import USER_PREFIX
from streams.runtime.resets import on_settings_change
from streams.tokens import atoken_of, token_of

# The methods with a rule for reading, and for publishing; and their async twins.
READING = ("can_subscribe", "refused")
READING_ASYNC = ("acan_subscribe", "arefused")
# All that DefaultPolicy decides by who may read.
DECIDING = (
    *READING,
    *READING_ASYNC,
    "ask_to_read",
    "aask_to_read",
    "_admits",
    "_arefused",
    "_depth",
    "_is_staff_who_may",
    "_is_the_sites",
)
PUBLISHING = ("can_publish", "refused_to_publish")
PUBLISHING_ASYNC = ("acan_publish", "arefused_to_publish")
# The same for publishing.
DECIDING_TO_PUBLISH = (
    *PUBLISHING,
    *PUBLISHING_ASYNC,
    "ask_to_publish",
    "aask_to_publish",
    "_arefused_to_publish",
    "_depth",
    "_is_staff_who_may",
    "_is_the_sites",
)


class BasePolicy:
    """Decides over requests. Subclass it, and name the subclass in STREAMS['POLICY']; the base class denies everything.

    The sync methods may use the ORM. The async ones, which the views call, run them in the request's thread, once for
    all channels of a request; override them where there is an answer without a query. Where many channels can be
    decided by one query, override `refused`, which then decides alone. One instance serves all threads: keep no state
    of a request.

    A policy is asked again about a stream that is open (every RECHECK_SECONDS, and where something has changed): with
    a copy of the stream's request, whose session and user are loaded anew.
    """

    def reads_by_user_alone(self) -> bool:
        """Return True if who may read depends on nothing of a request but its user and its token.

        One decision then holds for all streams of a session. A policy of the site's own can look at anything.
        """
        return False

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        """Whether the request may read `channel`, a well-formed name that need not exist yet."""
        return False

    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        """Whether the request may publish to `channel`."""
        return False

    async def acan_subscribe(self, request: HttpRequest, channel: str) -> bool:
        """See can_subscribe()."""
        return not await self._arefused(request, [channel])

    async def acan_publish(self, request: HttpRequest, channel: str) -> bool:
        """See can_publish()."""
        return not await self._arefused_to_publish(request, [channel])

    # --- Many channels at once ---

    def refused(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """Those of `channels` that the request may not read. One refused channel refuses the stream."""
        return [channel for channel in channels if not self.can_subscribe(request, channel)]

    async def arefused(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """See refused()."""
        if self._is_the_sites("acan_subscribe"):
            return [channel for channel in channels if not await self.acan_subscribe(request, channel)]
        return await self._arefused(request, channels)

    def refused_to_publish(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """Those of `channels` that the request may not publish to. One refused channel refuses all."""
        return [channel for channel in channels if not self.can_publish(request, channel)]

    async def arefused_to_publish(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """See refused_to_publish()."""
        if self._is_the_sites("acan_publish"):
            return [channel for channel in channels if not await self.acan_publish(request, channel)]
        return await self._arefused_to_publish(request, channels)

    # As the classes of this module have it, where the site has no rule that is async.

    async def _arefused(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        return await sync_to_async(self.refused)(request, channels)

    async def _arefused_to_publish(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        return await sync_to_async(self.refused_to_publish)(request, channels)

    # --- What callers use; not to be overridden ---

    # Where a subclass has a rule in one colour alone, it holds for sync and async callers: of the methods for reading,
    # or for publishing, those count that the more derived class has.

    def ask_to_read(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """Those of `channels` that the request may not read, by whichever of the methods above is the site's rule."""
        if self._depth(*READING_ASYNC) < self._depth(*READING):
            return async_to_sync(self.arefused)(request, channels)
        return self.refused(request, channels)

    async def aask_to_read(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """See ask_to_read()."""
        if self._depth(*READING) < self._depth(*READING_ASYNC):
            return await sync_to_async(self.refused)(request, channels)
        return await self.arefused(request, channels)

    def ask_to_publish(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """Those of `channels` that the request may not publish to. See ask_to_read()."""
        if self._depth(*PUBLISHING_ASYNC) < self._depth(*PUBLISHING):
            return async_to_sync(self.arefused_to_publish)(request, channels)
        return self.refused_to_publish(request, channels)

    async def aask_to_publish(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """See ask_to_publish()."""
        if self._depth(*PUBLISHING) < self._depth(*PUBLISHING_ASYNC):
            return await sync_to_async(self.refused_to_publish)(request, channels)
        return await self.arefused_to_publish(request, channels)

    def ask_to_grant_pattern(self, request: HttpRequest, pattern: str, *, to_publish: bool) -> bool:
        """Return True if the request's user may make tokens for `pattern`.

        False if a class has rules and inherits can_grant_pattern(): the inherited answer does not know these rules.
        """
        rules = DECIDING_TO_PUBLISH if to_publish else DECIDING
        is_up_to_date = self._depth("can_grant_pattern") <= self._depth(*rules)
        return is_up_to_date and self.can_grant_pattern(request, pattern, to_publish=to_publish)

    def _depth(self, *names: str) -> int:
        """How far up the nearest class of the site's lies that has one of the methods; this module's have them all."""
        return next(
            depth
            for depth, each in enumerate(type(self).__mro__)
            if each.__module__ == __name__ or not vars(each).keys().isdisjoint(names)
        )

    def _is_the_sites(self, *names: str) -> bool:
        """Whether a class of the site's has one of the methods."""
        return type(self).__mro__[self._depth(*names)].__module__ != __name__

    # --- What else there is to decide ---

    def can_grant_pattern(self, request: HttpRequest, pattern: str, *, to_publish: bool) -> bool:
        """Return True if the request's user may make tokens for all channels that match `pattern`.

        It is asked when a token is made. A token is then judged by what it names, not by the rules of this class. For
        a channel's name, each user who can read it or publish to it can make a token that does.
        """
        return False

    def can_broadcast(self, request: HttpRequest, channel: str) -> bool:
        """Whether the request's user may write and send broadcasts to `channel` in the admin.

        Asked in addition to the permissions for broadcasts, so that a policy can give each user their own channels.
        """
        return not self.ask_to_publish(request, [channel])

    def readers(self, channel: str) -> str:
        """Who may read `channel`, in words for staff. They decide nothing."""
        return str(_("whoever the site's policy admits"))

    def refusal(self, channels: Sequence[str]) -> str:
        """What a client is told whose request to read `channels` is refused."""
        return _("You may not read %(channels)s.") % {"channels": ", ".join(channels)}

    def refusal_to_publish(self, channels: Sequence[str]) -> str:
        """What a client is told whose request to publish to `channels` is refused."""
        return _("You may not publish to %(channels)s.") % {"channels": ", ".join(channels)}


class DefaultPolicy(BasePolicy):
    """Admits those whom the channel's settings in the admin name. Where they name nobody: everyone to channels that
    match PUBLIC_CHANNELS, and each user to `user.<pk>`. Staff who may view messages (`streams.view_message`) read all.

    Lets those publish who may add messages (`streams.add_message`), and those broadcast who may do more to broadcasts
    than look; what that is, the permissions say.

    A request with a signed token is judged by the token alone: besides open channels it reads those that the token
    names, and publishes to those that the token names, whoever is signed in.

    Channels of the prefixes `user.` and `generation.` are opened by no settings in the admin, which can only narrow
    them, and by a pattern of PUBLIC_CHANNELS only if it begins with the prefix.
    """

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return self._admits(request, channel, access_rules())

    def refused(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        if self._is_the_sites("can_subscribe"):
            return super().refused(request, channels)
        rules = access_rules()
        return [channel for channel in channels if not self._admits(request, channel, rules)]

    async def _arefused(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        if not self._is_the_sites(*READING):
            # What is open, or what a token grants, is decided without the user, and so without a query and a thread.
            rules = await aaccess_rules()
            channels = [channel for channel in channels if not is_open(channel, rules.get(channel))]
            if channels and (token := await atoken_of(request)) is not None:
                return [channel for channel in channels if not token.may_read(channel)]
        return await super()._arefused(request, channels) if channels else []

    def reads_by_user_alone(self) -> bool:
        """Return True if who may read depends on nothing of a request but its user and its token.

        So it is unless a subclass has changed one of the methods that decide.
        """
        return not self.has_changed(DECIDING)

    def has_changed(self, names: Sequence[str]) -> bool:
        """Return True if a subclass, or this instance, has a version of its own of one of the methods."""
        if not vars(self).keys().isdisjoint(names):
            return True
        return any(getattr(type(self), name) is not getattr(DefaultPolicy, name) for name in names)

    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        if (token := token_of(request)) is not None:
            return token.may_publish(channel)
        return self._is_staff_who_may(request, "streams.add_message")

    async def _arefused_to_publish(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        if not self._is_the_sites(*PUBLISHING) and (token := await atoken_of(request)) is not None:
            return [channel for channel in channels if not token.may_publish(channel)]
        return await super()._arefused_to_publish(request, channels)

    def can_grant_pattern(self, request: HttpRequest, pattern: str, *, to_publish: bool) -> bool:
        """Return True for staff with the permission for all channels. See BasePolicy.can_grant_pattern().

        False, also for super().can_grant_pattern(), if a subclass has rules of its own: it can be narrower than the
        pattern. Such a subclass decides here by itself, without asking super().
        """
        if self.has_changed(DECIDING_TO_PUBLISH if to_publish else DECIDING):
            return False
        permission = "streams.add_message" if to_publish else "streams.view_message"
        return token_of(request) is None and self._is_staff_who_may(request, permission)

    def can_broadcast(self, request: HttpRequest, channel: str) -> bool:
        user = getattr(request, "user", None)
        if not (user and user.is_active and getattr(user, "is_staff", False)):
            return False
        # A subclass that is stricter about publishing means broadcasts as well.
        if self._is_the_sites(*PUBLISHING, *PUBLISHING_ASYNC) and self.ask_to_publish(request, [channel]):
            return False
        verbs = ("add", "change", "send", "schedule", "delete")
        return any(has_permission(user, f"streams.{verb}_broadcast") for verb in verbs)

    def _admits(self, request: HttpRequest, channel: str, rules: Rules) -> bool:
        rule = rules.get(channel)
        if is_open(channel, rule):
            return True
        if (token := token_of(request)) is not None:
            return token.may_read(channel)
        user = getattr(request, "user", None)
        if user is None or not user.is_authenticated or not user.is_active:
            return False
        # First what mostly needs no query.
        is_own = channel == f"{USER_PREFIX}{user.pk}"
        if is_own if rule is None else rule.admits(user) and (is_own or rule_decides(channel)):
            return True
        return self._is_staff_who_may(request, "streams.view_message")

    @staticmethod
    def _is_staff_who_may(request: HttpRequest, permission: str) -> bool:
        user: Any = getattr(request, "user", None)
        return bool(user and user.is_active and getattr(user, "is_staff", False) and has_permission(user, permission))

    def readers(self, channel: str) -> str:
        rule = access_rules().get(channel)
        staff = str(_("staff who may view messages"))
        if rule is not None and rule_decides(channel):
            who = {
                Access.PUBLIC: _("everyone, by the channel's settings"),
                Access.SIGNED_IN: _("users who are signed in, by the channel's settings"),
                Access.STAFF: _("staff, by the channel's settings"),
                Access.GROUPS: _("members of the channel's groups, and staff who may view messages"),
            }
            return str(who.get(Access(rule.access), staff))
        if is_public(channel):
            return str(_("everyone, by PUBLIC_CHANNELS"))
        if channel.startswith(USER_PREFIX) and channel != USER_PREFIX:
            if rule is None or rule.access in (Access.PUBLIC, Access.SIGNED_IN):
                return str(_("this user, and staff who may view messages"))
            return str(_("this user, if the channel's settings admit them, and staff who may view messages"))
        return staff

    def refusal(self, channels: Sequence[str]) -> str:
        remedy = _(
            "To open a channel to everyone, add it to STREAMS['PUBLIC_CHANNELS'] (patterns such as 'score.*' match "
            "too), or say in the admin who may read it; to decide otherwise, set STREAMS['POLICY']."
        )
        return f"{super().refusal(channels)} {remedy}"


def has_permission(user: Any, permission: str) -> bool:
    """Whether a user of any kind has a permission: a site's own kind may know none."""
    ask = getattr(user, "has_perm", None)
    return ask is not None and bool(ask(permission))


def are_known_to_be_open(channels: Iterable[str]) -> bool:
    """Return True if it is known without a query that everyone can read all of `channels`.

    False if the site has a policy of its own, or if this process has not read the channels' settings lately.
    """
    rules = known_rules()
    if rules is None or type(get_policy()) is not DefaultPolicy:
        return False
    return all(is_open(channel, rules.get(channel)) for channel in channels)


_policy: BasePolicy | None = None


def get_policy() -> BasePolicy:
    """This process's policy, as STREAMS['POLICY'] names it."""
    global _policy
    if _policy is None:
        _policy = import_string(settings.POLICY)()
    return _policy


def _forget() -> None:
    global _policy
    _policy = None


on_settings_change(_forget)
