"""{% load streams %} and {% stream_url "news" %}: a stream's URL that goes on from where the page stands."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import template
from django.urls import NoReverseMatch, get_urlconf, reverse

from streams import log
from streams.conf import settings
from streams.events import validate_channels
from streams.private.django import namespaces_of
from streams.redaction import PARAMETER

register = template.Library()

APP_NAME = "streams"  # in streams.urls


@register.simple_tag(takes_context=True)
def stream_url(
    context: template.Context, *channels: str, token: str | None = None, replay: int | None = None, end: str = ""
) -> str:
    """The URL of a stream of `channels`, with the head of this moment as its cursor, and with a signed token where one
    is given: `{% stream_url "job.17" token=token %}`.

    What is published after this line was rendered reaches the page. So render it before the page's own data, or take
    it in the view before the data is read: then nothing falls in between. At worst something comes twice in effect.

    With `replay=N` the URL has no cursor: each new visitor gets the newest N messages, and then what is published from
    then on. This URL is the same for all visitors at all times, as a page that is cached for long needs it.

    With `end="error"`, a stream that is cut short ends with a network error. Clients on fetch need that; see
    docs/guides/clients.md.

    In an attribute it stands as it is. In a script, `{% stream_url "a" "b" as url %}` and `{{ url|escapejs }}`.
    """
    names = validate_channels(channels)
    if not names:
        raise template.TemplateSyntaxError("{% stream_url %} takes the names of one or more channels.")
    query: list[tuple[str, object]] = []
    if replay is None:
        # The head as it stands: sequencing here would hold the head's lock until the request's transaction ends.
        query.append(("last_event_id", log.head().head))
    elif _checked_replay(replay):
        query.append(("replay", replay))
    if token:
        query.append((PARAMETER, token))
    if end:
        query.append(("end", end))
    # A browser takes `/./` and `/../` out of a path.
    if len(names) == 1 and names[0] not in (".", ".."):
        url = _reverse(context, "channel", names)
    else:
        url = _reverse(context, "channels", ())
        query = [*(("channel", name) for name in names), *query]
    return f"{url}?{urlencode(query)}" if query else url


def _checked_replay(replay: Any) -> int:
    most = settings.MAX_REPLAY_MESSAGES
    if not isinstance(replay, int) or isinstance(replay, bool) or not 0 <= replay <= most:
        raise template.TemplateSyntaxError(
            f"{{% stream_url %}}: replay is a whole number from 0 to {most} (STREAMS['MAX_REPLAY_MESSAGES']); "
            f"got {replay!r}."
        )
    return replay


def _reverse(context: template.Context, name: str, args: tuple[str, ...]) -> str:
    """Return the URL of a pattern of streams.urls, in the mount that is nearest to the page's own namespace."""
    request = getattr(context, "request", None) or context.get("request")
    match = getattr(request, "resolver_match", None)
    current = getattr(request, "current_app", None) or getattr(match, "namespace", "")
    here = current.split(":") if current else []

    def distance(namespace: str) -> tuple[int, bool]:
        path = namespace.split(":")
        shared = next(
            (n for n, (a, b) in enumerate(zip(path, here, strict=False)) if a != b), min(len(path), len(here))
        )
        return -shared, path[-1] != APP_NAME  # then the instance that has no name of its own

    for namespace in sorted(namespaces_of(APP_NAME), key=distance) or [APP_NAME]:
        try:
            return reverse(f"{namespace}:{name}", args=args, current_app=current or None)
        except NoReverseMatch:
            continue
    raise NoReverseMatch(
        "{% stream_url %} found no URL of streams.urls in the URLconf "
        f'{get_urlconf() or "ROOT_URLCONF"}. Add path("events/", include("streams.urls")) to it. (A mount below a '
        "prefix with parameters, such as <int:shop>/, cannot be found: write its URL with {% url %}.)"
    )
