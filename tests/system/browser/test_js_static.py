"""streams.js and its companions as collected static files: with hashed names, with and without the plain ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage
from django.core.management import call_command
from django.test import override_settings
from playwright.async_api import expect

from tests.system.browser.channel import Channel
from tests.system.browser.conftest import Tabs
from tests.system.browser.raw_streams import RawSite
from tests.system.javascript.test_package import MAX_BYTES

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


class ModuleStorage(ManifestStaticFilesStorage):
    """The storage that the guide shows."""

    support_js_module_import_aggregation = True


STORAGES = {
    "manifest": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage",
    "manifest with modules": f"{__name__}.ModuleStorage",
    "whitenoise": "whitenoise.storage.CompressedManifestStaticFilesStorage",
}


@pytest.fixture(params=STORAGES)
def collected(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    storages = {"staticfiles": {"BACKEND": STORAGES[request.param]}}
    with override_settings(
        STATIC_ROOT=str(tmp_path),
        STORAGES=storages,
        STATICFILES_FINDERS=["django.contrib.staticfiles.finders.AppDirectoriesFinder"],
    ):
        call_command("collectstatic", interactive=False, verbosity=0)
    return tmp_path


async def test_collected_modules_work(collected: Path, raw_site: RawSite, tabs: Tabs) -> None:
    """The page imports streams.js as well, under its hashed name. So it can be loaded twice."""
    names = json.loads((collected / "staticfiles.json").read_text())["paths"]
    files = {path.relative_to(collected).as_posix(): path.read_bytes() for path in collected.rglob("*.js")}
    if "whitenoise" in str(collected) or any(collected.rglob("*.gz")):
        assert len(next(collected.glob("streams/streams.*.js.gz")).read_bytes()) < MAX_BYTES
    page_text = f"""<!doctype html><html lang=en><link rel=icon href="data:,"><title>Page</title>
    <script type=module src="/static/{names["streams/elements.js"]}"></script>
    <script type=module>
      import {{ Stream }} from "/static/{names["streams/streams.js"]}";
      new Stream("/events/?last_event_id=0").onmessage = (event) => document.querySelector("p").append(event.data);
    </script>
    <p></p><stream-value src="/events/?last_event_id=0" field=title></stream-value>"""
    raw_site.files |= {f"/static/{name}": content for name, content in files.items()}
    raw_site.files["/"] = page_text.encode()
    channel = Channel(raw_site)
    page = await tabs.open(raw_site.url)
    await channel.news(1, "one")
    await expect(page.locator("stream-value")).to_have_text("one")
    await expect(page.locator("p")).to_contain_text('"title": "one"')
    assert tabs.complaints == []
