"""Tokens that were revoked before they expired. Only streams.tokens writes this table."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class RevokedToken(models.Model):
    """A revoked token. The row can be deleted after the token has expired."""

    id = models.CharField(_("id"), max_length=64, primary_key=True)
    revoked_at = models.DateTimeField(_("revoked at"), auto_now_add=True)
    expires_at = models.DateTimeField(_("expires at"), db_index=True)

    class Meta:
        verbose_name = _("revoked token")
        verbose_name_plural = _("revoked tokens")
        ordering = ["-revoked_at"]
        default_permissions = ()
        permissions = [
            ("issue_token", "Can issue tokens in the name of other users"),
            ("disconnect_stream", "Can end the streams of other users, of tokens and of channels"),
        ]

    def __str__(self) -> str:
        return self.id
