"""Detect changes of a channel's settings that allow more readers. They require the permission to view messages."""

from __future__ import annotations

from streams.channels.policy_methods import READ_METHODS
from streams.channels.rules import Access, Rule, group_keys, is_public
from streams.models import ChannelSettings
from streams.policies import DefaultPolicy, get_policy
from streams.protocol.events import USER_PREFIX

# Users with this permission can read every channel already, so they gain nothing by opening one.
PERMISSION = "streams.view_message"

EVERYONE = Rule(Access.PUBLIC)
NO_READERS = Rule(Access.GROUPS)


def rule_of(row: ChannelSettings | None) -> Rule | None:
    """Return the stored rule. None means that the site's settings and policy decide."""
    if row is None or row.access == Access.DEFAULT:
        return None
    return Rule(row.access, frozenset(group_keys(row.channel) if row.access == Access.GROUPS else ()))


def allows_more_readers(channel: str, new: Rule | None, old: Rule | None) -> bool:
    """Return True if `new` allows, or could allow, a reader of `channel` that `old` does not."""
    if new == old:
        return False
    return _is_looser(
        _widest_default(channel) if new is None else new, _narrowest_default(channel) if old is None else old
    )


def _is_looser(new: Rule, old: Rule) -> bool:
    if old == EVERYONE or new in (NO_READERS, old):
        return False
    if old.access == Access.LOGGED_IN:
        return new.access == Access.PUBLIC
    if old.access == new.access == Access.GROUPS:
        return not new.groups <= old.groups
    # This includes staff and members of groups, because neither includes the other.
    return True


# A custom policy can allow readers that the site's settings do not name. Both functions then assume the worst case.


def _widest_default(channel: str) -> Rule:
    policy = get_policy()
    if is_public(channel) or not isinstance(policy, DefaultPolicy) or policy.overrides(*READ_METHODS):
        return EVERYONE
    # A user's own channel has one reader, who is logged in.
    return Rule(Access.LOGGED_IN) if channel.startswith(USER_PREFIX) else NO_READERS


def _narrowest_default(channel: str) -> Rule:
    return EVERYONE if is_public(channel) and isinstance(get_policy(), DefaultPolicy) else NO_READERS
