"""Take the screenshots in docs/images from the running demo site: python -m docs.make_pictures

With a folder, take screenshots of every page of the admin instead, light and dark, wide and narrow:
python -m docs.make_pictures FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from tests.support.sites import Server, Site, finish
from tests.system.browser.browsers import CHROMIUM, CHROMIUM_OPTIONS

IMAGES = Path(__file__).resolve().parent / "images"
STAFF = {"is_staff": True, "is_superuser": True}

ADMIN_PAGES = {
    "broadcasts": "broadcast/",
    "compose": "broadcast/add/",
    "draft": "broadcast/1/change/",
    "send": "broadcast/1/send/",
    "schedule": "broadcast/1/schedule/",
    "scheduled": "broadcast/2/change/",
    "sent": "broadcast/3/change/",
    "cancelled": "broadcast/4/change/",
    "monitor": "monitor/",
    "monitor-watching": "monitor/?channel=news+score.42&start=newest&n=4",
    "channels": "channelsettings/",
    "channel": "channelsettings/news/change/",
    "channel-reset": "channelsettings/news/delete/",
    "processes": "node/",
    "messages": "message/",
    "messages-none": "message/?text=nothing",
    "message": "message/2/change/",
    "message-again": "message/2/send-again/",
    "prune": "message/prune/",
    "why": "message/diagnosis/",
    "why-answer": "message/diagnosis/?message=2&user=&last_event_id=1",
    "index": "",  # of the whole admin
}

BROADCASTS = """
import datetime
from django.contrib.auth.models import User
from django.utils import timezone
from streams.broadcasts import lifecycle
from streams.models import Broadcast
editor = User.objects.get(username="editor")
text = {"title": "Night works", "channels": ["news", "staff"], "event": "alert", "payload": "No trains after 22:00."}
draft, scheduled, sent, cancelled = (Broadcast.objects.create(**text, created_by=editor) for _ in range(4))
for broadcast in (scheduled, cancelled):
    lifecycle.schedule(broadcast.pk, timezone.now() + datetime.timedelta(hours=9), by=editor)
lifecycle.cancel(cancelled.pk, by=editor)
lifecycle.send(sent.pk, by=editor)
"""

# What happened on the site before the screenshots.
HISTORY = """
from django.contrib.auth.models import User
from streams import NewMessage, publish, publish_many
from streams.models import ChannelSettings
editor = User.objects.get(username="editor")
ChannelSettings.objects.create(channel="news", title="News of the line", access="public")
ChannelSettings.objects.create(channel="staff", title="For the people on duty", access="staff", retention_seconds=86400)
publish("staff", "The lift at platform 3 is out of order.", published_by=editor)
publish("score.42", {"home": 2, "away": 1, "minute": 71}, event="goal")
publish_many([NewMessage("news", text, published_by=editor) for text in (
    "The night train to Vienna leaves from platform 7.", "Doors close two minutes before departure.")])
publish("news", {"line": "S7", "delay": 12}, event="alert", published_by=editor)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(f"sqlite:///{folder}/db.sqlite3", Path(folder)).settings(PRESENCE_SECONDS=1)
        site.manage("migrate", "-v0")
        server = site.serve()
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
                context = browser.new_context(viewport={"width": 960, "height": 1060})
                name, _, value = server.log_in("editor", **STAFF).partition("=")
                context.add_cookies([{"name": name, "value": value, "url": server.url}])
                if len(sys.argv) > 1:
                    finish(site.script(HISTORY + BROADCASTS))
                    take_every_page(server, context, Path(sys.argv[1]))
                else:
                    picture_the_board(site, server, context)
                    finish(site.script(HISTORY))
                    picture_the_admin(site, server, context)
                    # The last, because the chunks of its answers would fill the admin's lists.
                    picture_the_chat(server, context)
                browser.close()
        finally:
            site.close()


def take_every_page(server: Server, context: BrowserContext, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    listener = context.new_page()
    listener.goto(server.url)
    for scheme in ("light", "dark"):
        for width in (1280, 360):
            page = context.new_page()
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.set_viewport_size({"width": width, "height": 800})
            for name, path in ADMIN_PAGES.items():
                page.goto(f"{server.url}/admin/{f'streams/{path}' if name != 'index' else ''}")
                page.wait_for_timeout(1200)  # for the requests of the page's script
                page.screenshot(path=folder / f"{name}-{scheme}-{width}.png", full_page=True)
            page.close()


def picture_the_board(site: Site, server: Server, context: BrowserContext) -> None:
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
    page.screenshot(path=IMAGES / "board.png")
    # The page stays open, so that one client is connected.


def picture_the_chat(server: Server, context: BrowserContext) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 960, "height": 960})
    page.goto(f"{server.url}/chat/")
    answer = page.locator(".answer").last
    for question, so_far in (("Does an answer survive a reload?", "where it was."), ("And a restart?", "as a model's")):
        page.get_by_label("Your question").fill(question)
        page.keyboard.press("Enter")
        expect(answer).to_contain_text(question)
        expect(answer).to_contain_text(so_far, timeout=20_000)
    expect(page.locator("#state-word")).to_have_text("Answering …")
    page.screenshot(path=IMAGES / "chat.png")
    page.get_by_role("button", name="Stop").click()
    page.close()


def picture_the_admin(site: Site, server: Server, context: BrowserContext) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 1300, "height": 900})
    admin = f"{server.url}/admin/streams"

    def take(name: str) -> None:
        page.screenshot(path=IMAGES / f"admin-{name}.png", full_page=True)

    page.goto(f"{admin}/broadcast/add/")
    page.get_by_label("Title").fill("Night works on the line")
    for channel in ("news", "staff"):
        page.get_by_label("Channels").fill(channel)
        page.keyboard.press("Enter")
    page.get_by_label("Event type").fill("alert")
    page.get_by_label("JSON").check()
    page.get_by_label("Content", exact=True).fill('{"line": "S7",\n "text": "No trains after 22:00."}')
    page.get_by_role("button", name="Send a test message to me").click()
    expect(page.locator("#test-state")).to_contain_text("Received event")
    expect(page.locator("#audience")).to_contain_text("news: 1")
    take("compose")
    page.get_by_role("button", name="Send now…").click()
    expect(page.locator("#send-to")).to_contain_text("1 connection")
    take("send")
    page.locator("#send-to").click()
    expect(page.locator("#reached")).to_contain_text("1")
    take("sent")
    picture_the_rest(site, page, admin, take)


def picture_the_rest(site: Site, page: Page, admin: str, take: object) -> None:
    assert callable(take)
    page.goto(f"{admin}/monitor/?channel=news+score.42&start=newest&n=4")
    expect(page.locator("#state")).to_have_attribute("data-state", "live")
    for n in range(3):
        site.manage("publish", "score.42", f'{{"home": {2 + n}, "away": 1, "minute": {74 + n}}}', "--event", "goal")
    page.wait_for_timeout(3000)
    take("monitor")
    page.goto(f"{admin}/node/")
    page.wait_for_timeout(4000)
    take("processes")
    page.goto(f"{admin}/channelsettings/")
    take("channels")
    page.goto(f"{admin}/message/")
    take("messages")
    page.goto(f"{admin}/message/diagnosis/?message=5&user=&last_event_id=2")
    take("why")


if __name__ == "__main__":
    main()
