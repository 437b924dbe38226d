"""Leases: which process does a piece of work that must run once. Times are by the database's clock."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class Lease(models.Model):
    """A named task that one process at a time may do, until `expires_at`. The row is free when that has passed."""

    name = models.CharField(_("name"), max_length=50, primary_key=True)
    holder = models.CharField(_("holder"), max_length=64, blank=True)
    expires_at = models.DateTimeField(_("expires at"), null=True)

    class Meta:
        verbose_name = _("lease")
        verbose_name_plural = _("leases")
        default_permissions: ClassVar = ()

    def __str__(self) -> str:
        return self.name
