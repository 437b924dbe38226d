"""The page that describes the API: of its own, readable without scripts, and closed to everything from elsewhere."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from django.contrib.staticfiles import finders
from django.test import Client, override_settings

from streams.api.pages import marked, words
from streams.api.schema import document
from tests.sites import ROOT
from tests.test_project import Page

pytestmark = pytest.mark.django_db


def html() -> str:
    return Client().get("/api/docs/").content.decode()


def test_page_describes_every_operation_with_its_call() -> None:
    page = html()
    for path, item in document("/api/")["paths"].items():
        for method, operation in item.items():
            assert f'<h3 id="{operation["operationId"]}">' in page
            assert f'<span class="method">{method.upper()}</span> <code>{path}</code>' in page
    assert "curl http://testserver/api/channels/news/messages/" in page
    assert "Idempotency-Key" in page
    assert 'href="/api/schema/"' in page


def test_page_takes_nothing_from_elsewhere_and_its_policy_says_so() -> None:
    answer = Client().get("/api/docs/")
    page = Page(answer.content.decode())
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert page.inline == []
    assert [attrs["href"] for tag, attrs in page.elements if tag == "link"] == ["/static/streams/api.css"]
    assert not [tag for tag, attrs in page.elements if tag in ("script", "style", "img", "form") or "style" in attrs]
    css = finders.find("streams/api.css")
    assert css is not None
    with open(css) as stylesheet:
        assert not re.search(r"url\(|@import", stylesheet.read())


@override_settings(STATIC_URL="https://static.example/s/")
def test_stylesheet_may_be_served_by_another_host() -> None:
    answer = Client().get("/api/docs/")
    assert "style-src https://static.example;" in answer.headers["Content-Security-Policy"]


def test_page_is_in_order() -> None:
    """Headings without a gap, ids once, and links that lead somewhere."""
    page = Page(html())
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {
        str(attrs["href"])[1:] for tag, attrs in page.elements if tag == "a" and str(attrs["href"]).startswith("#")
    }
    assert links <= set(ids)
    assert {attrs["aria-labelledby"] for _, attrs in page.elements if "aria-labelledby" in attrs} <= set(ids)
    assert all(attrs.get("tabindex") == "0" for tag, attrs in page.elements if tag == "pre"), "they scroll"


def test_what_is_shown_is_escaped() -> None:
    assert marked("a `<b>` & c") == "a <code>&lt;b&gt;</code> &amp; c"
    assert words({"enum": ["<i>"]}) == "<code>&lt;i&gt;</code>"


def test_schemas_in_words() -> None:
    assert words({"type": "string", "minLength": 1, "maxLength": 99}) == "text, 1 to 99 characters"
    assert words({"type": "array", "items": {"$ref": "#/x/Thing"}}) == 'list of <a href="#Thing">Thing</a>'
    assert (
        words({"oneOf": [{"type": "integer"}, {"type": "string"}], "nullable": True}) == "whole number or text, or null"
    )
    assert words({"type": "array", "items": {}, "maxItems": 1000}) == "list of any JSON; at most 1,000 of them"
    assert words({}) == "any JSON"


def test_demo_site_leads_there() -> None:
    assert '<a href="/api/docs/">API</a>' in Client().get("/").content.decode()


def test_reference_lists_all_codes() -> None:
    guide = (ROOT / "docs" / "reference" / "errors.md").read_text()
    guide = guide.partition("## The HTTP API\n")[2].partition("\n## ")[0]
    listed = {
        code for row in re.findall(r"^\| \d{3} \| (.*?) \|", guide, re.MULTILINE) for code in re.findall("`(.*?)`", row)
    }
    sources = "".join(path.read_text() for path in (ROOT / "streams" / "api").glob("*.py"))
    ours = set(re.findall(r'HTTPError\(\s*\d{3},\s*"([a-z-]+)"', sources))
    of_requests = {"too-many-parameters"}  # of streams as well
    of_tokens = {"invalid-token", "expired-token", "revoked-token"}
    of_drf = {"not-authenticated", "authentication-failed", "permission-denied", "method-not-allowed", "throttled"}
    assert listed == ours | of_requests | of_tokens | of_drf
