"""The template filters escape texts from other users, and show invisible characters as code points."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.templatetags.streams_admin import beginning, pretty, shorten, visible
from tests.admin.shown_texts import BEGINNINGS, SHOWN


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text\twith a tab\nand a line", "plain text\twith a tab\nand a line"),
        ("<b>&\"'", "&lt;b&gt;&amp;&quot;&#x27;"),
        ("a\u202eb", 'a<span class="invisible" title="RIGHT-TO-LEFT OVERRIDE">U+202E</span>b'),
        ("\0", '<span class="invisible" title="CONTROL CHARACTER">U+0000</span>'),
        ("\r", '<span class="invisible" title="CONTROL CHARACTER">U+000D</span>'),
        ("<\u200b>", '&lt;<span class="invisible" title="ZERO WIDTH SPACE">U+200B</span>&gt;'),
        ("", ""),
        (7, "7"),
    ],
    ids=["plain", "markup", "bidi", "nul", "cr", "between", "empty", "number"],
)
def test_visible(text: object, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("name", SHOWN)
def test_invisible_characters_by_context(name: str) -> None:
    text, shown = SHOWN[name]
    marked = re.sub(r'<span class="invisible" title="[^"]*">(.*?)</span>', r"[\1]", str(visible(text)))
    assert unescape(marked) == (text if shown is None else shown)


@pytest.mark.parametrize("name", BEGINNINGS)
def test_beginning_cuts_no_emoji(name: str) -> None:
    text, limit, expected = BEGINNINGS[name]
    assert beginning(text, limit) == expected
    assert shorten(text, limit) == (expected if text == expected else f"{expected}…")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            '{"a":1,"b":[true,null,"x, [y]: {z}"]}',
            '{\n  "a": 1,\n  "b": [\n    true,\n    null,\n    "x, [y]: {z}"\n  ]\n}',
        ),
        ('{ "price" : 1.10 , "big": 12345678901234567890.5e+400 }', None),
        ('{"a": 1, "a": 2}', '{\n  "a": 1,\n  "a": 2\n}'),
        ("[]", "[]"),
        ('{"a": {}}', '{\n  "a": {}\n}'),
        (r'["a\"b\\"]', '[\n  "a\\"b\\\\"\n]'),
        ("12", "12"),
        ('"text"', '"text"'),
        ("{not json", "{not json"),
        ("[NaN]", "[NaN]"),
        ("[" * 100_000, "[" * 100_000),
        ("", ""),
    ],
    ids=[
        "nested",
        "numbers",
        "twice",
        "empty",
        "inner",
        "escapes",
        "number",
        "string",
        "broken",
        "nan",
        "deep",
        "none",
    ],
)
def test_pretty(text: str, shown: str | None) -> None:
    expected = '{\n  "price": 1.10,\n  "big": 12345678901234567890.5e+400\n}' if shown is None else shown
    assert pretty(text) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.booleans())
def test_pretty_changes_only_whitespace(value: object, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)
    shown = pretty(text)
    assert json.loads(shown) == value
    if isinstance(value, list | dict):
        assert shown == json.dumps(value, ensure_ascii=ascii, indent=2)


@given(st.text())
def test_visible_escapes_markup(text: str) -> None:
    shown = str(visible(text))
    assert shown.count("<") == 2 * shown.count('<span class="invisible"')
