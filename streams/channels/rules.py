"""The settings of channels that staff make in the admin: who can read a channel, and how long it keeps messages.

Every request for a stream needs the access rules, so that each process caches them for POLL_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakKeyDictionary

from django.contrib.auth.models import Group
from django.db import Error, connections, transaction
from django.db.models import QuerySet
from django.db.models.signals import m2m_changed, post_delete, post_save

from streams.conf import settings
from streams.models import ChannelGroup, ChannelSettings
from streams.protocol.events import private_prefix
from streams.runtime import executor, failures, test_run
from streams.runtime.executor import database
from streams.runtime.tasks import spawn

logger = logging.getLogger("streams")

Access = ChannelSettings.Access

# A process that has never read the rules cannot decide. It waits for the database this long before it answers with an
# error, because an EventSource does not reconnect after an error.
WAIT_FOR_RULES_SECONDS = 30.0

# The maximum age of rules that decide without a query. They are usually younger, because they are read again when open
# streams are checked, every RECHECK_SECONDS.
KNOWN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Rule:
    """Who can read a channel. It takes precedence over PUBLIC_CHANNELS. `groups`: primary keys, for Access.GROUPS."""

    access: str
    groups: frozenset[Any] = frozenset()

    def admits(self, user: Any) -> bool:
        """Return True if `user`, of any user model, can read. Groups are queried once per request."""
        if self.access == Access.PUBLIC:
            return True
        if user is None or not user.is_authenticated or not user.is_active:
            return False
        if self.access == Access.LOGGED_IN:
            return True
        if self.access == Access.STAFF:
            return bool(getattr(user, "is_staff", False))
        return bool(self.groups) and not self.groups.isdisjoint(_groups_of(user))


def _groups_of(user: Any) -> frozenset[Any]:
    # They are cached on the user, as Django's ModelBackend caches permissions, and so for one request.
    found: frozenset[Any] | None = getattr(user, "_streams_groups", None)
    if found is None:
        groups = getattr(user, "groups", None)  # a custom user model can lack them
        found = frozenset() if groups is None else frozenset(groups.values_list("pk", flat=True))
        user._streams_groups = found
    return found


def is_open(channel: str, rule: Rule | None) -> bool:
    """Return True if everyone can read `channel`: by its own rule if it has one, or else by PUBLIC_CHANNELS."""
    return is_public(channel) if rule is None else rule.access == Access.PUBLIC and rule_decides(channel)


def rule_decides(channel: str) -> bool:
    """Return True if a rule can allow users to read `channel`.

    A rule for a channel that belongs to a user or an answer can only restrict it further.
    """
    return not private_prefix(channel) or is_public(channel)


def is_public(channel: str) -> bool:
    """Return True if a pattern of PUBLIC_CHANNELS matches. Matching is case-sensitive, and `*` matches dots as well.

    For a channel that belongs to a user or an answer, the pattern must begin with the same prefix: `*` is not enough.
    """
    prefix = private_prefix(channel)
    return any(pattern.startswith(prefix) and fnmatchcase(channel, pattern) for pattern in settings.PUBLIC_CHANNELS)


Rules = Mapping[str, Rule]

_rules: Rules | None = None
_read_at = float("-inf")
_confirmed_at = float("-inf")  # unlike _read_at, it is not updated if a query fails
_changes = 0  # the number of changes to the rules that this process knows of
# Each task is stored with the number of changes when it began, so that a caller after a change does not use it.
_loading: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, asyncio.Task[Rules]]] = WeakKeyDictionary()


def access_rules() -> Rules:
    """Return {channel: rule} for the channels with a rule, at most POLL_SECONDS old.

    If the query fails, return the rules that were read last. Raise django.db.Error if this process never read any.
    """
    rules = _fresh()
    return _load() if rules is None else rules


def known_rules() -> Rules | None:
    """Return the rules if this process has read them in the last KNOWN_SECONDS, or else None. It never queries."""
    return _rules if time.monotonic() - _confirmed_at < KNOWN_SECONDS else None


async def aaccess_rules() -> Rules:
    """See access_rules(). Concurrent callers share one query.

    If the database does not answer, return the last known rules after POLL_SECONDS. A process that knows none waits up
    to WAIT_FOR_RULES_SECONDS.
    """
    if (rules := _fresh()) is not None:
        return rules
    executor.sync_caller()  # if one waits for this loop, the load needs that thread: let it know the way to it
    loop = asyncio.get_running_loop()
    began, task = _loading.get(loop, (-1, None))
    if task is None or task.done() or began != _changes:
        task = spawn(_load_patiently(), awaited=True)
        _loading[loop] = mine = (_changes, task)
        # It is removed when it is done, because a task has a reference to its loop.
        task.add_done_callback(lambda _: _loading.pop(loop) if _loading.get(loop) is mine else None)
    if _rules is None:
        return await asyncio.shield(task)
    await asyncio.wait([task], timeout=settings.POLL_SECONDS)
    return task.result() if task.done() else _rules


async def _load_patiently() -> Rules:
    end = time.monotonic() + WAIT_FOR_RULES_SECONDS
    while True:
        try:
            return await executor.run(_load)
        except Error as error:
            if time.monotonic() > end or failures.is_not_migrated(error):
                raise
            await asyncio.sleep(0.5)


def _fresh() -> Rules | None:
    is_young = time.monotonic() - _read_at < test_run.strategy().cache_seconds(settings.POLL_SECONDS)
    return _rules if is_young else None


def _load() -> Rules:
    global _rules, _read_at, _confirmed_at
    changes, confirmed_at = _changes, _confirmed_at
    try:
        rules = _read()
    except Error:
        if _rules is None:
            raise
        failures.report(logger, "Could not read the channels' access rules. The last known rules stay in force.")
        rules = _rules
    else:
        failures.DATABASE.recovered()
        confirmed_at = time.monotonic()
    # If the rules changed during the query, the next caller reads them again. Rules that were read in a transaction are
    # not kept either: they can be uncommitted, or outdated.
    if changes == _changes and not connections[database()].in_atomic_block:
        _rules, _read_at, _confirmed_at = rules, time.monotonic(), confirmed_at
    return rules


def _read() -> Rules:
    stored = ChannelSettings.objects.using(database()).exclude(access=Access.DEFAULT)
    rows = list(stored.values_list("channel", "access"))
    grouped: dict[str, set[Any]] = {}
    if any(access == Access.GROUPS for _, access in rows):
        members = _members().filter(channelsettings__access=Access.GROUPS)
        for channel, group in members.values_list("channelsettings_id", "group_id"):
            grouped.setdefault(channel, set()).add(group)
    return {channel: Rule(access, frozenset(grouped.get(channel, ()))) for channel, access in rows}


def forget_rules(**kwargs: Any) -> None:
    """Read the rules again at the next request."""
    global _read_at, _confirmed_at, _changes
    _changes += 1
    _read_at = _confirmed_at = float("-inf")


def _forget_now_and_after_commit(**kwargs: Any) -> None:
    forget_rules()
    transaction.on_commit(forget_rules, using=database())


def forget_rules_when_settings_change() -> None:
    """Connect to the model's signals. Other processes notice a change within POLL_SECONDS."""
    for signal in (post_save, post_delete):
        signal.connect(_forget_now_and_after_commit, sender=ChannelSettings)
    m2m_changed.connect(_forget_now_and_after_commit, sender=ChannelSettings.groups.through)


