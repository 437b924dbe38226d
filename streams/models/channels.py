"""Settings of single channels. streams.channels.rules reads them for the policy and for retention."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from streams.exceptions import InvalidChannel
from streams.models.fields import ChannelNameField
from streams.models.references import Reference
from streams.protocol import events


def check_channel_name(name: str) -> None:
    """Validate a field with events.validate_channel(). Raise ValidationError with a translated message."""
    try:
        events.validate_channel(name)
    except InvalidChannel:
        rule = _("“%(name)s” is not a valid channel name. Use A-Z a-z 0-9 . _ - and at most %(limit)d characters.")
        shown = name if len(name) <= 120 else f"{name[:117]}…"
        raise ValidationError(rule % {"name": shown, "limit": events.CHANNEL_MAX_LENGTH}, code="invalid") from None


def check_access(channel: str, access: str) -> None:
    """Raise ValidationError if `access` is set for a channel that belongs to one user or to one answer."""
    if access and events.private_prefix(channel):
        rule = _(
            "“%(channel)s” belongs to one user or to one answer, so its readers cannot be changed here. "
            "Choose “%(default)s”."
        )
        default = ChannelSettings.Access.DEFAULT.label
        raise ValidationError(rule % {"channel": channel, "default": default}, code="private")


class ChannelSettings(models.Model):
    """A channel's title, its readers, and how long it keeps messages. All of it is optional.

    There is no foreign key between this table and the log, so that saving settings never locks a table of the log.
    """

    class Access(models.TextChoices):
        DEFAULT = "", _("Use the site’s settings and policy")
        PUBLIC = "public", _("Everyone")
        LOGGED_IN = "logged-in", _("Users who are logged in")
        STAFF = "staff", _("Staff")
        GROUPS = "groups", _("Members of selected groups")

    channel = ChannelNameField(
        _("channel"), max_length=events.CHANNEL_MAX_LENGTH, primary_key=True, validators=[check_channel_name]
    )
    title = models.CharField(_("title"), max_length=200, blank=True)
    access = models.CharField(_("readers"), max_length=20, choices=Access.choices, default=Access.DEFAULT, blank=True)
    # Read and written by channels.groups_of() and set_groups(), because the groups can be in another database.
    groups = models.ManyToManyField(
        "auth.Group", through="ChannelGroup", verbose_name=_("groups"), blank=True, related_name="+"
    )
    retention_seconds = models.PositiveBigIntegerField(
        _("keep messages for (seconds)"),
        null=True,
        blank=True,
        help_text=_("Leave empty to use the site’s setting. 0: keep messages forever."),
    )
    retention_messages = models.PositiveBigIntegerField(
        _("maximum number of messages"),
        null=True,
        blank=True,
        help_text=_("Leave empty to use the site’s setting. 0: no limit."),
    )

    class Meta:
        verbose_name = _("channel")
        verbose_name_plural = _("channels")
        ordering = ["channel"]

    def __str__(self) -> str:
        return self.channel

    def clean(self) -> None:
        check_access(self.channel, self.access)


class ChannelGroup(models.Model):
    """A group whose members can read a channel."""

    channelsettings = models.ForeignKey(ChannelSettings, on_delete=models.CASCADE, related_name="+")
    group = Reference("auth.Group")

    class Meta:
        # The names are those that Django gives to a many-to-many relation without a model of its own.
        db_table = "streams_channelsettings_groups"
        unique_together = [("channelsettings", "group")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.channelsettings_id}: {self.group_id}"
