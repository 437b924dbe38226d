"""Find out why a client did not receive a message.

    for finding in diagnose(1024, request=request, user=user, last_event_id="1000"):
        print(finding.verdict, finding.sentence, finding.remedy)

The checks only read. They cannot see what the client's own script does with an event, so some findings say what to look
for in the page.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from streams.admin.diagnosis.connections import check_connections, check_event_type
from streams.admin.diagnosis.cursors import check_cursor
from streams.admin.diagnosis.findings import Finding
from streams.admin.diagnosis.log import check_neighbours, describe_message, explain_missing
from streams.admin.diagnosis.users import check_user
from streams.models import Message
from streams.runtime.executor import database


def diagnose(
    position: int, *, request: HttpRequest, user: Any, user_label: str = "", last_event_id: str = ""
) -> list[Finding]:
    """Return findings about whether `user`'s client could receive the message at `position`.

    Args:
        position: the event id.
        request: any request to this site. The policy is asked about a copy of it that belongs to `user`.
        user: a user, or AnonymousUser.
        user_label: how the findings name a user who is logged in; "" for the username.
        last_event_id: the last id that the client has received, as the client would send it; "" if unknown.

    The first finding is about the message itself; it is GOOD if the message is in the log. This blocks: it runs queries
    and the site's policy.
    """
    message = Message.objects.using(database()).filter(position=position).defer("data").first()
    if message is None:
        return list(explain_missing(position))
    return [
        describe_message(message),
        *check_user(message.channel, request, user, user_label),
        *check_cursor(message.channel, position, last_event_id),
        check_event_type(message.event),
        *check_connections(message.channel),
        *check_neighbours(message.channel, position),
    ]
