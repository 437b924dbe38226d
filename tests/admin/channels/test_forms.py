"""Saving a channel's settings, including concurrent changes by two users."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth.models import Group
from django.utils.html import escape

from streams.admin.channels.forms import ChannelForm, SettingsChanged, digest_of
from streams.models import ChannelSettings
from tests.admin.channels.support import EDITOR, HOSTILE, page, save, text_of
from tests.admin.people import staff

pytestmark = pytest.mark.django_db


def test_settings_are_stored_and_logged() -> None:
    group = Group.objects.create(name="Editors")
    client = staff(*EDITOR)
    response = save(
        client,
        "news",
        {"title": HOSTILE, "access": "groups", "groups": [group.pk], "keep": "3600", "retention_messages": "10"},
        follow=True,
    )
    assert "Saved. This takes effect within" in text_of(response)
    row = ChannelSettings.objects.get(channel="news")
    assert (row.title, row.access, row.retention_seconds, row.retention_messages) == (HOSTILE, "groups", 3600, 10)
    assert list(row.groups.all()) == [group]
    entry = LogEntry.objects.get()
    assert (entry.action_flag, entry.object_id, entry.object_repr) == (ADDITION, "news", "news")

    save(client, "news", {"title": HOSTILE, "access": "public", "keep": "other", "keep_seconds": "90"})
    row.refresh_from_db()
    assert (row.access, row.retention_seconds, row.retention_messages) == ("public", 90, None)
    assert list(row.groups.all()) == []
    entry = LogEntry.objects.first()
    assert entry is not None
    assert entry.action_flag == CHANGE
    assert entry.get_change_message() == (
        "Changed Readers, Groups, Maximum number of messages, Keep messages for and Seconds."
    )
    assert "Editors" not in text_of(client.get(page("news", "history")))


@pytest.mark.parametrize(
    ("keep", "other", "stored"), [("", "", None), ("0", "", 0), ("31536000", "", 31_536_000), ("other", "5", 5)]
)
def test_retention_is_choice_or_number(keep: str, other: str, stored: int | None) -> None:
    client = staff(*EDITOR)
    save(client, "news", {"keep": keep, "keep_seconds": other})
    assert ChannelSettings.objects.get().retention_seconds == stored
    form = client.get(page("news")).context["form"]
    assert (form["keep"].value(), str(form["keep_seconds"].value() or "")) == (keep, other)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"access": "groups"}, "Choose at least one group"),
        ({"access": "groups", "groups": ["99999"]}, "99999"),
        ({"access": "groups", "groups": ["x"]}, "x"),
        ({"access": "groups", "groups": [str(2**63)]}, "9223372036854775808 is not one of the available choices"),
        ({"access": "groups", "groups": ["9" * 100]}, "is not one of the available choices"),
        ({"access": "groups", "groups": ["-" + "9" * 30]}, "is not one of the available choices"),
        ({"access": "everybody"}, "everybody is not one of the available choices"),
        ({"keep": "other"}, "Enter the number of seconds"),
        ({"keep": "other", "keep_seconds": "0"}, "greater than or equal to 1"),
        ({"keep": "other", "keep_seconds": "1e9"}, "Enter a whole number"),
        ({"keep": "other", "keep_seconds": "9" * 30}, "less than or equal to 3153600000"),
        ({"keep": "7"}, "7 is not one of the available choices"),
        ({"retention_messages": "-1"}, "greater than or equal to 0"),
        ({"retention_messages": "9" * 30}, "less than or equal to 1000000000"),
        ({"title": "x" * 201}, "at most 200 characters"),
        ({"title": "\0"}, "Null characters are not allowed"),
    ],
    ids=str,
)
def test_invalid_settings_are_not_stored(fields: dict[str, Any], expected: str) -> None:
    response = save(staff(*EDITOR), "news", fields)
    assert response.status_code == 422
    assert escape(expected) in text_of(response)
    assert "Not saved." in text_of(response)
    assert not ChannelSettings.objects.exists()
    assert not LogEntry.objects.exists()


def test_concurrent_change_is_not_overwritten() -> None:
    group = Group.objects.create(name="Editors <b>")
    ChannelSettings.objects.create(channel="news", access="public")
    one, other = staff(*EDITOR), staff(*EDITOR)
    seen = one.get(page("news")).context["seen"]
    save(other, "news", {"access": "groups", "groups": [group.pk], "keep": "3600"})

    response = one.post(page("news"), {"title": "Mine", "access": "public", "seen": seen})
    assert response.status_code == 409
    text = text_of(response)
    assert "Another user has changed these settings since you loaded the page." in text
    stored = text[text.index('id="stored"') : text.index("</dl>", text.index('id="stored"'))]
    assert "Members of selected groups" in stored
    assert "Editors &lt;b&gt;" in stored
    assert "1 hour" in stored
    assert response.context["form"]["title"].value() == "Mine"
    row = ChannelSettings.objects.get()
    assert (row.title, row.access, row.retention_seconds, list(row.groups.all())) == ("", "groups", 3600, [group])
    assert LogEntry.objects.count() == 1

    # This page shows the stored settings, so that saving again overwrites them.
    again = {"title": "Mine", "access": "public", "seen": response.context["seen"]}
    assert one.post(page("news"), again).status_code == 302
    row.refresh_from_db()
    assert (row.title, row.access, row.retention_seconds, list(row.groups.all())) == ("Mine", "public", None, [])


@pytest.mark.parametrize("fields", [{"title": "T"}, {"retention_messages": 5}, {"retention_seconds": 5}])
def test_change_of_any_value_is_told(fields: dict[str, Any]) -> None:
    row = ChannelSettings.objects.create(channel="news", access="groups")
    row.groups.add(Group.objects.create(name="A"))
    client = staff(*EDITOR)
    seen = [client.get(page("news")).context["seen"]]
    ChannelSettings.objects.update(**fields)
    seen.append(client.get(page("news")).context["seen"])
    row.groups.add(Group.objects.create(name="B"))
    seen.append(client.get(page("news")).context["seen"])
    assert len(set(seen)) == 3
    for old in [*seen[:2], "", "nothing", "x"]:
        assert client.post(page("news"), {"access": "public", "seen": old}).status_code == 409
    assert ChannelSettings.objects.get().access == "groups"


def test_concurrently_reset_settings_are_not_recreated() -> None:
    ChannelSettings.objects.create(channel="news", access="staff")
    one, other = staff(*EDITOR), staff(*EDITOR)
    seen = one.get(page("news")).context["seen"]
    other.post(page("news", "delete"))
    response = one.post(page("news"), {"access": "public", "seen": seen})
    assert response.status_code == 409
    assert "None. The site’s settings apply." in text_of(response)
    assert not ChannelSettings.objects.exists()


def test_concurrently_created_row_is_not_overwritten() -> None:
    form = ChannelForm({"access": "public"}, instance=ChannelSettings(channel="news"))
    assert form.is_valid()
    ChannelSettings.objects.create(channel="news", access="staff")
    with pytest.raises(SettingsChanged):
        form.store(digest_of(None))
    assert ChannelSettings.objects.get().access == "staff"


def test_invalid_form_keeps_the_digest() -> None:
    ChannelSettings.objects.create(channel="news", access="public")
    one, other = staff(*EDITOR), staff(*EDITOR)
    seen = one.get(page("news")).context["seen"]
    save(other, "news", {"access": "staff"})
    response = one.post(page("news"), {"access": "everybody", "seen": seen})
    assert response.status_code == 422
    again = {"access": "public", "seen": response.context["seen"]}
    assert one.post(page("news"), again).status_code == 409
    assert ChannelSettings.objects.get().access == "staff"
