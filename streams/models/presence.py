"""Presence: one row for each process that serves streams. Only streams.presence writes this table."""

from __future__ import annotations

import datetime

from django.db import models
from django.utils.translation import gettext_lazy as _


class Node(models.Model):
    """The last report of a process that serves streams. If a row is not updated any more, the process has stopped."""

    id = models.CharField(_("id"), max_length=32, primary_key=True)
    host = models.CharField(_("host"), max_length=255)
    pid = models.PositiveBigIntegerField(_("process id"))
    started_at = models.DateTimeField(_("started at"))
    seen_at = models.DateTimeField(_("last seen"), db_index=True)
    connections = models.PositiveIntegerField(_("connections"), default=0)
    channels = models.JSONField(
        _("channels"),
        default=dict,
        help_text=_("Connections of each channel, for the channels with the most connections."),
    )
    channels_left_out = models.PositiveIntegerField(
        _("channels left out"),
        default=0,
        help_text=_("The number of channels with fewer connections that are not listed."),
    )
    callers = models.JSONField(
        _("clients"), default=dict, help_text=_("Connections of each user and each address, if they are limited.")
    )
    notifier = models.CharField(_("notifier"), max_length=255, blank=True)
    notifier_problem = models.CharField(
        _("notifier problem"), max_length=255, blank=True, help_text=_("Empty if the notifier is working.")
    )
    samples = models.JSONField(
        _("samples"),
        default=list,
        help_text=_("Values of the last minutes: [Unix time, connections, head of the log]."),
    )

    silent_for: datetime.timedelta  # time since `seen_at`; only set by presence.nodes()

    class Meta:
        verbose_name = _("process")
        verbose_name_plural = _("processes")
        ordering = ["host", "pid"]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"