# --- Groups -----------------------------------------------------------------------------------------------------------

# ChannelSettings.groups is not used: it joins the two tables, and the groups can be in another database.


def group_keys(channel: str) -> list[Any]:
    """Return the primary keys of the groups whose members can read a channel."""
    return list(_members().filter(channelsettings=channel).values_list("group_id", flat=True))


def groups_of(channel: str) -> QuerySet[Group]:
    """Return the groups whose members can read a channel, by name."""
    return Group.objects.filter(pk__in=group_keys(channel)).order_by("name")


def set_groups(channel: str, groups: Iterable[Group]) -> None:
    """Store the groups whose members can read a channel.

    Call it in the transaction that saves the channel's settings, because open streams are checked after that commit.
    """
    wanted, stored = {group.pk for group in groups}, set(group_keys(channel))
    _members().filter(channelsettings=channel, group__in=stored - wanted).delete()
    _members().bulk_create([ChannelGroup(channelsettings_id=channel, group_id=key) for key in wanted - stored])


def forget_group(group_pk: Any) -> None:
    """Take a deleted group from all channels."""
    _members().filter(group=group_pk).delete()


def _members() -> QuerySet[ChannelGroup]:
    return ChannelGroup.objects.using(database())


# --- Retention --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Retention:
    """A channel's own retention. None: as the site's settings say. 0: no limit."""

    seconds: int | None
    messages: int | None


def retentions() -> dict[str, Retention]:
    """Return {channel: retention} for the channels that have a retention of their own."""
    stored = ChannelSettings.objects.using(database()).exclude(retention_seconds=None, retention_messages=None)
    rows = stored.values_list("channel", "retention_seconds", "retention_messages")
    return {channel: Retention(seconds, messages) for channel, seconds, messages in rows}
