"""{% load streams %} provides {% stream_url "news" %}: the URL of a stream that continues where the page ends."""

from __future__ import annotations

from urllib.parse import urlencode

from django import template
from django.urls import NoReverseMatch, get_urlconf

from streams import log
from streams.conf import settings
from streams.http.mounts import namespace_of, reverse_mounted
from streams.protocol.events import validate_channels
from streams.redaction import PARAMETER

register = template.Library()

APP_NAME = "streams"  # in streams.urls


@register.simple_tag(takes_context=True)
def stream_url(
    context: template.Context,
    *channels: str,
    token: str | None = None,
    replay: int | None = None,
    end: str = "",
    refuse: str = "",
) -> str:
    """Return the URL of a stream of `channels`, with the current head of the log as its cursor.

    Every message that is published after this tag was rendered reaches the page. So place the tag before the data of
    the page, or get the URL in the view before you query the data. Then no message is lost in between; a message can
    at most be both in the page's data and in the stream.

    Arguments of the tag:
        token: a signed token for the stream, as in `{% stream_url "job.17" token=token %}`.
        replay: the number of messages to replay to each new client, instead of a cursor. This URL never changes, so it
            can be used in cached pages.
        end: with "error", a stream that is cut short ends with a network error. Clients that use fetch need this; see
            docs/guides/clients.md.
        refuse: with "event", a refusal that passes, such as that of a limit, is sent as an event, after which an
            EventSource reconnects; with "status", as a status. The default is the setting REFUSE_IN_BAND.

    In a script, write `{% stream_url "a" "b" as url %}` and `{{ url|escapejs }}`.
    """
    names = validate_channels(channels)
    if not names:
        raise template.TemplateSyntaxError("{% stream_url %} requires one or more channel names.")
    query: list[tuple[str, object]] = []
    if replay is None:
        # Read the head without sequencing, which could hold its lock until the request's transaction ends.
        query.append(("last_event_id", log.head().head))
    elif not isinstance(replay, int) or isinstance(replay, bool) or not 0 <= replay <= settings.MAX_REPLAY_MESSAGES:
        raise template.TemplateSyntaxError(
            f"{{% stream_url %}}: replay must be a whole number from 0 to {settings.MAX_REPLAY_MESSAGES} "
            f"(STREAMS['MAX_REPLAY_MESSAGES']); got {replay!r}."
        )
    elif replay:
        query.append(("replay", replay))
    if token:
        query.append((PARAMETER, token))
    if end:
        query.append(("end", end))
    if refuse:
        query.append(("refuse", refuse))
    # Browsers remove `/./` and `/../` from a path.
    if len(names) == 1 and names[0] not in (".", ".."):
        url = _reverse(context, "channel", names)
    else:
        url = _reverse(context, "channels", ())
        query = [*(("channel", name) for name in names), *query]
    return f"{url}?{urlencode(query)}" if query else url


def _reverse(context: template.Context, name: str, args: tuple[str, ...]) -> str:
    """Reverse a URL of streams.urls. If it is included several times, prefer the namespace closest to the page's."""
    request = getattr(context, "request", None) or context.get("request")
    try:
        return reverse_mounted(APP_NAME, name, args, near=namespace_of(request))
    except NoReverseMatch:
        raise NoReverseMatch(
            "{% stream_url %} found no URL of streams.urls in the URLconf "
            f'{get_urlconf() or "ROOT_URLCONF"}. Add path("events/", include("streams.urls")) to it. (If it is '
            "included below a prefix with parameters, such as <int:shop>/, use {% url %} instead.)"
        ) from None
