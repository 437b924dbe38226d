"""What is known of channels besides their messages: who may read them and how long they keep, as staff have settled it.

Access rules are asked for by every request for a stream, so each process keeps them for POLL_SECONDS. The log's own
record of a channel, how far it was pruned, is log.py's.
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

from streams import outages, threads
from streams.conf import settings
from streams.events import private_prefix
from streams.models import ChannelGroup, ChannelSettings
from streams.runtime import test_run
from streams.runtime.tasks import spawn
from streams.threads import database

logger = logging.getLogger("streams")

Access = ChannelSettings.Access

# A process that has never read the rules admits nobody by guess. It waits so long for its database before it says so:
# an EventSource waits along, but gives up for good at an error.
WAIT_FOR_RULES_SECONDS = 30.0

# How old the rules can be that decide without a query. Open streams are judged again, and so the rules read again,
# every RECHECK_SECONDS.
KNOWN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may read a channel; it stands above PUBLIC_CHANNELS. `groups`: primary keys, for Access.GROUPS."""

    access: str
    groups: frozenset[Any] = frozenset()

    def admits(self, user: Any) -> bool:
        """Whether `user`, of any kind, may read. May query the user's groups, once for all channels of a request."""
        if self.access == Access.PUBLIC:
            return True
        if user is None or not user.is_authenticated or not user.is_active:
            return False
        if self.access == Access.SIGNED_IN:
            return True
        if self.access == Access.STAFF:
            return bool(getattr(user, "is_staff", False))
        return bool(self.groups) and not self.groups.isdisjoint(_groups_of(user))


def _groups_of(user: Any) -> frozenset[Any]:
    # Kept with the user as Django's ModelBackend keeps permissions: for as long as a request.
    found: frozenset[Any] | None = getattr(user, "_streams_groups", None)
    if found is None:
        groups = getattr(user, "groups", None)  # a site's own kind of user may have none
        found = frozenset() if groups is None else frozenset(groups.values_list("pk", flat=True))
        user._streams_groups = found
    return found


def is_open(channel: str, rule: Rule | None) -> bool:
    """Return True if everyone may read `channel`: by its own rule if it has one, else by PUBLIC_CHANNELS."""
    return is_public(channel) if rule is None else rule.access == Access.PUBLIC and rule_decides(channel)


def rule_decides(channel: str) -> bool:
    """Return True if a rule for `channel` admits all whom it names.

    A rule for a channel that belongs to a user or an answer opens nothing. It can only keep readers out.
    """
    return not private_prefix(channel) or is_public(channel)


def is_public(channel: str) -> bool:
    """Return True if a pattern of PUBLIC_CHANNELS matches. Case counts; `*` matches dots as well.

    For a channel that belongs to a user or an answer, the pattern must begin with the same prefix: `*` is not enough.
    """
    prefix = private_prefix(channel)
    return any(pattern.startswith(prefix) and fnmatchcase(channel, pattern) for pattern in settings.PUBLIC_CHANNELS)


Rules = Mapping[str, Rule]

_rules: Rules | None = None
_read_at = float("-inf")
_confirmed_at = float("-inf")  # unlike _read_at, not renewed by a load that failed
_changes = 0  # of the rules, that this process knows of
# With the number of changes at which the load began: who asks after a change does not take an answer from before it.
_loading: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, asyncio.Task[Rules]]] = WeakKeyDictionary()


def access_rules() -> Rules:
    """{channel: rule} of the channels for which staff have settled who may read. At most POLL_SECONDS old.

    Raises django.db.Error where they cannot be read, and never could; else what was read last holds on.
    """
    rules = _fresh()
    return _load() if rules is None else rules


def known_rules() -> Rules | None:
    """Return the rules if this process has read them in the last KNOWN_SECONDS, or else None. Never queries."""
    return _rules if time.monotonic() - _confirmed_at < KNOWN_SECONDS else None


async def aaccess_rules() -> Rules:
    """See access_rules(). Who asks at the same time shares one query.

    Where the database does not answer, known rules hold after a moment; a process that knows none waits for it.
    """
    if (rules := _fresh()) is not None:
        return rules
    threads.sync_caller()  # if one waits for this loop, the load needs that thread: let it know the way to it
    loop = asyncio.get_running_loop()
    began, task = _loading.get(loop, (-1, None))
    if task is None or task.done() or began != _changes:
        task = spawn(_load_patiently(), awaited=True)
        _loading[loop] = mine = (_changes, task)
        # Taken out when it is done: a task knows its loop, and would keep it.
        task.add_done_callback(lambda _: _loading.pop(loop) if _loading.get(loop) is mine else None)
    if _rules is None:
        return await asyncio.shield(task)
    await asyncio.wait([task], timeout=settings.POLL_SECONDS)
    return task.result() if task.done() else _rules


async def _load_patiently() -> Rules:
    end = time.monotonic() + WAIT_FOR_RULES_SECONDS
    while True:
        try:
            return await threads.run(_load)
        except Error as error:
            if time.monotonic() > end or outages.is_not_migrated(error):
                raise
            await asyncio.sleep(0.5)


def _fresh() -> Rules | None:
    is_young = time.monotonic() - _read_at < test_run.strategy().cache_seconds(settings.POLL_SECONDS)
    return _rules if is_young else None


def _load() -> Rules:
    global _rules, _read_at, _confirmed_at
    changes, has_read = _changes, False
    try:
        rules = _read()
        has_read = True
    except Error:
        if _rules is None:
            raise
        outages.report(logger, "The channels' access rules could not be read; the last known ones hold.")
        rules = _rules
    else:
        outages.DATABASE.works()
    # Somebody may have changed them meanwhile: then whoever asks next reads them again. And what is read within a
    # transaction may be its own, and never be committed, or old.
    if changes == _changes and not connections[database()].in_atomic_block:
        _rules, _read_at = rules, time.monotonic()
        if has_read:
            _confirmed_at = _read_at
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
    """Connect to the model's signals. Other processes find out within POLL_SECONDS."""
    for signal in (post_save, post_delete):
        signal.connect(_forget_now_and_after_commit, sender=ChannelSettings)
    m2m_changed.connect(_forget_now_and_after_commit, sender=ChannelSettings.groups.through)


# --- Groups -----------------------------------------------------------------------------------------------------------

# Not by ChannelSettings.groups: that joins the two tables, and the groups can be in another database.


def group_keys(channel: str) -> list[Any]:
    """Return the primary keys of the groups whose members can read a channel."""
    return list(_members().filter(channelsettings=channel).values_list("group_id", flat=True))


def groups_of(channel: str) -> QuerySet[Group]:
    """Return the groups whose members can read a channel, by name."""
    return Group.objects.filter(pk__in=group_keys(channel)).order_by("name")


def set_groups(channel: str, groups: Iterable[Group]) -> None:
    """Store the groups whose members can read a channel.

    Call it in the transaction that saves the channel's settings: open streams are judged again after that.
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
    """{channel: retention} of the channels that have one of their own."""
    stored = ChannelSettings.objects.using(database()).exclude(retention_seconds=None, retention_messages=None)
    rows = stored.values_list("channel", "retention_seconds", "retention_messages")
    return {channel: Retention(seconds, messages) for channel, seconds, messages in rows}
