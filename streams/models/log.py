"""The message log's tables. Only the module streams.log writes them; everyone else publishes, or reads through it."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from streams import events
from streams.models.fields import ChannelNameField
from streams.references import Reference


class Message(models.Model):
    """One message of the log. Its `position` is NULL from the insert until it is sequenced, just after the commit."""

    id = models.BigAutoField(primary_key=True)
    position = models.PositiveBigIntegerField(_("position"), null=True, unique=True, editable=False)
    channel = ChannelNameField(_("channel"), max_length=events.CHANNEL_MAX_LENGTH)
    event = models.CharField(_("type"), max_length=events.EVENT_TYPE_MAX_LENGTH, default="message")
    data = models.TextField(_("data"), blank=True)
    size = models.PositiveIntegerField(_("size"), help_text=_("Bytes of the data in UTF-8."))
    # By the database's clock: publishers' clocks differ, and retention compares this with the database's time.
    created_at = models.DateTimeField(_("created at"), db_default=Now(), editable=False)
    published_by = Reference(
        settings.AUTH_USER_MODEL, verbose_name=_("published by"), null=True, blank=True, db_index=False
    )
    idempotency_key = models.CharField(  # noqa: DJ001 - NULL is "no key"; "" would be a key like any other
        _("idempotency key"), max_length=events.IDEMPOTENCY_KEY_MAX_LENGTH, null=True, blank=True
    )

    # No column: whether the call that returned this object has appended it. Else it was read, or found under its key.
    is_new = False

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        ordering: ClassVar = ["position"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["channel", "idempotency_key"],
                condition=models.Q(idempotency_key__isnull=False),
                name="streams_message_idempotency",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["channel", "position"], name="streams_message_replay"),
            # Nearly always empty, so that looking for what a dead process left unsequenced costs nothing.
            models.Index(fields=["id"], condition=models.Q(position__isnull=True), name="streams_message_unsequenced"),
            # For the deletion of users. Partial: a site's programs publish without one.
            models.Index(
                fields=["published_by"],
                condition=models.Q(published_by__isnull=False),
                name="streams_message_publisher",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.channel} {self.position if self.position is not None else '(not sequenced)'}"


class LogHead(models.Model):
    """The log's one row of state. Its lock gives positions their order.

    `head` is the newest position. At or below `floor`, the log no longer records what was pruned from channels that had
    no messages left. `epoch` is the number of the current epoch. `identity` describes the database that holds the log,
    as far as the database can tell: if it changes, the log may be an older copy, and a new epoch starts.

    Only code that gives positions locks this row. A transaction that finds the lock taken leaves its messages to the
    holder, which looks for more messages after it has released the lock.
    """

    ROW = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ROW)
    head = models.PositiveBigIntegerField(default=0)
    floor = models.PositiveBigIntegerField(default=0)
    epoch = models.PositiveIntegerField(default=1)
    identity = models.TextField(blank=True, default="")

    class Meta:
        verbose_name = _("head of the log")
        verbose_name_plural = _("head of the log")
        default_permissions: ClassVar = ()

    def __str__(self) -> str:
        return f"head {self.head}, floor {self.floor}"


class Epoch(models.Model):
    """The start of an epoch after the first: the log forked from an older history at `fork`.

    Positions up to `fork` are common to both histories. The new epoch gives positions above `start`, which lies past
    every position that an earlier epoch can have given. So a cursor between `fork` and `start` (both excluded) belongs
    to a history that is lost.
    """

    number = models.PositiveIntegerField(primary_key=True)
    fork = models.PositiveBigIntegerField()
    start = models.PositiveBigIntegerField()
    reason = models.CharField(max_length=255)
    started_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = _("epoch")
        verbose_name_plural = _("epochs")
        ordering: ClassVar = ["number"]
        default_permissions: ClassVar = ()

    def __str__(self) -> str:
        return f"epoch {self.number}, from {self.start}"


class LogSize(models.Model):
    """How much the log holds, in one row: how many `bytes` of data lie at or below the position `through`.

    Written by counting and by deleting (see streams.log.sizing), and never by publishers. `counted_from`: when the
    count was last begun from the beginning.
    """

    ROW = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ROW)
    through = models.PositiveBigIntegerField(default=0)
    bytes = models.BigIntegerField(default=0)
    counted_from = models.DateTimeField(null=True)

    class Meta:
        default_permissions: ClassVar = ()

    def __str__(self) -> str:
        return f"{self.bytes} bytes through {self.through}"


class Channel(models.Model):
    """What the log knows of a channel beyond its messages: how far it was pruned. Quiet channels need no row."""

    name = ChannelNameField(_("name"), max_length=events.CHANNEL_MAX_LENGTH, primary_key=True)
    pruned_through = models.PositiveBigIntegerField(
        _("pruned through"),
        default=0,
        help_text=_("The position of the newest message that was pruned from this channel; 0 for none."),
    )

    class Meta:
        verbose_name = _("pruning of a channel")
        verbose_name_plural = _("pruning of channels")
        ordering: ClassVar = ["name"]
        default_permissions: ClassVar = ()

    def __str__(self) -> str:
        return self.name


class Monitor(Message):
    """The live monitor's place in the admin: a proxy without permissions of its own. Who may view messages sees it."""

    class Meta:
        proxy = True
        verbose_name = _("live monitor")
        verbose_name_plural = _("live monitor")
        default_permissions: ClassVar = ()
