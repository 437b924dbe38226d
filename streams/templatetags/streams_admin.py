"""{% load streams_admin %}: filters of the admin's pages for what others have written."""

from __future__ import annotations

import re
import unicodedata

from django import template
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString, mark_safe

from streams.events import check_json
from streams.exceptions import InvalidMessage

register = template.Library()

# What cannot be seen, or changes how what follows is shown: control characters but for tab and line feed, the marks and
# overrides of writing direction, zero-width characters, and the line ends that no stream has.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


@register.filter
def visible(text: object) -> SafeString:
    """The text, escaped, with what cannot be seen written out: U+202E can turn a line around, and hide what it says."""
    parts = []
    start = 0
    source = str(text)
    for match in _INVISIBLE.finditer(source):
        code = f"U+{ord(match[0]):04X}"
        name = unicodedata.name(match[0], "CONTROL CHARACTER")
        parts += [
            conditional_escape(source[start : match.start()]),
            format_html('<span class="invisible" title="{}">{}</span>', name, code),
        ]
        start = match.end()
    parts.append(conditional_escape(source[start:]))
    return mark_safe("".join(parts))  # noqa: S308 - each part is escaped above


# JSON's tokens: strings, structure, and everything else up to the next of these.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')

_OPENING, _CLOSING, _SPACED = {"{", "["}, {"}", "]"}, {":": ": "}

# Deeper than that, lines are indented no further: they would only be longer.
_MAX_INDENT = 40


@register.filter
def pretty(text: str) -> str:
    """A JSON object or array with a line for each member, and its numbers as they are written; other text as it is."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        check_json(text)
    except InvalidMessage:
        return text
    parts: list[str] = []
    depth = 0
    before = ""
    for token in _TOKEN.findall(text):
        if token in _CLOSING:
            depth -= 1
            if before not in _OPENING:
                parts.append(_line(depth))
        elif before in {*_OPENING, ","}:
            parts.append(_line(depth))
        parts.append(_SPACED.get(token, token))
        if token in _OPENING:
            depth += 1
        before = token
    return "".join(parts)


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, _MAX_INDENT)
