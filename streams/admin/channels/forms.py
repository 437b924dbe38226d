"""The form for a channel's settings.

The page contains a digest of the settings that were stored when it was loaded. If the stored settings have changed
since then, the form saves nothing, so that no user overwrites a change that they have not seen.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from django import forms
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db import IntegrityError
from django.db.models import F
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from streams import log
from streams.admin.channels.access import allows_more_readers, rule_of
from streams.admin.channels.details import describe_message_limit, describe_seconds
from streams.channels import rules
from streams.channels.rules import Rule
from streams.conf import settings
from streams.models import ChannelSettings
from streams.models.channels import check_access
from streams.protocol.events import private_prefix
from streams.runtime.executor import database

OTHER = "other"
PRESETS = (3600, 86_400, 7 * 86_400, 30 * 86_400, 90 * 86_400, 365 * 86_400, 0)

# Larger values could not be subtracted from the current date.
MAX_SECONDS = 100 * 365 * 86_400
MAX_MESSAGES = 1_000_000_000

# The number of digits that fit into the integers of every database.
MAX_KEY_DIGITS = 18

NO_SETTINGS = "nothing"


class SettingsChanged(Exception):
    """The stored settings have changed since the form was loaded. Nothing was saved."""


class MoreReadersRefused(Exception):
    """The change would allow more readers, and the user does not have the permission for that. Nothing was saved."""


class GroupsField(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]  # not generic in Django
    """A choice of groups. A primary key that is too large for the database is an invalid choice, not an error."""

    def clean(self, value: Any) -> Any:
        for key in value or ():
            if len(str(key)) > MAX_KEY_DIGITS:
                raise ValidationError(
                    self.error_messages["invalid_choice"], code="invalid_choice", params={"value": str(key)[:100]}
                )
        return super().clean(value)


class ChannelForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic in Django
    """A channel's settings. `keep` offers common durations; `keep_seconds` is for any other duration.

    `can_allow_more_readers`: True if the user has the permission to let more people read the channel.
    """

    field_order = ["title", "access", "groups", "retention_messages"]

    # Not a model field, because a ModelForm requires the groups to be in the same database.
    groups = GroupsField(
        label=gettext_lazy("Groups"),
        queryset=Group.objects.order_by("name"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy("Only for the choice “Members of selected groups”. Choose at least one group."),
    )
    keep = forms.ChoiceField(
        label=gettext_lazy("Keep messages for"),
        required=False,
        help_text=gettext_lazy(
            "Older messages are deleted. Clients that reconnect later are informed that they missed messages."
        ),
    )
    keep_seconds = forms.IntegerField(
        label=gettext_lazy("Seconds"),
        required=False,
        min_value=1,
        max_value=MAX_SECONDS,
        help_text=gettext_lazy("Only for the choice “other”. One day is 86400 seconds."),
    )

    class Meta:
        model = ChannelSettings
        fields: ClassVar = ["title", "access", "retention_messages"]
        labels: ClassVar = {
            "title": gettext_lazy("Title"),
            "access": gettext_lazy("Readers"),
            "retention_messages": gettext_lazy("Maximum number of messages"),
        }
        help_texts: ClassVar = {"title": gettext_lazy("Only for you and your colleagues. It is not sent.")}

    def __init__(self, *args: Any, can_allow_more_readers: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.can_allow_more_readers = can_allow_more_readers
        self._set_access_choices()
        self.initial["groups"] = rules.group_keys(self.instance.channel)
        limit: Any = self.fields["retention_messages"]
        limit.validators.append(MaxValueValidator(MAX_MESSAGES))
        limit.help_text = _("Leave empty to use the site’s setting (%(site)s). 0: no limit.") % {
            "site": describe_message_limit(settings.RETENTION_MESSAGES_PER_CHANNEL)
        }
        self._set_retention_choices()

    def _set_access_choices(self) -> None:
        access: Any = self.fields["access"]
        if private_prefix(self.instance.channel):
            # The field still accepts the other choices, so that clean_access() can explain why they are refused.
            access.widget.choices = [each for each in access.choices if not each[0]]
            access.help_text = _(
                "This channel belongs to one user or to one answer. Its readers cannot be changed here."
            )
        elif not self.can_allow_more_readers:
            access.help_text = _(
                "You can choose fewer readers. To choose more readers, you also need the permission “Can view message”."
            )

    def _set_retention_choices(self) -> None:
        site = _("Use the site’s setting (%(site)s)") % {"site": describe_seconds(settings.RETENTION_SECONDS)}
        presets = [(str(seconds), describe_seconds(seconds)) for seconds in PRESETS]
        keep: Any = self.fields["keep"]
        keep.choices = [("", site), *presets, (OTHER, _("other"))]
        seconds = self.instance.retention_seconds
        if seconds is None:
            self.initial["keep"] = ""
        elif seconds in PRESETS:
            self.initial["keep"] = str(seconds)
        else:
            self.initial.update(keep=OTHER, keep_seconds=seconds)

    def clean_access(self) -> str:
        access: str = self.cleaned_data["access"]
        check_access(self.instance.channel, access)
        return access

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        access, groups = cleaned.get("access"), cleaned.get("groups")
        if access == ChannelSettings.Access.GROUPS and "groups" in cleaned and not groups:
            self.add_error("groups", _("Choose at least one group, or choose other readers."))
        if access != ChannelSettings.Access.GROUPS:
            cleaned["groups"] = Group.objects.none()
        if cleaned.get("keep") == OTHER and "keep_seconds" in cleaned and cleaned["keep_seconds"] is None:
            self.add_error("keep_seconds", _("Enter the number of seconds, or choose another duration."))
        return cleaned

    def store(self, seen: str) -> bool:
        """Save the row and its groups in one transaction. Return True if the channel had no settings before.

        Raises:
            SettingsChanged: `seen` is not the digest of the stored settings.
            MoreReadersRefused: the form allows more readers, and the user does not have the permission for that.
        """
        keep = self.cleaned_data["keep"]
        seconds = self.cleaned_data["keep_seconds"] if keep == OTHER else keep
        row: ChannelSettings = self.save(commit=False)
        row.retention_seconds = None if seconds == "" else int(seconds)
        try:
            with log.own_transaction():
                stored = _lock(row.channel)
                if digest_of(stored) != seen:
                    raise SettingsChanged
                # Check under the lock, so that the stored settings cannot become stricter in between.
                if not self.can_allow_more_readers and allows_more_readers(row.channel, self._rule(), rule_of(stored)):
                    raise MoreReadersRefused
                # A missing row cannot be locked. If two users insert it at the same time, one gets an IntegrityError.
                row.save(using=database(), force_insert=stored is None, force_update=stored is not None)
                rules.set_groups(row.channel, self.cleaned_data["groups"])
        except IntegrityError:
            raise SettingsChanged from None
        return stored is None

    def _rule(self) -> Rule | None:
        """Return the rule that the cleaned form would store."""
        access, groups = self.cleaned_data["access"], self.cleaned_data["groups"]
        return Rule(access, frozenset(group.pk for group in groups)) if access else None


def digest_of(row: ChannelSettings | None) -> str:
    """Return a digest of the stored settings, which changes when they do. `row` can be None."""
    if row is None:
        return NO_SETTINGS
    groups = sorted(map(str, rules.group_keys(row.channel)))
    values = [row.title, row.access, row.retention_seconds, row.retention_messages, groups]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def delete_settings(channel: str, *, can_allow_more_readers: bool) -> None:
    """Delete a channel's settings, so that the site's settings apply. Raise MoreReadersRefused as store() does."""
    with log.own_transaction():
        stored = _lock(channel)
        if stored is None:
            return
        if not can_allow_more_readers and allows_more_readers(channel, None, rule_of(stored)):
            raise MoreReadersRefused
        stored.delete(using=database())


def _lock(channel: str) -> ChannelSettings | None:
    """Return the stored settings. Block other changes of them until this transaction ends."""
    rows = ChannelSettings.objects.using(database()).filter(channel=channel)
    # An UPDATE without a change locks the row and, on SQLite, takes the write lock even if there is no row.
    rows.update(title=F("title"))
    return rows.first()
