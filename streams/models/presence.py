"""Who is there: one row for each process that streams. Only presence.py writes it."""

from __future__ import annotations

import datetime
from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class Node(models.Model):
    """A process that streams, as it last described itself. A row that is not renewed is a process that has ended."""

    id = models.CharField(_("id"), max_length=32, primary_key=True)
    host = models.CharField(_("host"), max_length=255)
    pid = models.PositiveBigIntegerField(_("process id"))
    started_at = models.DateTimeField(_("started at"))
    seen_at = models.DateTimeField(_("last seen"), db_index=True)
    connections = models.PositiveIntegerField(_("connections"), default=0)
    channels = models.JSONField(
        _("channels"), default=dict, help_text=_("Connections by channel: those channels that have most.")
    )
    channels_left_out = models.PositiveIntegerField(
        _("channels left out"), default=0, help_text=_("How many channels with fewer connections are not listed.")
    )
    callers = models.JSONField(
        _("callers"), default=dict, help_text=_("Connections by user and by address, where they are limited.")
    )
    notifier = models.CharField(_("notifier"), max_length=255, blank=True)
    notifier_problem = models.CharField(
        _("problem of the notifier"), max_length=255, blank=True, help_text=_("Empty while it listens.")
    )
    samples = models.JSONField(
        _("samples"), default=list, help_text=_("The last minutes: [Unix time, connections, head of the log] each.")
    )

    silent_for: datetime.timedelta  # where presence.nodes() has read it: since it was last seen

    class Meta:
        verbose_name = _("process")
        verbose_name_plural = _("processes")
        ordering: ClassVar = ["host", "pid"]
        default_permissions: ClassVar = ("view",)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"
