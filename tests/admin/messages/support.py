"""Helpers for the tests of the message pages."""

from __future__ import annotations

import re
from typing import Any

from django.test import Client

from streams import publish
from streams.models import Message
from tests.admin.people import staff

LIST = "/admin/streams/message/"


PAYLOADS = [
    "</script><script>window.hacked = 1</script>",
    '" onmouseover="window.hacked=1" x="',
    "{{ 7|add:1 }}{% debug %}",
]


def log_in(*permissions: str) -> Client:
    return staff(*permissions, name="editor")


def text_of(html: str) -> str:
    """Return the main text of a page, without tags and with single spaces."""
    main = html.partition('id="content-main"')[2].partition("<footer")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", main))


def page(client: Client, path: str = LIST, status: int = 200, **query: object) -> str:
    answer = client.get(path, query, follow=True)
    assert answer.status_code == status, answer.content.decode()[:2000]
    return answer.content.decode()


def ids(html: str) -> list[int]:
    return [int(number) for number in re.findall(r'/change/">(\d+)</a></th>', html)]


def link(html: str, text: str) -> str | None:
    found = re.search(rf'href="([^"]*)">{re.escape(text)}</a>', html)
    return found and found[1].replace("&amp;", "&")


def publish_some(n: int, channel: str = "news", **kwargs: Any) -> list[Message]:
    return [publish(channel, {"n": number}, **kwargs) for number in range(n)]
