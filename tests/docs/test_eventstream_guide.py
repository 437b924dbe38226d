"""docs/guides/coming-from-django-eventstream.md: its examples run, and it names what the module has."""

from __future__ import annotations

import re
import textwrap

import pytest
from django.urls import URLPattern, URLResolver, path
from django.urls.resolvers import RegexPattern

import streams.eventstream
from streams import checks
from tests.support.sites import ROOT

pytestmark = pytest.mark.once

GUIDE = (ROOT / "docs" / "guides" / "coming-from-django-eventstream.md").read_text()
EXAMPLES = [textwrap.dedent(text) for text in re.findall(r"^```python\n(.*?)```", GUIDE, re.DOTALL | re.MULTILINE)]


def test_examples_run() -> None:
    names: dict[str, object] = {}
    for text in EXAMPLES:
        exec(text, names)
    assert names["send_event"] is streams.eventstream.send_event
    urls = names["urlpatterns"]
    assert isinstance(urls, list)
    root = URLResolver(RegexPattern(r"^/"), urls)
    match = root.resolve("/rooms/7/events/")
    assert (match.func, match.kwargs["room_id"]) == (streams.eventstream.events, "7")
    assert isinstance(path("", streams.eventstream.events), URLPattern)


def test_every_name_and_setting_is_in_the_guide() -> None:
    names = set(streams.eventstream.__all__) - {"events", "urls"}
    assert {name for name in names if name not in GUIDE} == set()
    assert {name for name in checks.REPLACED if name not in GUIDE} == set()
