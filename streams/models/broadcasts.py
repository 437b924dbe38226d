"""Broadcasts: messages that staff write in the admin. Only streams.broadcasts.lifecycle changes their state."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from streams.models.references import Reference
from streams.protocol import events


class Broadcast(models.Model):
    """A message for one or more channels: a draft, scheduled, sent or cancelled. A sent broadcast never changes."""

    class State(models.TextChoices):
        DRAFT = "draft", _("draft")
        SCHEDULED = "scheduled", _("scheduled")
        SENT = "sent", _("sent")
        CANCELLED = "cancelled", _("cancelled")

    class PayloadType(models.TextChoices):
        TEXT = "text", _("Text")
        JSON = "json", _("JSON")

    title = models.CharField(
        _("title"), max_length=200, help_text=_("Only for you and your colleagues. It is not sent.")
    )
    channels: Any = models.JSONField(_("channels"), default=list)
    event = models.CharField(_("event type"), max_length=events.EVENT_TYPE_MAX_LENGTH, default="message")
    payload_type = models.CharField(_("format"), max_length=10, choices=PayloadType.choices, default=PayloadType.TEXT)
    payload = models.TextField(_("content"), blank=True)

    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.DRAFT, editable=False)
    # Counted up by each change, so that no user sends or overwrites a version that they have not seen.
    revision = models.PositiveIntegerField(default=1, editable=False)
    problem = models.TextField(_("problem"), blank=True, editable=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    created_by = Reference(
        settings.AUTH_USER_MODEL, verbose_name=_("created by"), null=True, blank=True, editable=False
    )
    send_at = models.DateTimeField(_("send at"), null=True, blank=True)
    scheduled_by = Reference(
        settings.AUTH_USER_MODEL, verbose_name=_("scheduled by"), null=True, blank=True, editable=False
    )
    sent_at = models.DateTimeField(_("sent at"), null=True, blank=True, editable=False)
    sent_by = Reference(settings.AUTH_USER_MODEL, verbose_name=_("sent by"), null=True, blank=True, editable=False)
    positions: Any = models.JSONField(
        _("event ids"), default=list, editable=False, help_text=_("One for each channel, in the order of the channels.")
    )
    audience: Any = models.JSONField(
        _("audience"), default=dict, editable=False, help_text=_("Connections of each channel at the time of sending.")
    )

    class Meta:
        verbose_name = _("broadcast")
        verbose_name_plural = _("broadcasts")
        ordering = ["-id"]
        permissions = [
            ("send_broadcast", _("Can send broadcasts")),
            ("schedule_broadcast", _("Can schedule broadcasts")),
        ]
        indexes = [
            # Every process with a hub runs these queries each POLL_SECONDS. There is no index on the state alone: the
            # planner would prefer it, and read every broadcast that was ever sent.
            models.Index(fields=["send_at"], condition=models.Q(state="scheduled"), name="streams_broadcast_due"),
            models.Index(fields=["sent_at"], condition=models.Q(state="sent"), name="streams_broadcast_sent"),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def reached(self) -> int:
        """The number of connections that received the broadcast, in all processes. Each connection counts once."""
        return sum(self.deliveries.values_list("connections", flat=True))

    @property
    def positions_by_channel(self) -> dict[str, int]:
        """{channel: position} of the messages that were sent."""
        return dict(zip(self.channels, self.positions, strict=False))

    @property
    def audience_size(self) -> int:
        """Connections at the time of sending. A connection to several of the channels counts once for each."""
        return sum(self.audience.values())


class Delivery(models.Model):
    """The number of connections of one process that received a broadcast."""

    broadcast = models.ForeignKey(Broadcast, on_delete=models.CASCADE, related_name="deliveries")
    node = models.CharField(max_length=32)
    connections = models.PositiveIntegerField()

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["broadcast", "node"], name="streams_delivery_of_node"),
        ]

    def __str__(self) -> str:
        return f"{self.broadcast_id} {self.node}: {self.connections}"
