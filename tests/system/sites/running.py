"""A running site: its server, the prefix of its URLs, and the checks that every site must pass."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpx

from tests.support.clients import StreamClient
from tests.support.sites import Server, Site


@dataclass
class Running:
    """A server of a site. `prefix` is the part of the path that all URLs have, and `pages` the one of the site's own.

    `port` is that of a proxy, if there is one.
    """

    site: Site
    server: Server
    prefix: str = ""
    pages: str = ""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port or self.server.port}"

    @property
    def admin(self) -> str:
        return f"{self.prefix}{self.pages}/admin"

    def browser(self, **options: Any) -> httpx.AsyncClient:
        """Return a client that keeps cookies, as a browser does."""
        # Without TLS, because reading the certificates takes longer than a request.
        return httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False, verify=False, **options)

    async def ask(self, path: str) -> Any:
        """Call one of the views for tests."""
        async with self.browser() as client:
            response = await client.get(f"{self.prefix}/test/{path}")
            assert response.status_code == 200, response.text[-3000:]
            return response.json()

    async def log_in(self, client: httpx.AsyncClient, name: str, **attributes: bool) -> None:
        words = ", ".join(f'"{key}": {str(value).lower()}' for key, value in attributes.items())
        query = {"name": name, "is": f"{{{words}}}"}
        assert (await client.get(f"{self.prefix}/test/login/", params=query)).status_code == 200

    async def publish(self, channel: str, *lines: str) -> None:
        async with self.browser() as client:
            for line in lines:
                path = f"{self.prefix}/test/publish/?channel={channel}"
                assert (await client.post(path, content=line)).status_code == 200

    async def stream_url(self, channel: str, client: httpx.AsyncClient | None = None) -> str:
        """Return the URL that {% stream_url %} has put into the page."""
        async with self.browser() as fresh:
            page = await (client or fresh).get(f"{self.prefix}{self.pages}/page/", params={"channel": channel})
        assert page.status_code == 200, page.text[-3000:]
        found = re.search('data-url="([^"]*)"', page.text)
        assert found is not None, page.text
        return html.unescape(found[1])

    async def stream(self, channel: str, **headers: str) -> StreamClient:
        """Open the page's stream as a browser does, and read the first bytes."""
        client = await self.connect(await self.stream_url(channel), **headers)
        await client.read_control(1)
        return client

    async def connect(self, url: str, **headers: str) -> StreamClient:
        client = await StreamClient(self.port or self.server.port, url, headers).connect()
        assert client.status == 200, client.response_headers
        return client

    async def holdings(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.ask("process/?collect=1")
        return found

    async def until(self, **limits: int) -> dict[str, Any]:
        """Wait until the process holds no more than this."""
        async with asyncio.timeout(30):
            while True:
                found = await self.holdings()
                if all(found[name] <= limit for name, limit in limits.items()):
                    return found
                await asyncio.sleep(0.2)  # each request makes the process collect garbage

    async def files_of(self, client: httpx.AsyncClient, path: str, known: Set[str] = frozenset()) -> set[str]:
        """Return the URLs of a page's scripts and style sheets, each of which must exist. `known` ones are not read."""
        page = await client.get(path)
        assert page.status_code == 200, (path, page.status_code, page.text[-3000:])
        found = re.findall('<script[^>]* src="([^"]+)"|<link[^>]* rel="stylesheet"[^>]* href="([^"]+)"', page.text)
        urls = {urljoin(path, script or link) for script, link in found}
        for url in urls - known:
            answer = await client.get(url)
            assert answer.status_code == 200, (path, url)
            assert answer.headers["content-type"].split(";")[0] in ("text/javascript", "text/css"), (path, url)
        return urls
