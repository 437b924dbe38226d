"""Messages that staff write and send from the admin. Only broadcasts.py moves one from state to state."""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from streams import events
from streams.references import Reference


class Broadcast(models.Model):
    """A message for one or more channels: a draft, then scheduled, then sent or cancelled. What was sent stays so."""

    class State(models.TextChoices):
        DRAFT = "draft", _("draft")
        SCHEDULED = "scheduled", _("scheduled")
        SENT = "sent", _("sent")
        CANCELLED = "cancelled", _("cancelled")

    class PayloadType(models.TextChoices):
        TEXT = "text", _("Text")
        JSON = "json", _("JSON")

    title = models.CharField(_("title"), max_length=200, help_text=_("For you and your colleagues; it is not sent."))
    channels: Any = models.JSONField(_("channels"), default=list)
    event = models.CharField(_("type"), max_length=events.EVENT_TYPE_MAX_LENGTH, default="message")
    payload_type = models.CharField(
        _("payload is"), max_length=10, choices=PayloadType.choices, default=PayloadType.TEXT
    )
    payload = models.TextField(_("payload"), blank=True)

    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.DRAFT, editable=False)
    # Counts the changes, so that nobody sends or overwrites what somebody else has changed meanwhile.
    revision = models.PositiveIntegerField(default=1, editable=False)
    problem = models.TextField(_("problem"), blank=True, editable=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    created_by = Reference(
        settings.AUTH_USER_MODEL, verbose_name=_("created by"), null=True, blank=True, editable=False
    )
    send_at = models.DateTimeField(_("to be sent at"), null=True, blank=True)
    scheduled_by = Reference(
        settings.AUTH_USER_MODEL, verbose_name=_("scheduled by"), null=True, blank=True, editable=False
    )
    sent_at = models.DateTimeField(_("sent at"), null=True, blank=True, editable=False)
    sent_by = Reference(settings.AUTH_USER_MODEL, verbose_name=_("sent by"), null=True, blank=True, editable=False)
    positions: Any = models.JSONField(
        _("event ids"), default=list, editable=False, help_text=_("One for each channel, in their order.")
    )
    audience: Any = models.JSONField(
        _("audience"), default=dict, editable=False, help_text=_("Connections by channel at the moment of sending.")
    )

    class Meta:
        verbose_name = _("broadcast")
        verbose_name_plural = _("broadcasts")
        ordering: ClassVar = ["-id"]
        permissions: ClassVar = [
            ("send_broadcast", _("Can send broadcasts")),
            ("schedule_broadcast", _("Can schedule broadcasts")),
        ]
        indexes: ClassVar = [
            # Every process with a hub asks for these, each POLL_SECONDS. None on the state alone: it would be taken for
            # them, and read every broadcast that was ever sent.
            models.Index(fields=["send_at"], condition=models.Q(state="scheduled"), name="streams_broadcast_due"),
            models.Index(fields=["sent_at"], condition=models.Q(state="sent"), name="streams_broadcast_sent"),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def served(self) -> int:
        """How many connections it is known to have been handed to, over all processes, each connection once."""
        return sum(self.deliveries.values_list("connections", flat=True))

    @property
    def places(self) -> dict[str, int]:
        """{channel: event id} of what was sent."""
        return dict(zip(self.channels, self.positions, strict=False))

    @property
    def listened(self) -> int:
        """Connections at the moment of sending; one that has several of the channels counts for each of them."""
        return sum(self.audience.values())


class Delivery(models.Model):
    """How many connections one process has handed a broadcast to."""

    broadcast = models.ForeignKey(Broadcast, on_delete=models.CASCADE, related_name="deliveries")
    node = models.CharField(max_length=32)
    connections = models.PositiveIntegerField()

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        default_permissions: ClassVar = ()
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["broadcast", "node"], name="streams_delivery_of_node"),
        ]

    def __str__(self) -> str:
        return f"{self.broadcast_id} {self.node}: {self.connections}"
