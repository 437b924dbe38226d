"""Texts and how the admin shows them, for the tests of the template filter and of the script.

"[U+…]" stands for an invisible character that is shown as its code point.
"""

from __future__ import annotations

# {name: (text, shown text)}. The shown text is None if the text is shown unchanged.
SHOWN: dict[str, tuple[str, str | None]] = {
    # Emoji
    "selector": ("⚠\ufe0f ❤\ufe0f", None),
    "text selector": ("☎\ufe0e", None),
    "family": ("👨\u200d👩\u200d👧", None),
    "couple": ("👩🏽\u200d❤\ufe0f\u200d💋\u200d👨🏿", None),
    "pirates": ("🏴\u200d☠\ufe0f", None),
    "rainbow": ("🏳\ufe0f\u200d🌈", None),
    "eye": ("👁\ufe0f\u200d🗨\ufe0f", None),
    "direction": ("🏃🏻\u200d♀\ufe0f\u200d➡\ufe0f", None),
    "skin tone": ("👍🏽 ✌🏿 ☝\ufe0f", None),
    "keycaps": ("1\ufe0f\u20e3 #\ufe0f\u20e3 *\ufe0f\u20e3", None),
    "flag": ("🇦🇹🇪🇺", None),
    "England": ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", None),
    "Texas": ("🏴\U000e0075\U000e0073\U000e0074\U000e0078\U000e007f", None),
    # Joiners that scripts need
    "Persian": ("می\u200cخواهم", None),
    "Persian, joined by mark": ("کتابِ\u200cما", None),
    "Arabic initial form": ("١٤٤٥ ه\u200d.", None),
    "Hindi": ("क्\u200dष क्\u200cष", None),
    "Bengali": ("র\u200d্যাব", None),
    "Malayalam, at the end": ("അവന്\u200d വന്നു", None),
    "Sinhala": ("ශ්\u200dරී", None),
    "Mongolian": ("ᠭᠣᠣ\u180e\u1820 ᠰ\u180b", None),
    "Han variant": ("葛\U000e0100城", None),
    "mathematics": ("≨\ufe00", None),
    # Invisible characters that no emoji or script needs
    "space": ("a\u200bb", "a[U+200B]b"),
    "joiner": ("a\u200db", "a[U+200D]b"),
    "non-joiner": ("pay\u200cpal", "pay[U+200C]pal"),
    "override": ("a\u202eb", "a[U+202E]b"),
    "override in Persian": ("می\u202eخواهم", "می[U+202E]خواهم"),
    "mark of direction": ("ا\u200fب\u061c", "ا[U+200F]ب[U+061C]"),
    "isolate": ("\u2066👍\u2069", "[U+2066]👍[U+2069]"),
    "selector behind a letter": ("a\ufe0f", "a[U+FE0F]"),
    "selector behind a digit": ("1\ufe0f", "1[U+FE0F]"),
    "two selectors": ("❤\ufe0f\ufe0f", "❤\ufe0f[U+FE0F]"),
    "many selectors": ("😀\U000e0101\U000e0102", "😀[U+E0101][U+E0102]"),
    "two joiners": ("👨\u200d\u200d👩", "👨[U+200D][U+200D]👩"),
    "joiner before a letter": ("👨\u200da", "👨[U+200D]a"),
    "joiner at the start": ("\u200d👨", "[U+200D]👨"),
    "joiner at the end": ("👨\u200d", "👨[U+200D]"),
    "non-joiner between emoji": ("👨\u200c👩", "👨[U+200C]👩"),
    "two non-joiners": ("می\u200c\u200cخواهم", "می[U+200C][U+200C]خواهم"),
    "non-joiner at the end": ("می\u200c", "می[U+200C]"),
    "joiner between digits": ("۱\u200d۲ १\u200c२", "۱[U+200D]۲ १[U+200C]२"),
    "joiners behind a virama": ("क्\u200d\u200dष", "क्\u200d[U+200D]ष"),
    "tags alone": ("a\U000e0068\U000e0069", "a[U+E0068][U+E0069]"),
    "tags behind another emoji": ("😀\U000e0067\U000e0062\U000e007f", "😀[U+E0067][U+E0062][U+E007F]"),
    "tags without an end": ("🏴\U000e0067\U000e0062\U000e0065", "🏴[U+E0067][U+E0062][U+E0065]"),
    "tags in capitals": ("🏴\U000e0047\U000e0042\U000e0045\U000e007f", "🏴[U+E0047][U+E0042][U+E0045][U+E007F]"),
    "tags that are too long": (
        "🏴" + "\U000e0061" * 7 + "\U000e007f",
        "🏴" + "[U+E0061]" * 7 + "[U+E007F]",
    ),
    "chain that is too long": ("😀" + "\u200d😀" * 11, "😀" + "\u200d😀" * 9 + "[U+200D]😀\u200d😀"),
    "soft hyphen": ("a\u00adb", "a[U+00AD]b"),
    "grapheme joiner": ("a\u034fb", "a[U+034F]b"),
    "filler": ("a\u3164\uffa0", "a[U+3164][U+FFA0]"),
    "control": ("\0\r", "[U+0000][U+000D]"),
    "tab and line feed": ("a\tb\nc", None),
}

# {name: (text, limit, beginning of the text)}
BEGINNINGS: dict[str, tuple[str, int, str]] = {
    "short": ("abc", 3, "abc"),
    "letters": ("abcd", 3, "abc"),
    "family": ("ab👨\u200d👩\u200d👧", 6, "ab"),
    "selector": ("abc❤\ufe0f", 4, "abc"),
    "behind": ("a❤\ufe0fbc", 3, "a❤\ufe0f"),
    "flag": ("abc🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", 9, "abc"),
    "word": ("می\u200cخواهم", 3, "می"),
}
