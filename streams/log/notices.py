"""Notify the hubs of all processes that positions were given."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from streams import outages, policies
from streams.events import StoredEvent
from streams.models import Message
from streams.notifiers import Notice, get_notifier

logger = logging.getLogger("streams.publishing")


def notify(positions: Mapping[int, int], rows: Iterable[Message]) -> None:
    """Send a notice of new positions, {id: position}, after their commit.

    The notice carries the messages if `rows` holds all of them. A failure is logged, not raised: the log has the
    messages, and the hubs poll it.
    """
    if not positions:
        return
    by_id = {row.pk: row for row in rows}
    messages: tuple[StoredEvent, ...] = ()
    if by_id.keys() >= positions.keys():
        messages = tuple(
            StoredEvent(position, by_id[pk].channel, by_id[pk].event, by_id[pk].data)
            for pk, position in positions.items()
        )
    try:
        is_public = policies.are_known_to_be_open({message.channel for message in messages})
        get_notifier().notify(Notice(min(positions.values()), max(positions.values()), messages, is_public=is_public))
    except Exception:
        outages.SENDING.record_failure(
            logger, "The notifier failed; subscribers will find the messages by polling the log."
        )
    else:
        outages.SENDING.recovered()
