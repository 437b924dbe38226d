"""The form of a channel's settings: what it offers and refuses. It writes the settings; channels.py obeys them.

Nobody overwrites what they have not seen: the page carries a digest of what was stored when it was loaded, and where
that has changed meanwhile, nothing is stored.
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

from streams import channels, log
from streams.admin.channel_access import admits_more, rule_of
from streams.admin.channel_facts import messages_in_words, seconds_in_words
from streams.channels import Rule
from streams.conf import settings
from streams.events import private_prefix
from streams.models import ChannelSettings
from streams.models.channels import check_access
from streams.threads import database

OTHER = "other"
PRESETS = (3600, 86_400, 7 * 86_400, 30 * 86_400, 90 * 86_400, 365 * 86_400, 0)

# Far enough for anybody, and near enough for dates to be reckoned with.
MAX_SECONDS = 100 * 365 * 86_400
MAX_MESSAGES = 1_000_000_000

# Those of a number that every database can look for.
MAX_KEY_DIGITS = 18

NOTHING = "nothing"


class ChangedMeanwhile(Exception):
    """What is stored for the channel is not what the form was loaded with. Nothing was stored."""


class AdmitsMore(Exception):
    """The change lets more people read the channel, and the user is not allowed to do that. Nothing was stored."""


class GroupsField(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]  # as below
    """A choice of groups. A number that no database can look for is no group's, as any other that none has."""

    def clean(self, value: Any) -> Any:
        for key in value or ():
            if len(str(key)) > MAX_KEY_DIGITS:
                raise ValidationError(
                    self.error_messages["invalid_choice"], code="invalid_choice", params={"value": str(key)[:100]}
                )
        return super().clean(value)


class ChannelForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for django-stubs alone
    """A channel's settings. `keep` is a choice of retentions, in `keep_seconds` any other can be given.

    `may_admit_more`: whether the form's user is allowed to let more people read the channel.
    """

    field_order = ["title", "access", "groups", "retention_messages"]

    # Not a field of the model's form, which reads and writes the relation in one database.
    groups = GroupsField(
        label=gettext_lazy("Groups"),
        queryset=Group.objects.order_by("name"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy("Only where members of groups may read: choose at least one."),
    )
    keep = forms.ChoiceField(
        label=gettext_lazy("Keep messages for"),
        required=False,
        help_text=gettext_lazy("Older messages are deleted, and clients that come back for them are told of a gap."),
    )
    keep_seconds = forms.IntegerField(
        label=gettext_lazy("Other: seconds"),
        required=False,
        min_value=1,
        max_value=MAX_SECONDS,
        help_text=gettext_lazy("Only where “other” is chosen above. A day has 86400 seconds."),
    )

    class Meta:
        model = ChannelSettings
        fields: ClassVar = ["title", "access", "retention_messages"]
        labels: ClassVar = {
            "title": gettext_lazy("Title"),
            "access": gettext_lazy("Who may read"),
            "retention_messages": gettext_lazy("Keep at most, in messages"),
        }
        help_texts: ClassVar = {
            "title": gettext_lazy("For you and your colleagues; it is not sent."),
        }

    def __init__(self, *args: Any, may_admit_more: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.may_admit_more = may_admit_more
        self._offer_access()
        self.initial["groups"] = channels.group_keys(self.instance.channel)
        count: Any = self.fields["retention_messages"]
        count.validators.append(MaxValueValidator(MAX_MESSAGES))
        count.help_text = _("Empty: as the site’s settings say (%(site)s). 0: however many there are.") % {
            "site": messages_in_words(settings.RETENTION_MESSAGES_PER_CHANNEL)
        }
        self._offer_retentions()

    def _offer_access(self) -> None:
        access: Any = self.fields["access"]
        if private_prefix(self.instance.channel):
            # The others stay valid for the field, so that clean_access() can say why they are refused.
            access.widget.choices = [each for each in access.choices if not each[0]]
            access.help_text = _(
                "The channel belongs to one user or to one answer, and nothing opens it to others here."
            )
        elif not self.may_admit_more:
            access.help_text = _(
                "You can let fewer people read. To let more people read, you also need the permission “Can view "
                "message”."
            )

    def _offer_retentions(self) -> None:
        site = _("As the site’s settings say (%(site)s)") % {"site": seconds_in_words(settings.RETENTION_SECONDS)}
        presets = [(str(seconds), seconds_in_words(seconds)) for seconds in PRESETS]
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
            self.add_error("groups", _("Choose the groups whose members may read, or let others read above."))
        if access != ChannelSettings.Access.GROUPS:
            cleaned["groups"] = Group.objects.none()
        if cleaned.get("keep") == OTHER and "keep_seconds" in cleaned and cleaned["keep_seconds"] is None:
            self.add_error("keep_seconds", _("Write for how many seconds messages are kept, or choose a time above."))
        return cleaned

    def store(self, seen: str) -> bool:
        """Save what was cleaned: the row and its groups, or neither. Returns whether the channel had no row before.

        Raises:
            ChangedMeanwhile: the stored settings are not those that `seen` is the digest of.
            AdmitsMore: more people could read the channel than by the stored settings, and the user may not do that.
        """
        keep = self.cleaned_data.get("keep", "")
        row: ChannelSettings = self.save(commit=False)
        if keep == OTHER:
            row.retention_seconds = self.cleaned_data["keep_seconds"]
        else:
            row.retention_seconds = int(keep) if keep else None
        try:
            with log.own_transaction():
                _lock(row.channel)
                stored = ChannelSettings.objects.using(database()).filter(channel=row.channel).first()
                if digest_of(stored) != seen:
                    raise ChangedMeanwhile
                # Under the lock, so that nobody else can make the settings stricter in between.
                if not self.may_admit_more and admits_more(row.channel, self._rule(), rule_of(stored)):
                    raise AdmitsMore
                # Where there is no row, nothing can be locked: of two who insert it at once, one is refused here.
                row.save(using=database(), force_insert=stored is None, force_update=stored is not None)
                channels.set_groups(row.channel, self.cleaned_data["groups"])
        except IntegrityError:
            raise ChangedMeanwhile from None
        return stored is None

    def _rule(self) -> Rule | None:
        """Return the rule that the cleaned form would store."""
        access = self.cleaned_data["access"]
        if not access:
            return None
        return Rule(access, frozenset(group.pk for group in self.cleaned_data["groups"]))


def digest_of(row: ChannelSettings | None) -> str:
    """What stands for the stored settings, so that a change of them can be told; for None as well."""
    if row is None:
        return NOTHING
    groups = sorted(map(str, channels.group_keys(row.channel)))
    values = [row.title, row.access, row.retention_seconds, row.retention_messages, groups]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def forget(channel: str, *, may_admit_more: bool) -> None:
    """Delete a channel's settings: from then on the site's hold. Raises AdmitsMore as ChannelForm.store() does."""
    with log.own_transaction():
        _lock(channel)
        stored = ChannelSettings.objects.using(database()).filter(channel=channel).first()
        if stored is None:
            return
        if not may_admit_more and admits_more(channel, None, rule_of(stored)):
            raise AdmitsMore
        stored.delete(using=database())


def _lock(channel: str) -> None:
    """Have whoever else settles something for the channel wait until this transaction ends.

    By a write that changes nothing: it locks the row, and takes SQLite's write lock, also where there is no row.
    """
    ChannelSettings.objects.using(database()).filter(channel=channel).update(title=F("title"))
