"""The relay's tables, in the log's database: generations, and the usage of each answer.

Only streams.relay.generations writes generations, and only streams.relay.usage writes usage.
"""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from streams.models.references import Reference
from streams.protocol.events import GENERATION_PREFIX

ID_LENGTH = 32
KEY_MAX_LENGTH = 255


def new_id() -> str:
    """Return an id with 122 random bits, which cannot be guessed."""
    return uuid.uuid4().hex


class Generation(models.Model):
    """An answer of a model to one request. Its chunks are messages of its channel.

    A queued generation waits for a worker. A running one belongs to the worker that renews its lease; `lease_until` is
    a time of the database's clock. The other states are final, and the channel's last message, at `end_position`,
    contains them.

    `text` is the text of the answer's first `chunks` chunks, up to `text_position`. While the answer arrives, it is a
    few seconds behind the log. At the end it is complete.
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
        help_text=_("Empty if the user was not logged in."),
    )
    caller = models.CharField(_("counted for"), max_length=255)
    upstream = models.CharField(_("upstream"), max_length=99)
    model = models.CharField(_("model"), max_length=255)
    request = models.JSONField(_("request"))
    idempotency_key = models.CharField(  # noqa: DJ001 - NULL is "no key"
        _("idempotency key"), max_length=KEY_MAX_LENGTH, null=True, blank=True
    )
    fingerprint = models.CharField(
        _("fingerprint"), max_length=64, help_text=_("A hash of the request, to recognize it under the same key.")
    )
    state = models.CharField(_("state"), max_length=11, choices=State.choices, default=State.QUEUED)
    # By the database's clock, because its age is compared with the database's time.
    created_at = models.DateTimeField(_("created at"), db_default=Now(), editable=False)
    started_at = models.DateTimeField(_("started at"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended at"), null=True, blank=True)
    compacted_at = models.DateTimeField(_("compacted at"), null=True, blank=True)

    worker = models.CharField(_("worker"), max_length=32, blank=True)
    lease_until = models.DateTimeField(_("lease until"), null=True, blank=True)

    # Part of the ids of its tokens. Incrementing it makes earlier tokens invalid.
    token_series = models.PositiveIntegerField(default=0, db_default=0, editable=False)

    start_position = models.PositiveBigIntegerField(
        _("start"), help_text=_("The positions of its chunks are greater than this.")
    )
    end_position = models.PositiveBigIntegerField(_("end"), null=True, blank=True)
    text = models.TextField(_("text"), blank=True)
    # The bytes of the request and, when it has ended, of the text.
    size = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)
    chunks = models.PositiveIntegerField(_("chunks"), default=0)
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
            # For workers. It is not a partial index, because SQLite uses none for a condition that has parameters.
            models.Index(fields=["state", "created_at"], name="streams_relay_generation_open"),
            models.Index(fields=["ended_at"], name="streams_relay_generation_ended"),
            # For the bytes that one principal has stored lately.
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
        """The name of the channel of its chunks."""
        return GENERATION_PREFIX + self.id

    @property
    def is_active(self) -> bool:
        """True until it has ended."""
        return self.state in self.ACTIVE


class Usage(models.Model):
    """The tokens and the time of one answer, relayed or generated, complete or not."""

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
        help_text=_("The upstream did not report its tokens, so the chunks of the answer were counted."),
    )
    seconds = models.FloatField(_("seconds"))
    created_at = models.DateTimeField(_("ended at"), db_default=Now(), editable=False, db_index=True)

    class Meta:
        verbose_name = _("usage")
        verbose_name_plural = _("usage")
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"{self.model}: {self.completion_tokens}"
