"""Which changes of a channel's settings let more people read it. These need the permission to view messages."""

from __future__ import annotations

from streams.channels import Access, Rule, group_keys, is_public
from streams.events import USER_PREFIX
from streams.models import ChannelSettings
from streams.policies import DECIDING, DefaultPolicy, get_policy

# Users with this permission read every channel already, so opening one gives them nothing new.
PERMISSION = "streams.view_message"

EVERYONE = Rule(Access.PUBLIC)
NOBODY = Rule(Access.GROUPS)


def rule_of(row: ChannelSettings | None) -> Rule | None:
    """Return the stored rule; None if the site's settings and policy decide."""
    if row is None or row.access == Access.DEFAULT:
        return None
    return Rule(row.access, frozenset(group_keys(row.channel) if row.access == Access.GROUPS else ()))


def admits_more(channel: str, new: Rule | None, old: Rule | None) -> bool:
    """Return True if `new` admits someone to `channel` whom `old` does not admit, or could do so."""
    if new == old:
        return False
    return _is_looser(
        _most_by_default(channel) if new is None else new, _least_by_default(channel) if old is None else old
    )


def _is_looser(new: Rule, old: Rule) -> bool:
    if old == EVERYONE or new in (NOBODY, old):
        return False
    if old.access == Access.SIGNED_IN:
        return new.access == Access.PUBLIC
    if old.access == new.access == Access.GROUPS:
        return not new.groups <= old.groups
    # Also between staff and members of groups: neither of them includes the other.
    return True


# A policy of the site's own can admit others than its settings name. Then both answers are on the safe side.


def _most_by_default(channel: str) -> Rule:
    policy = get_policy()
    if is_public(channel) or not isinstance(policy, DefaultPolicy) or policy.has_changed(DECIDING):
        return EVERYONE
    # A user's channel has one reader, who is signed in.
    return Rule(Access.SIGNED_IN) if channel.startswith(USER_PREFIX) else NOBODY


def _least_by_default(channel: str) -> Rule:
    return EVERYONE if is_public(channel) and isinstance(get_policy(), DefaultPolicy) else NOBODY
