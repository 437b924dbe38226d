"""Why a client did not get a message: what the log, the policy, the client's cursor and the event's type say about it.

    for finding in diagnosis.diagnose(1024, request=request, user=user, last_event_id="1000"):
        print(finding.verdict, finding.sentence, finding.remedy)

It reads and asks, and changes nothing. What the client's own page did with an event, nobody here can see; the findings
say where to look there.
"""

from __future__ import annotations

import copy
import enum
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest, QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streams import log, presence
from streams.conf import settings
from streams.events import private_prefix
from streams.models import Channel, Message
from streams.policies import get_policy
from streams.private.django import empty_form
from streams.subscriber import MAX_POSITION_DIGITS
from streams.threads import database
from streams.times import in_words

logger = logging.getLogger("streams")

# Messages are counted up to here; more are "more than".
MAX_COUNTED = 10_000

# Events that an EventSource has of its own.
SOURCE_EVENTS = ("error", "open")

SHOWN_CHARACTERS = 100

# Where a request says who sends it: in its headers, in what a server makes of them, and in what others add to a scope.
PRIVATE_HEADERS = (b"cookie", b"authorization", b"proxy-authorization")
PRIVATE_META = ("HTTP_COOKIE", "HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "REMOTE_USER")
PRIVATE_SCOPE = ("cookies", "session", "user")


class Verdict(enum.Enum):
    """GOOD: no reason why it should not have come. BAD: a reason. NOTE: it may be one; look there."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy`: what to do about it; "" for nothing."""

    verdict: Verdict
    sentence: str
    remedy: str = ""


def diagnose(
    position: int, *, request: HttpRequest, user: Any, who: str = "", last_event_id: str = ""
) -> list[Finding]:
    """What speaks for and against that `user`'s client has had the message at `position`.

    Args:
        position: the event's id.
        request: any request to this site. The policy is asked about one that is like it, but of `user`.
        user: a user, or an AnonymousUser.
        who: what the findings call a user who is signed in; "" for their name.
        last_event_id: the last id that the client has, as it would send it; "" for none.

    The first finding is about the message itself, and good where it is in the log. Blocks: it queries, and asks the
    policy, whose async methods run by async_to_sync.
    """
    message = Message.objects.using(database()).filter(position=position).defer("data").first()
    if message is None:
        return list(_without_message(position))
    return [
        _in_log(message),
        *_about_user(message.channel, request, user, who),
        *_about_cursor(message.channel, position, last_event_id),
        _about_type(message.event),
        *_about_listeners(message.channel),
        *_about_neighbours(message.channel, position),
    ]


# --- The message ------------------------------------------------------------------------------------------------------


def _in_log(message: Message) -> Finding:
    told = {"id": message.position, "channel": message.channel, "time": in_words(message.created_at)}
    return Finding(
        Verdict.GOOD, _("Event %(id)s is in the log, on channel %(channel)s. It was published at %(time)s.") % told
    )


def _without_message(position: int) -> Iterator[Finding]:
    state = log.head()
    if log.read_epochs().is_lost(position):
        yield Finding(
            Verdict.BAD,
            _("Event %(id)s is of a history that is lost: the log was replaced by an older copy, or emptied.")
            % {"id": position},
            _(
                "Publish it again, if it is still needed. Clients that have an id of that history get a stream-reset "
                "event with the reason “unknown-id” when they come back."
            ),
        )
    elif position > state.head:
        yield Finding(
            Verdict.BAD,
            _("There is no event %(id)s: the newest is %(head)s.") % {"id": position, "head": state.head},
            _(
                "Look for the message in the list. A publish() inside a transaction that was rolled back never was; "
                "neither was one that raised an error, which the site's log has."
            ),
        )
    else:
        yield _gone(position, state.floor)
    if state.unsequenced:
        yield Finding(
            Verdict.NOTE,
            _(
                "Messages wait for their place in the log right now, and nobody has had them yet; it may be one of "
                "them."
            ),
            _(
                "That takes a moment where a process streams or publishes. Where none does, open a stream, or run "
                "“manage.py publish”."
            ),
        )


def _gone(position: int, floor: int) -> Finding:
    # Whose event it was is not known any more, and so whose mark would tell of it.
    marks = Channel.objects.using(database()).filter(pruned_through__gte=position)
    if floor < position and not marks.exists():
        return Finding(
            Verdict.BAD,
            _("Event %(id)s is not in the log, and it was not pruned: its row was deleted in some other way.")
            % {"id": position},
            _(
                "Look for code, or a person, that deletes rows of the log. Clients cannot be told of a gap that nobody "
                "recorded: leave deleting to the retention."
            ),
        )
    return Finding(
        Verdict.BAD,
        _(
            "Event %(id)s is no longer in the log: it was pruned, unless its row was deleted in some other way. "
            "Clients that come back from before a pruned event are told so, by a stream-reset event with the reason "
            "“pruned”."
        )
        % {"id": position},
        _(
            "Have the page's script handle stream-reset, by loading its state anew. To keep messages for longer, raise "
            "the retention of the channel, or RETENTION_SECONDS."
        ),
    )


def _about_neighbours(channel: str, position: int) -> Iterator[Finding]:
    rows = Message.objects.using(database()).filter(channel=channel).values_list("position", flat=True)
    newer = rows.filter(position__gt=position).order_by("position").first()
    older = rows.filter(position__lt=position).order_by("-position").first()
    if newer is not None:
        yield Finding(
            Verdict.NOTE,
            _("The next event of the channel is %(id)s.") % {"id": newer},
            _(
                "Ask whether they got that one. If they did, their stream works, and the page's script has lost this "
                "event; if not, look at their connection."
            ),
        )
    elif older is not None:
        yield Finding(
            Verdict.NOTE,
            _("It is the newest event of the channel; the one before it is %(id)s.") % {"id": older},
            _("Ask whether they got that one, or send this one again, to see whether anything comes at all."),
        )


# --- The user ---------------------------------------------------------------------------------------------------------


def _about_user(channel: str, request: HttpRequest, user: Any, called: str) -> Iterator[Finding]:
    who = (called or user.get_username()) if user.is_authenticated else _("Somebody who is not signed in")
    told = {"who": who, "channel": channel}
    if user.is_authenticated and not user.is_active:
        yield Finding(
            Verdict.BAD,
            _("The account of %(who)s is not active. Their requests count as those of somebody who is not signed in.")
            % told,
            _("Make the account active again, if it is to be used."),
        )
        user = AnonymousUser()  # as ModelBackend.get_user() has it
    try:
        refused = refused_to(request, user, (channel,))
        readers = get_policy().readers(channel) if refused else ""
    except Exception as error:
        logger.warning("The policy failed when it was asked for a diagnosis.", exc_info=True)
        yield Finding(
            Verdict.BAD,
            _("The policy could not say whether %(who)s may read %(channel)s: it raised %(error)s.")
            % {**told, "error": _short(f"{type(error).__name__}: {error}")},
            _("Mend the policy that STREAMS['POLICY'] names. Until then such requests get an error, and no stream."),
        )
        return
    if refused:
        remedy = _(
            "Say in the channel's settings who may read it, or change the policy. A stream of several channels is "
            "refused as a whole if one of them is."
        )
        if private_prefix(channel):
            remedy = _(
                "The channel belongs to one user or to one answer, so its settings cannot open it. Publish to a "
                "channel that they may read, or change the policy."
            )
        yield Finding(
            Verdict.BAD,
            _("%(who)s may not read %(channel)s. Who may: %(readers)s") % {**told, "readers": readers},
            remedy,
        )
    else:
        yield Finding(
            Verdict.GOOD,
            _("%(who)s may read %(channel)s, by the policy as it is now.") % told,
            _(
                "A policy that looks at more than the user, such as an address or a token, may decide otherwise for "
                "them."
            ),
        )


def refused_to(request: HttpRequest, user: Any, channels: Sequence[str]) -> list[str]:
    """Return those of `channels` that `user` cannot read. `request`: any request to this site. Blocks."""
    # What a stream's view asks; it asks acan_subscribe() for a channel, which may ask can_subscribe().
    return async_to_sync(get_policy().aask_to_read)(_request_of(request, user), channels)


def _request_of(request: HttpRequest, user: Any) -> HttpRequest:
    """A plain GET request like `request`, but of `user`, and with nothing of who asks."""
    asked = copy.copy(request)
    empty_form(asked)

    async def auser() -> Any:
        return user

    asked.user, asked.auser = user, auser
    asked.session = SessionBase()  # empty, and of nobody
    asked.method = "GET"
    asked.GET, asked.COOKIES = QueryDict(), {}
    asked.META = {name: value for name, value in request.META.items() if name not in PRIVATE_META}
    asked.META["QUERY_STRING"] = ""
    # Each handler's request has what came from the server as well, as it came.
    if hasattr(request, "environ"):
        asked.environ = asked.META  # type: ignore[attr-defined]
    if hasattr(request, "scope"):
        asked.scope = _scope_of(request.scope)  # type: ignore[attr-defined]
    return asked


def _scope_of(scope: Mapping[str, Any]) -> dict[str, Any]:
    headers = [(name, value) for name, value in scope.get("headers", ()) if name.lower() not in PRIVATE_HEADERS]
    kept = {name: value for name, value in scope.items() if name not in PRIVATE_SCOPE}
    return {**kept, "method": "GET", "query_string": b"", "headers": headers}


# --- What their client has --------------------------------------------------------------------------------------------


def _about_cursor(channel: str, position: int, cursor: str) -> Iterator[Finding]:
    """What a stream that begins with `cursor` would bring; the cases in the order in which a stream looks at them."""
    head = log.head().head
    if not cursor:
        yield _without_cursor(channel, position, head)
    elif not (cursor.isascii() and cursor.isdigit()):
        yield _reset(channel, position, cursor, "malformed-id", _("“%(cursor)s” is no id that a log gives."))
    elif len(cursor) > MAX_POSITION_DIGITS or int(cursor) > head:
        yield _reset(
            channel,
            position,
            cursor,
            "unknown-id",
            _("The log knows no id “%(cursor)s”; its newest is %(head)s."),
            head,
        )
    elif log.read_epochs().is_lost(int(cursor)):
        yield _reset(
            channel,
            position,
            cursor,
            "unknown-id",
            _("The id “%(cursor)s” is of a history that is lost: the log was replaced by an older copy, or emptied."),
        )
    elif int(cursor) >= position:
        yield Finding(
            Verdict.BAD,
            _("The client says that it has had everything up to %(cursor)s, and this event is not above that.")
            % {"cursor": int(cursor)},
            _(
                "It is not sent again. If the id came with the page, by stream_url, the message belongs into the "
                "page's own data, for it was published before. Else the event has reached the browser: look in the "
                "page's script what became of it."
            ),
        )
    else:
        yield from _replay(channel, position, int(cursor))


def _without_cursor(channel: str, position: int, head: int) -> Finding:
    most = settings.MAX_REPLAY_MESSAGES
    newest = _count(channel, position - 1, head, most)
    begins = _(
        "No last event id was given: the client has none, or it is not known. Without one its stream begins at the "
        "head, which is %(head)s now, and brings only what is published from then on: this event only if the stream "
        "was open when it was published. A view may send a snapshot first (get_snapshot)."
    ) % {"head": head}
    look = _(
        "If it has one: in the browser's developer tools, “Network” shows it, as Last-Event-ID or as last_event_id in "
        "the stream's URL. Name it here."
    )
    if newest > most:
        remedy = _(
            "If it has none: this event is too far back for ?replay=, which brings the newest %(most)d messages at "
            "most (MAX_REPLAY_MESSAGES). Show it in the page's own data, and connect with stream_url, which goes on "
            "from there."
        ) % {"most": most}
    else:
        remedy = _(
            "If it has none: use stream_url in the page's template, which puts the head into the URL, so that nothing "
            "is missed between the page and the stream. Or ask for the newest messages: ?replay=%(n)d or more brings "
            "this one now, unless the view sends a snapshot (get_snapshot), which stands in for them."
        ) % {"n": newest}
    return Finding(Verdict.NOTE, begins, f"{look} {remedy}")


def _reset(channel: str, position: int, cursor: str, reason: str, why: str, head: int = 0) -> Finding:
    before = _count(channel, 0, position - 1, MAX_COUNTED)
    sentence = why % {"cursor": _short(cursor), "head": head}
    brings = _(
        "The stream begins with a stream-reset event (%(reason)s), and then brings everything that is retained: this "
        "event too, after %(before)s, unless the view sends a snapshot (get_snapshot), which stands in for all that "
        "is retained."
    ) % {"reason": reason, "before": _messages(before)}
    return Finding(
        Verdict.NOTE,
        f"{sentence} {brings}",
        _(
            "Have the page keep the id that the stream gives it, and nothing else, and handle stream-reset. After the "
            "log was replaced by an older copy, ids that the copy does not have are unknown, once for each client. If "
            "the database cannot notice that, an operator has to run “manage.py start_new_epoch”."
        ),
    )


def _replay(channel: str, position: int, cursor: int) -> Iterator[Finding]:
    before = _count(channel, cursor, position - 1, MAX_COUNTED)
    told = {"cursor": cursor, "before": _messages(before)}
    lost = log.pruned([channel], cursor)
    if lost:
        yield Finding(
            Verdict.NOTE,
            _(
                "Messages of the channel above %(cursor)s were pruned; the newest of them was %(lost)s. A stream from "
                "%(cursor)s begins with a stream-reset event (pruned), unless the process still has them in "
                "memory; then comes what is retained: this event too, after %(before)s, unless the view sends a "
                "snapshot (get_snapshot), which stands in for all that is retained."
            )
            % {**told, "lost": lost[channel]},
            _(
                "Have the page's script handle stream-reset, by loading its state anew, and still take what comes "
                "after."
            ),
        )
    else:
        yield Finding(
            Verdict.GOOD,
            _("A stream that goes on from %(cursor)s brings this event, after %(before)s.") % told,
            _(
                "So it comes as soon as the client connects and is admitted. See whether it does: in the browser's "
                "developer tools, “Network” shows the stream and its answer."
            ),
        )


def _count(channel: str, after: int, through: int, most: int) -> int:
    """How many messages the channel has in (after, through]; most + 1 stands for more."""
    rows = Message.objects.using(database()).filter(channel=channel, position__gt=after, position__lte=through)
    return rows.order_by("position")[: most + 1].count()


def _messages(n: int) -> str:
    if n > MAX_COUNTED:
        return _("more than %(n)d other messages of the channel") % {"n": MAX_COUNTED}
    return ngettext("%(n)d other message of the channel", "%(n)d other messages of the channel", n) % {"n": n}


# --- The page, and who listens ----------------------------------------------------------------------------------------


def _about_type(event: str) -> Finding:
    if event == "message":
        return Finding(Verdict.GOOD, _("Its type is “message”: an EventSource hands it to onmessage."))
    if event in SOURCE_EVENTS:
        return Finding(
            Verdict.BAD,
            _("Its type is “%(type)s”, which is an event of EventSource's own: scripts take the one for the other.")
            % {"type": event},
            _("Publish it with another type, and have the page listen for that one."),
        )
    return Finding(
        Verdict.NOTE,
        _(
            "Its type is “%(type)s”: an EventSource hands it to addEventListener(“%(type)s”, …) alone. "
            "onmessage never sees it."
        )
        % {"type": _short(event)},
        _("Look in the page's script whether it listens for this type, in exactly this spelling."),
    )


def _about_listeners(channel: str) -> Iterator[Finding]:
    n = presence.audience(channel)
    nodes = presence.nodes()
    if n:
        yield Finding(
            Verdict.GOOD,
            ngettext("%(n)d connection has %(channel)s now.", "%(n)d connections have %(channel)s now.", n)
            % {"n": n, "channel": channel},
            _("Whether theirs is among them cannot be seen from here."),
        )
    elif not presence.is_audience_whole():
        yield Finding(
            Verdict.NOTE,
            _(
                "It is not known whether anybody has %(channel)s now: there are processes with so many channels that "
                "they name only the %(most)d with most connections, and it is not among those."
            )
            % {"channel": channel, "most": presence.MAX_CHANNELS},
            _("See in the browser's developer tools, under “Network”, whether their page has a stream open."),
        )
    elif presence.connections() or any(node.connections for node in nodes):
        yield Finding(
            Verdict.BAD,
            _("Nobody has %(channel)s now, though there are streams of other channels.") % {"channel": channel},
            _("Look whether the page's stream names this channel, in exactly this spelling; case counts."),
        )
    else:
        yield Finding(
            Verdict.BAD,
            _("Nobody has a stream now, of this channel or of any other."),
            _(
                "Open the page. If nobody is counted then, see whether the site is served by ASGI, whether its urls.py "
                "includes streams.urls, and what the browser's console says. With PRESENCE_SECONDS = None processes do "
                "not tell one another whom they serve."
            ),
        )
    for node in nodes:
        if node.notifier_problem:
            yield Finding(
                Verdict.NOTE,
                _("Process %(node)s does not hear of new messages: %(problem)s")
                % {"node": node, "problem": node.notifier_problem},
                _("It finds them by looking, every POLL_SECONDS: its clients get them late, and none is lost."),
            )


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
