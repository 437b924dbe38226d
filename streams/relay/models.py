"""The relay's tables: generations, and what answers have cost. They lie in the log's database.

Only streams.relay.generations.store writes generations, only streams.relay.usage writes usage.
"""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from streams.events import GENERATION_PREFIX
from streams.references import Reference

ID_LENGTH = 32
KEY_MAX_LENGTH = 255


def new_id() -> str:
    """An id that nobody guesses: 122 random bits."""
    return uuid.uuid4().hex


class Generation(models.Model):
    """One answer of a model, from the question on. Its pieces are messages of its channel.

    Queued, it waits for a worker. Running, it is owned by the worker that renews its lease: `lease_until` is by the
    database's clock. The other states are final, and the channel's last message, at `end_position`, tells them.

    `text` holds the answer's first `pieces` pieces, those up to `text_position`: it runs after the log by a few seconds
    while the answer comes, and is the whole of it at the end.
    """

    class State(models.TextChoices):
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")
        INTERRUPTED = "interrupted", _("interrupted")

    ACTIVE = (State.QUEUED, State.RUNNING)

    id = models.CharField(max_length=ID_LENGTH, primary_key=True, default=new_id, editable=False)
    owner = Reference(
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        null=True,
        blank=True,
        help_text=_("None for somebody who was not signed in."),
    )
    caller = models.CharField(_("counted for"), max_length=255)
    upstream = models.CharField(_("upstream"), max_length=99)
    model = models.CharField(_("model"), max_length=255)
    request = models.JSONField(_("request"))
    idempotency_key = models.CharField(  # noqa: DJ001 - NULL is "no key"
        _("idempotency key"), max_length=KEY_MAX_LENGTH, null=True, blank=True
    )
    fingerprint = models.CharField(
        _("fingerprint"), max_length=64, help_text=_("Of what the client sent, to know it again under the same key.")
    )
    state = models.CharField(_("state"), max_length=11, choices=State.choices, default=State.QUEUED)
    # By the database's clock: how long it has waited is compared with the database's time.
    created_at = models.DateTimeField(_("created at"), db_default=Now(), editable=False)
    started_at = models.DateTimeField(_("started at"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended at"), null=True, blank=True)
    compacted_at = models.DateTimeField(_("compacted at"), null=True, blank=True)

    worker = models.CharField(_("worker"), max_length=32, blank=True)
    lease_until = models.DateTimeField(_("lease until"), null=True, blank=True)

    # In its tokens: they end when it moves on.
    token_series = models.PositiveIntegerField(default=0, db_default=0, editable=False)

    start_position = models.PositiveBigIntegerField(_("start"), help_text=_("Its pieces lie above this position."))
    end_position = models.PositiveBigIntegerField(_("end"), null=True, blank=True)
    text = models.TextField(_("text"), blank=True)
    # Bytes of the request and, at the end, of the text.
    size = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)
    pieces = models.PositiveIntegerField(_("pieces"), default=0)
    text_position = models.PositiveBigIntegerField(_("text up to"), default=0)

    finish_reason = models.CharField(_("finish reason"), max_length=64, blank=True)
    error_code = models.CharField(_("error code"), max_length=64, blank=True)
    error_message = models.TextField(_("error"), blank=True)
    usage = models.JSONField(_("usage"), null=True, blank=True)

    class Meta:
        verbose_name = _("generation")
        verbose_name_plural = _("generations")
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["owner", "idempotency_key"],
                condition=Q(owner__isnull=False, idempotency_key__isnull=False),
                name="streams_relay_generation_key",
            ),
            models.UniqueConstraint(
                fields=["idempotency_key"],
                condition=Q(owner__isnull=True, idempotency_key__isnull=False),
                name="streams_relay_generation_key_of_nobody",
            ),
        ]
        indexes: ClassVar = [
            # What workers look for. Not a partial one: SQLite takes none for a condition whose values are parameters.
            models.Index(fields=["state", "created_at"], name="streams_relay_generation_open"),
            models.Index(fields=["ended_at"], name="streams_relay_generation_ended"),
            # For what one caller has stored lately.
            models.Index(fields=["caller", "created_at"], name="streams_relay_generation_of"),
            models.Index(
                fields=["ended_at"], condition=Q(compacted_at__isnull=True), name="streams_relay_generation_whole"
            ),
        ]

    # Set by streams.relay.generations.chunks.get(): its worker is dead; no worker has taken it in time.
    is_deserted: bool
    is_overdue: bool

    def __str__(self) -> str:
        return self.id

    @property
    def channel(self) -> str:
        """The channel of its pieces."""
        return GENERATION_PREFIX + self.id

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.state in self.ACTIVE


class Usage(models.Model):
    """What one answer has cost, relayed or generated, whole or cut off."""

    class Outcome(models.TextChoices):
        DONE = "done", _("done")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")
        INTERRUPTED = "interrupted", _("interrupted")

    id = models.BigAutoField(primary_key=True)
    user = Reference(settings.AUTH_USER_MODEL, verbose_name=_("user"), null=True, blank=True)
    caller = models.CharField(_("counted for"), max_length=255)
    upstream = models.CharField(_("upstream"), max_length=99)
    model = models.CharField(_("model"), max_length=255)
    generation = models.CharField(_("generation"), max_length=ID_LENGTH, blank=True)
    outcome = models.CharField(_("outcome"), max_length=11, choices=Outcome.choices)
    prompt_tokens = models.PositiveBigIntegerField(_("tokens of the question"), null=True, blank=True)
    completion_tokens = models.PositiveBigIntegerField(_("tokens of the answer"), null=True, blank=True)
    is_estimated = models.BooleanField(
        _("estimated"),
        default=False,
        help_text=_("The upstream had not told yet, so that the pieces of the answer were counted instead."),
    )
    seconds = models.FloatField(_("seconds"))
    created_at = models.DateTimeField(_("ended at"), db_default=Now(), editable=False, db_index=True)

    class Meta:
        verbose_name = _("usage")
        verbose_name_plural = _("usage")
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"{self.model}: {self.completion_tokens}"
