"""Staff users with chosen permissions for the browser tests."""

from __future__ import annotations

from tests.support.sites import Server, Site, finish
from tests.system.browser.conftest import Tabs
from tests.system.browser.layout import fits_its_window


def give(name: str, *codenames: str) -> None:
    from django.contrib.auth.models import Permission, User

    wanted = Permission.objects.filter(content_type__app_label="streams", codename__in=codenames)
    assert len(wanted) == len(codenames)
    User.objects.get(username=name).user_permissions.set(wanted)


async def log_in_with(tabs: Tabs, site: Site, server: Server, *codenames: str) -> None:
    """Log the browser in as a staff user with exactly these permissions."""
    name = "-".join(["staff", *codenames])
    await tabs.context.clear_cookies()
    await tabs.log_in(server, name, is_staff=True)
    finish(site.call(give, name, *codenames))


async def fits(tabs: Tabs, url: str) -> None:
    """Load a page in a narrow window under a strict Content-Security-Policy. Fail if it scrolls sideways."""

    async def with_policy(route: object) -> None:
        response = await route.fetch()  # type: ignore[attr-defined]
        headers = {**response.headers, "content-security-policy": "default-src 'self'"}
        await route.fulfill(response=response, headers=headers)  # type: ignore[attr-defined]

    await tabs.context.route("**/admin/**", with_policy)
    page = await tabs.open("about:blank")
    await page.set_viewport_size({"width": 360, "height": 700})
    await page.goto(url)
    await page.wait_for_timeout(1000)  # for elements that its script adds
    await fits_its_window(page)
