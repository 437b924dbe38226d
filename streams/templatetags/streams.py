"""{% load streams %} and {% stream_url "news" %}: a stream's URL that goes on from where the page stands."""

from __future__ import annotations

from urllib.parse import urlencode

from django import template
from django.urls import reverse

from streams import log
from streams.events import validate_channels
from streams.redaction import PARAMETER

register = template.Library()


@register.simple_tag
def stream_url(*channels: str, token: str | None = None) -> str:
    """The URL of a stream of `channels`, with the head of this moment as its cursor, and with a signed token where one
    is given: `{% stream_url "job.17" token=token %}`.

    What is published after this line was rendered reaches the page. So render it before the page's own data, or take
    it in the view before the data is read: then nothing falls in between. At worst something comes twice in effect.

    In an attribute it stands as it is. In a script, `{% stream_url "a" "b" as url %}` and `{{ url|escapejs }}`.
    """
    names = validate_channels(channels)
    if not names:
        raise template.TemplateSyntaxError("{% stream_url %} takes the names of one or more channels.")
    # The head as it stands: sequencing here would hold the head's lock until the request's transaction ends.
    query: list[tuple[str, object]] = [("last_event_id", log.head().head)]
    if token:
        query.append((PARAMETER, token))
    # A browser takes `/./` and `/../` out of a path.
    if len(names) == 1 and names[0] not in (".", ".."):
        return f"{reverse('streams:channel', args=names)}?{urlencode(query)}"
    return f"{reverse('streams:channels')}?{urlencode([*(('channel', name) for name in names), *query])}"
