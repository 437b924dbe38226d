"""The tables of the message log. Only the package streams.log writes them."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from streams.models.fields import ChannelNameField
from streams.models.references import Reference
from streams.protocol import events


class Message(models.Model):
    """One message of the log. Its `position` is NULL from the insert until it is sequenced, just after the commit."""

    id = models.BigAutoField(primary_key=True)
    position = models.PositiveBigIntegerField(_("position"), null=True, unique=True, editable=False)
    channel = ChannelNameField(_("channel"), max_length=events.CHANNEL_MAX_LENGTH)
    event = models.CharField(_("event type"), max_length=events.EVENT_TYPE_MAX_LENGTH, default="message")
    data = models.TextField(_("data"), blank=True)
    size = models.PositiveIntegerField(_("size"), help_text=_("Size of the data in UTF-8, in bytes."))
    # The database's time, because retention compares it with the database's time, and publishers' clocks can differ.
    created_at = models.DateTimeField(_("created at"), db_default=Now(), editable=False)
    published_by = Reference(
        settings.AUTH_USER_MODEL, verbose_name=_("published by"), null=True, blank=True, db_index=False
    )
    idempotency_key = models.CharField(  # noqa: DJ001 - NULL means no key; "" is a valid key
        _("idempotency key"), max_length=events.IDEMPOTENCY_KEY_MAX_LENGTH, null=True, blank=True
    )

    # Not columns. `is_new`: True if the call that returned this object has appended the message. `traceparent`: the
    # trace context in which it was published, or "".
    is_new = False
    traceparent = ""

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(
                fields=["channel", "idempotency_key"],
                condition=models.Q(idempotency_key__isnull=False),
                name="streams_message_idempotency",
            ),
        ]
        indexes = [
            models.Index(fields=["channel", "position"], name="streams_message_replay"),
            # Nearly always empty, so finding the messages that a crashed process left unsequenced is cheap.
            models.Index(fields=["id"], condition=models.Q(position__isnull=True), name="streams_message_unsequenced"),
            # Used when a user is deleted. Partial, because programs publish without a user.
            models.Index(
                fields=["published_by"],
                condition=models.Q(published_by__isnull=False),
                name="streams_message_publisher",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.channel} {self.position if self.position is not None else '(not sequenced)'}"


class LogHead(models.Model):
    """The state of the log, in one row. Positions are assigned under the lock on this row.

    `head` is the newest position. At or below `floor`, the log no longer records which messages were pruned from
    channels that have no messages left. `epoch` is the number of the current epoch. `identity` describes the database
    that holds the log. If it changes, the log might be an older copy, and a new epoch starts.

    Only code that assigns positions locks this row. A transaction that finds the row locked leaves its messages to the
    holder of the lock, which checks for more messages after it has released the lock.
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
        default_permissions = ()

    def __str__(self) -> str:
        return f"head {self.head}, floor {self.floor}"


class Epoch(models.Model):
    """The start of an epoch other than the first: the log forked from an older history at `fork`.

    Both histories share the positions up to `fork`. The new epoch assigns positions above `start`, which is greater
    than every position that an earlier epoch can have assigned. So a cursor between `fork` and `start` (both excluded)
    belongs to a lost history.
    """

    number = models.PositiveIntegerField(primary_key=True)
    fork = models.PositiveBigIntegerField()
    start = models.PositiveBigIntegerField()
    reason = models.CharField(max_length=255)
    started_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = _("epoch")
        verbose_name_plural = _("epochs")
        ordering = ["number"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"epoch {self.number}, from {self.start}"


class LogSize(models.Model):
    """The size of the log, in one row: the `bytes` of data at or below the position `through`.

    It is written by counting and by deleting (see streams.log.sizing), never by publishers. `counted_from` is the time
    at which the last complete count started.
    """

    ROW = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ROW)
    through = models.PositiveBigIntegerField(default=0)
    bytes = models.BigIntegerField(default=0)
    counted_from = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.bytes} bytes through {self.through}"


class Channel(models.Model):
    """How far a channel was pruned. A channel from which nothing was pruned has no row."""

    name = ChannelNameField(_("name"), max_length=events.CHANNEL_MAX_LENGTH, primary_key=True)
    pruned_through = models.PositiveBigIntegerField(
        _("pruned through"),
        default=0,
        help_text=_("The position of the newest message that was pruned from this channel. 0: none was pruned."),
    )

    class Meta:
        verbose_name = _("pruning of a channel")
        verbose_name_plural = _("pruning of channels")
        ordering = ["name"]
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class Lease(models.Model):
    """A named task that must not run twice. One process at a time holds its lease, until `expires_at`.

    The times are the database's.
    """

    name = models.CharField(_("name"), max_length=50, primary_key=True)
    holder = models.CharField(_("holder"), max_length=64, blank=True)
    expires_at = models.DateTimeField(_("expires at"), null=True)

    class Meta:
        verbose_name = _("lease")
        verbose_name_plural = _("leases")
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class Monitor(Message):
    """A proxy that gives the live monitor its place in the admin. It uses the permission to view messages."""

    class Meta:
        proxy = True
        verbose_name = _("live monitor")
        verbose_name_plural = _("live monitor")
        default_permissions = ()
