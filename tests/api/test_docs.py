"""The page that documents the API. tests/system/browser/test_api_docs.py tests it in a browser."""

from __future__ import annotations

import re

import pytest
from django.contrib.staticfiles import finders
from django.test import Client, modify_settings, override_settings
from rest_framework.permissions import IsAuthenticated

from streams.api.views.docs import Docs
from tests.api.callers import bearer, code, get, user
from tests.project.test_pages import Page
from tests.support.sites import ROOT

pytestmark = pytest.mark.django_db


def test_page_takes_nothing_from_elsewhere() -> None:
    answer = Client().get("/api/docs/")
    page = Page(answer.content.decode())
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert page.inline == []
    assert not [tag for tag, attrs in page.elements if tag == "style" or "style" in attrs]
    files = [attrs.get("src") or attrs.get("href") for _, attrs in page.elements if {"src", "href"} & attrs.keys()]
    assert len(files) == 4
    for file in files:
        assert file is not None
        assert file.startswith("/static/")
        assert finders.find(file.removeprefix("/static/"))


@override_settings(STATIC_URL="https://static.example/s/")
def test_static_files_can_come_from_another_host() -> None:
    policy = Client().get("/api/docs/").headers["Content-Security-Policy"]
    assert "script-src https://static.example; style-src https://static.example;" in policy


@modify_settings(INSTALLED_APPS={"remove": "drf_spectacular_sidecar"})
def test_page_without_sidecar_names_the_remedy() -> None:
    answer = get("/api/docs/")
    assert code(answer) == (501, "not-installed")
    assert "'drf_spectacular_sidecar' in INSTALLED_APPS" in answer.json()["error"]["message"]
    assert get("/api/schema/").status_code == 200


def test_sites_permissions_hold_for_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code(get("/api/docs/", {"authorization": "Bearer streams.x"})) == (401, "invalid-token")
    monkeypatch.setattr(Docs, "permission_classes", [IsAuthenticated])
    assert get("/api/docs/").status_code == 401
    assert get("/api/docs/", bearer(read=["news"], user=user("ann"))).status_code == 200


def test_demo_site_leads_there() -> None:
    assert '<a href="/api/docs/">API</a>' in Client().get("/").content.decode()


def test_reference_lists_all_codes() -> None:
    guide = (ROOT / "docs" / "reference" / "errors.md").read_text()
    guide = guide.partition("## The HTTP API\n")[2].partition("\n## ")[0]
    listed = {
        code for row in re.findall(r"^\| \d{3} \| (.*?) \|", guide, re.MULTILINE) for code in re.findall("`(.*?)`", row)
    }
    sources = "".join(path.read_text() for path in (ROOT / "streams" / "api").rglob("*.py"))
    ours = set(re.findall(r'HTTPError\(\s*\d{3},\s*"([a-z-]+)"', sources))
    of_requests = {"too-many-parameters", "invalid-json", "too-many-values"}  # streams and the relay use these as well
    of_tokens = {"invalid-token", "expired-token", "revoked-token"}
    of_drf = {"not-authenticated", "authentication-failed", "permission-denied", "method-not-allowed", "throttled"}
    assert listed == ours | of_requests | of_tokens | of_drf
