"""Make the pictures of the documentation from the running demo site: python -m docs.make_pictures"""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.browser.browsers import CHROMIUM, CHROMIUM_OPTIONS
from tests.sites import Site

DOCS = Path(__file__).resolve().parent
STAFF = {"is_staff": True, "is_superuser": True}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(f"sqlite:///{folder}/db.sqlite3", Path(folder))
        site.manage("migrate", "-v0")
        server = site.serve()
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
                context = browser.new_context(viewport={"width": 960, "height": 1060})
                name, _, value = server.log_in("editor", **STAFF).partition("=")
                context.add_cookies([{"name": name, "value": value, "url": server.url}])
                page = context.new_page()
                page.goto(server.url)
                live = page.locator("#state[data-state=live]")
                expect(live).to_be_visible()
                site.manage("publish", "news", "The night train to Vienna leaves from platform 7.")
                site.manage("publish", "news", "Doors close two minutes before departure.", "--event", "alert")
                expect(page.locator("#events .data")).to_have_count(2)
                page.get_by_role("button", name="Drop the connection").click()
                site.manage("publish", "news", "Platform 9, not 7.", "--event", "correction")
                page.get_by_role("button", name="Connect again").click()
                expect(live).to_be_visible()
                page.wait_for_timeout(1500)
                page.screenshot(path=DOCS / "board.png")
                browser.close()
        finally:
            site.close()


if __name__ == "__main__":
    main()
