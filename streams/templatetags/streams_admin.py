"""{% load streams_admin %}: template filters that show untrusted text in the admin."""

from __future__ import annotations

import re
import unicodedata

from django import template
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from streams.exceptions import InvalidMessage
from streams.protocol.json_bodies import check_json

register = template.Library()

# Characters that are invisible or that change the display of other text: control characters except tab and line feed,
# line and paragraph separators, and Unicode's Default_Ignorable_Code_Point (direction marks, zero-width characters,
# joiners, variation selectors, tags).
_INVISIBLE = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)

# Blocks that contain all emoji except the digits of keycaps. Their other characters are visible symbols.
_EMOJI = (
    "[\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
)
# Letters and marks of scripts that use joiners. Cursive: Arabic, Syriac, N'Ko, Mandaic and Mongolian. Indic: Devanagari
# to Sinhala, Myanmar and Khmer. A virama is an Indic mark that suppresses a vowel.
_CURSIVE = (
    "\u0620-\u065f\u066e-\u06d3\u06d5-\u06dc\u06df-\u06e8\u06ea-\u06ef\u06fa-\u06ff\u0710-\u077f\u07ca-\u07f5"
    "\u0840-\u085b\u0860-\u086a\u0870-\u0887\u08a0-\u08e1\u08e3-\u08ff\u1820-\u18aa"
)
_INDIC = (
    "\u0900-\u0963\u0970-\u09e3\u09f0-\u0a63\u0a70-\u0ae3\u0af0-\u0b63\u0b70-\u0be3\u0bf0-\u0c63\u0c70-\u0ce3"
    "\u0cf0-\u0d63\u0d70-\u0de3\u0df2-\u0df3\u1000-\u103f\u1050-\u108f\u109a-\u109d\u1780-\u17b3\u17b6-\u17d3"
)
_VIRAMA = "[\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca\u1039\u103a\u17d2]"
_HAN = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"

# The only places in which an invisible character belongs to the text. Elsewhere it could hide something.
_IN_CONTEXT = "|".join(
    (
        # The flag of a region such as Scotland, spelled in tag characters (UTS #51, emoji tag sequences).
        "\U0001f3f4[\U000e0061-\U000e007a]{2}[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,4}\U000e007f",
        "[0-9#*]\ufe0f\u20e3",  # a keycap
        # An emoji with an optional selector, or several joined emoji. The longest sequence in use has four.
        f"{_EMOJI}[\ufe0e\ufe0f]?(?:\u200d{_EMOJI}[\ufe0e\ufe0f]?|[\U0001f3fb-\U0001f3ff]){{0,9}}",
        # Joiners as allowed in domain names (RFC 5892, appendices A.1 and A.2), and between letters of these scripts.
        f"{_VIRAMA}[\u200c\u200d]",
        f"[{_CURSIVE}]\u200d",
        f"[{_CURSIVE}{_INDIC}][\u200c\u200d](?=[{_CURSIVE}{_INDIC}])",
        # Variation selectors of letters.
        f"{_HAN}[\ufe00-\ufe02\U000e0100-\U000e01ef]",
        "[\u1820-\u18aa][\u180b-\u180f]",
        "[\u1000-\u109f\u2200-\u22ff\u2a00-\u2aff]\ufe00",
    )
)

# The script base.js implements the same rule. A test compares both.
_PARTS = re.compile(f"{_IN_CONTEXT}|({_INVISIBLE})")


@register.filter
def visible(text: object) -> SafeString:
    """Escape the text and replace invisible characters by their codes.

    A right-to-left override (U+202E), for example, could reverse a line and hide its meaning. Emoji are unchanged, and
    so are the joiners that a script needs.
    """
    # Escaping adds and removes none of the characters that _PARTS matches.
    return mark_safe(_PARTS.sub(_code_of, escape(text)))  # noqa: S308 - codes and names have no special characters


def _code_of(match: re.Match[str]) -> str:
    if match[1] is None:
        return match[0]
    name = unicodedata.name(match[1], "CONTROL CHARACTER")
    return f'<span class="invisible" title="{name}">U+{ord(match[1]):04X}</span>'


# How many characters after the limit shorten() needs, to find the end of an emoji.
LONGEST_PART = 30


@register.filter
def shorten(text: str, limit: int) -> str:
    """Return the text if it has at most `limit` characters, otherwise its beginning and "…"."""
    return text if len(text) <= limit else f"{beginning(text, limit)}…"


def beginning(text: str, limit: int) -> str:
    """Return at most the first `limit` characters of the text, without cutting an emoji in two."""
    if len(text) <= limit:
        return text
    cut = next((match.start() for match in _PARTS.finditer(text) if match.end() > limit), limit)
    end = min(cut, limit)
    # Without its second letter, a joiner would be replaced by its code.
    return text[:end].rstrip("\u200c\u200d")


# The tokens of JSON: strings, punctuation, and everything else up to the next of these.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')

_OPENING, _CLOSING, _SPACED = {"{", "["}, {"}", "]"}, {":": ": "}

# Deeper levels are not indented further, to limit the length of the lines.
_MAX_INDENT = 40


@register.filter
def pretty(text: str) -> str:
    """Indent a JSON object or array, without changing how numbers are written. Return other text unchanged."""
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
