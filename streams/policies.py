"""Who may subscribe, and who may publish through the site's own doors. Deny first; what a refusal says is decided here.

Calling publish() in code asks no policy: whoever can run code can publish.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from asgiref.sync import sync_to_async
from django.core.signals import setting_changed
from django.http import HttpRequest
from django.utils.module_loading import import_string

from streams.conf import settings


class BasePolicy:
    """Decides over requests. Subclass it, and name the subclass in STREAMS['POLICY']; the base class denies everything.

    The sync methods may use the ORM. The async ones, which the views call, run them in the request's thread; override
    them where there is an answer without a query. One instance serves all threads: keep no state of a request.
    """

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        """Whether the request may read `channel`, a well-formed name that need not exist yet."""
        return False

    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        """Whether the request may publish to `channel`."""
        return False

    async def acan_subscribe(self, request: HttpRequest, channel: str) -> bool:
        """See can_subscribe()."""
        return await sync_to_async(self.can_subscribe)(request, channel)

    async def acan_publish(self, request: HttpRequest, channel: str) -> bool:
        """See can_publish()."""
        return await sync_to_async(self.can_publish)(request, channel)

    async def arefused(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        """Those of `channels` that the request may not read. One refused channel refuses the stream."""
        return [channel for channel in channels if not await self.acan_subscribe(request, channel)]

    def refusal(self, channels: Sequence[str]) -> str:
        """What a client is told whose request for `channels` is refused."""
        return f"You may not read {' and '.join(channels)}."


class DefaultPolicy(BasePolicy):
    """Admits everyone to channels that match PUBLIC_CHANNELS, each user to `user.<pk>`, and to all channels those staff
    who may view messages (`streams.view_message`). Lets those publish who may add messages (`streams.add_message`).
    """

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return is_public(channel) or self._admits(getattr(request, "user", None), channel)

    async def acan_subscribe(self, request: HttpRequest, channel: str) -> bool:
        # A public channel is decided without the user, and so without a query for the session; not where a subclass
        # has a rule of its own, which may be stricter.
        if type(self).can_subscribe is DefaultPolicy.can_subscribe and is_public(channel):
            return True
        return await sync_to_async(self.can_subscribe)(request, channel)

    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        user = getattr(request, "user", None)
        return bool(user and user.is_active and user.is_staff and user.has_perm("streams.add_message"))

    def _admits(self, user: Any, channel: str) -> bool:
        if user is None or not user.is_authenticated or not user.is_active:
            return False
        if channel == f"user.{user.pk}":
            return True
        return bool(user.is_staff and user.has_perm("streams.view_message"))

    def refusal(self, channels: Sequence[str]) -> str:
        return (
            f"{super().refusal(channels)} To open a channel to everyone, add it to STREAMS['PUBLIC_CHANNELS'] "
            "(patterns such as 'score.*' match too); to decide otherwise, set STREAMS['POLICY']."
        )


def is_public(channel: str) -> bool:
    """Whether a pattern of PUBLIC_CHANNELS matches. Case counts; `*` matches dots as well."""
    return any(fnmatchcase(channel, pattern) for pattern in settings.PUBLIC_CHANNELS)


_policy: BasePolicy | None = None


def get_policy() -> BasePolicy:
    """This process's policy, as STREAMS['POLICY'] names it."""
    global _policy
    if _policy is None:
        _policy = import_string(settings.POLICY)()
    return _policy


def _forget(*, setting: str, **kwargs: Any) -> None:
    global _policy
    if setting == "STREAMS":
        _policy = None


setting_changed.connect(_forget)  # sent by override_settings, in tests
