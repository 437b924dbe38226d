"""A site whose database has an attacker's text in every field that a page shows."""

from __future__ import annotations

import datetime
import json
from typing import Any

# This text breaks out of an element, a quoted attribute value, a script, a comment and elements that hold only text,
# unless it is escaped. Tests find its element and its attributes in a page by MARK, and a browser would run them.
MARK = "x-hack"
HOSTILE = (
    f"</script></textarea></title></style></template>--><img {MARK} src=x onerror=window.hacked=1>"
    f"\"'><img {MARK} src=x onerror=window.hacked=1>\" {MARK}=1 onfocus=window.hacked=1 ' {MARK}=1 x='"
)
SHORT = f"'\"><img {MARK} src=x onerror=window.hacked=1></script>"  # for fields of at most 99 characters
LINK = f"javascript:window.hacked=1//{SHORT}"

HIDDEN = "generation0generation0generation"


def fill() -> None:
    """Write the text into the database, and print the addresses of the pages that show it as JSON."""
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.auth.models import Group, User
    from django.contrib.contenttypes.models import ContentType
    from django.utils import timezone

    from streams import publish
    from streams.broadcasts import lifecycle
    from streams.models import Broadcast, ChannelSettings, Node
    from streams.relay.models import Generation, Usage

    now = timezone.now()
    user = User.objects.create(username=HOSTILE[:150], first_name=SHORT, last_name=SHORT, email=LINK, is_staff=True)
    group = Group.objects.create(name=HOSTILE[:150])
    message = publish("news", HOSTILE, event=SHORT, idempotency_key=HOSTILE, published_by=user)
    publish("news", {"a": HOSTILE, LINK: [SHORT]}, event=LINK[:99])
    publish(f"user.{user.pk}", HOSTILE)
    settled = ChannelSettings.objects.create(channel="news", title=HOSTILE[:200], access="groups")
    settled.groups.add(group)
    problem = {"notifier": HOSTILE[:255], "notifier_problem": HOSTILE[:255]}
    Node.objects.create(
        **{"id": "n", "host": HOSTILE[:255], "pid": 1, "started_at": now, "seen_at": now, "connections": 2, **problem},
        channels={"news": 1, SHORT: 1},
        callers={SHORT: 1},
    )
    made: Any = [
        Broadcast.objects.create(
            title=HOSTILE[:200], channels=["news"], payload=HOSTILE, event=SHORT, problem=HOSTILE, created_by=user
        )
        for _ in range(3)
    ]
    draft, scheduled, sent = made
    lifecycle.schedule(scheduled.pk, now + datetime.timedelta(days=1), by=user)
    lifecycle.send(sent.pk, by=user)
    source = {"caller": HOSTILE[:255], "upstream": SHORT, "model": HOSTILE[:255]}
    ended = {"state": "failed", "ended_at": now, "text": HOSTILE, "end_position": 9, "usage": {"a": HOSTILE}}
    failed = {"finish_reason": SHORT[:64], "error_code": SHORT[:64], "error_message": HOSTILE}
    asked = {"request": {"messages": [{"content": HOSTILE}]}, "fingerprint": "f", "start_position": 0}
    generation = Generation.objects.create(id=HIDDEN, owner=user, worker="w", **source, **ended, **failed, **asked)
    usage = Usage.objects.create(user=user, outcome="failed", seconds=1, **source)
    kind = ContentType.objects.get_for_model(Broadcast)
    for editor in (user, User.objects.get(username="editor")):
        entry = {"content_type": kind, "object_id": draft.pk, "object_repr": HOSTILE[:200], "action_flag": CHANGE}
        LogEntry.objects.create(user=editor, change_message=HOSTILE, **entry)
    pages = [
        *("/", "/chat/", "/random/", "/admin/", "/admin/streams/", "/admin/streams_relay/", "/admin/auth/group/"),
        *(f"/admin/auth/user/{page}" for page in ("", f"{user.pk}/change/", f"{user.pk}/delete/")),
        *(f"/admin/streams/broadcast/{page}" for page in ("", "add/", "known/", "audience/?channel=news")),
        *(f"/admin/streams/broadcast/{one.pk}/change/" for one in made),
        *(f"/admin/streams/broadcast/{draft.pk}/{page}/" for page in ("send", "schedule", "history", "delete")),
        f"/admin/streams/broadcast/{sent.pk}/reached/",
        *(f"/admin/streams/message/{page}" for page in ("", "prune/", "diagnosis/", f"{message.pk}/change/")),
        *(f"/admin/streams/message/{message.pk}/{page}/" for page in ("data", "send-again")),
        f"/admin/streams/message/diagnosis/?message={message.position}&user={user.pk}&last_event_id=0",
        *(f"/admin/streams/channelsettings/{page}" for page in ("", "news/change/", "news/history/", "news/delete/")),
        *(f"/admin/streams/monitor/{page}" for page in ("", "?channel=news", "types/?channel=news&after=0")),
        "/admin/streams/monitor/events/?ids=1,2,3",
        *(f"/admin/streams/node/{page}" for page in ("", "data/")),
        *(f"/admin/streams_relay/generation/{page}" for page in ("", f"{generation.pk}/change/")),
        *(f"/admin/streams_relay/usage/{page}" for page in ("", f"{usage.pk}/change/")),
    ]
    print(json.dumps(pages))
