"""Helpers for the tests of the channel pages."""

from __future__ import annotations

from typing import Any

from django.test import Client

LIST = "/admin/streams/channelsettings/"


EDITOR = (
    *("view_channelsettings", "add_channelsettings", "change_channelsettings", "delete_channelsettings"),
    "view_message",  # needed to let more users read a channel
)


HOSTILE = "</script><img src=x onerror=alert(1)> {{ 7|add:7 }} {% now %} \u202e\u200b \"'&"


def page(channel: str, kind: str = "change") -> str:
    return f"{LIST}{channel.replace('_', '_5F')}/{kind}/"


def text_of(response: Any) -> str:
    return " ".join(response.content.decode().split())


def save(client: Client, channel: str, fields: dict[str, Any], **kwargs: Any) -> Any:
    """Load the page of a channel, and submit its form with these values."""
    seen = client.get(page(channel)).context["seen"]
    return client.post(page(channel), {**fields, "seen": seen}, **kwargs)


def listed(client: Client, query: str = "") -> list[str]:
    response = client.get(f"{LIST}{query}")
    assert response.status_code == 200
    return [fact.name for fact, _ in response.context["channels"]]
