"""Changes that let more users read a channel need a permission, and the admin recognizes all of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import AnonymousUser, Group, User
from django.http import HttpRequest
from django.test import Client, RequestFactory, override_settings
from django.urls import reverse

from streams import publish
from streams.admin.channels import forms
from streams.admin.channels.access import allows_more_readers, rule_of
from streams.admin.channels.forms import ChannelForm, MoreReadersRefused, digest_of
from streams.channels.rules import Rule, set_groups
from streams.models import ChannelSettings
from streams.policies import DefaultPolicy, get_policy
from tests.admin.channels.support import page, save, text_of
from tests.admin.people import staff

pytestmark = pytest.mark.django_db

CLERK = ("view_channelsettings", "add_channelsettings", "change_channelsettings", "delete_channelsettings")
NEEDS = "For that, you also need the permission “Can view message”."


@pytest.fixture
def groups() -> dict[str, Group]:
    return {name: Group.objects.create(name=name) for name in ("a", "b")}


def set_access(channel: str, access: str, groups: list[Group]) -> None:
    ChannelSettings.objects.filter(channel=channel).delete()
    if access != "no row":
        ChannelSettings.objects.create(channel=channel, access=access)
        set_groups(channel, groups)


# {name of the settings: (access, names of the groups)}
KINDS = {
    "no row": ("no row", ""),
    "default": ("", ""),
    "nobody": ("groups", ""),
    "a": ("groups", "a"),
    "b": ("groups", "b"),
    "a and b": ("groups", "ab"),
    "staff": ("staff", ""),
    "logged-in": ("logged-in", ""),
    "public": ("public", ""),
}


def readers(channel: str, people: list[Any]) -> set[Any]:
    """Return those of `people` that the policy admits."""
    found = set()
    for person in people:
        request = RequestFactory().get("/")
        request.user = person
        if not get_policy().denied_channels(request, [channel]):
            found.add(person)
    return found


@pytest.mark.parametrize("public", [[], ["*"]])
def test_every_change_agrees_with_the_policy(public: list[str], groups: dict[str, Group]) -> None:
    """Make every change between two kinds of settings, and ask the policy before and after it for each kind of user."""
    people: list[Any] = [AnonymousUser()]
    for name, is_staff in itertools.product(("", "a", "b"), (False, True)):
        person = User.objects.create(username=f"{name}{is_staff}", is_staff=is_staff)
        person.groups.set([groups[name]] if name else [])
        people.append(person)

    def state(kind: str) -> tuple[Rule | None, set[Any]]:
        access, names = KINDS[kind]
        set_access("room", access, [groups[name] for name in names])
        fresh = [person if person.pk is None else User.objects.get(pk=person.pk) for person in people]
        return rule_of(ChannelSettings.objects.filter(channel="room").first()), readers("room", fresh)

    with override_settings(STREAMS={"PUBLIC_CHANNELS": public}):
        states = {kind: state(kind) for kind in KINDS}
        for (before, (old, could)), (after, (new, can)) in itertools.product(states.items(), states.items()):
            assert allows_more_readers("room", new, old) is bool(can - could), (before, after)


def test_opening_needs_permission(groups: dict[str, Group]) -> None:
    """Staff who cannot view messages try to open a channel to everyone, or to one of their groups."""
    clerk, viewer = staff(*CLERK), staff(*CLERK, "view_message")
    for fields in ({"access": "public"}, {"access": "logged-in"}, {"access": "staff"}):
        refused = save(clerk, "room", fields)
        assert refused.status_code == 422
        assert NEEDS in text_of(refused)
        assert "Not saved." in text_of(refused)
    refused = save(clerk, "room", {"access": "groups", "groups": [groups["a"].pk]})
    assert refused.status_code == 422
    assert not ChannelSettings.objects.exists()
    assert not LogEntry.objects.exists()
    assert save(viewer, "room", {"access": "public"}).status_code == 302
    assert ChannelSettings.objects.get().access == "public"


def test_stricter_settings_need_no_other_permission(groups: dict[str, Group]) -> None:
    set_access("room", "public", [])
    clerk = staff(*CLERK)
    both, one = [groups["a"].pk, groups["b"].pk], [groups["b"].pk]
    assert save(clerk, "room", {"access": "logged-in"}).status_code == 302
    assert save(clerk, "room", {"access": "groups", "groups": both}).status_code == 302
    assert save(clerk, "room", {"access": "groups", "groups": both, "title": "T", "keep": "3600"}).status_code == 302
    assert save(clerk, "room", {"access": "groups", "groups": one}).status_code == 302
    assert save(clerk, "room", {"access": "groups", "groups": both}).status_code == 422
    assert save(clerk, "room", {"access": "staff"}).status_code == 422
    assert save(clerk, "room", {"access": ""}).status_code == 302, "no other setting opens the channel"
    assert ChannelSettings.objects.get().title == ""


@pytest.mark.parametrize("way", ["form", "reset"])
def test_default_opens_what_public_channels_match(way: str, settings: Any) -> None:
    settings.STREAMS = {"PUBLIC_CHANNELS": ["news"]}
    clerk, viewer = staff(*CLERK), staff(*CLERK, "view_message")

    def go(client: Client, channel: str) -> Any:
        return save(client, channel, {"access": ""}) if way == "form" else client.post(page(channel, "delete"))

    for channel in ("news", "other"):
        set_access(channel, "staff", [])
    refused = go(clerk, "news")
    assert refused.status_code == (422 if way == "form" else 403)
    assert NEEDS in text_of(refused)
    assert ChannelSettings.objects.get(channel="news").access == "staff"
    assert not LogEntry.objects.exists()
    assert go(clerk, "other").status_code == 302, "the change does not open the channel"
    assert go(viewer, "news").status_code == 302
    assert not ChannelSettings.objects.exclude(access="").exists()


def test_reset_page_says_so_before(settings: Any) -> None:
    settings.STREAMS = {"PUBLIC_CHANNELS": ["news"]}
    set_access("news", "staff", [])
    button = '<button type="submit" class="danger">'
    response = staff(*CLERK).get(page("news", "delete"))
    assert (response.status_code, NEEDS in text_of(response), button in text_of(response)) == (200, True, False)
    response = staff(*CLERK, "view_message").get(page("news", "delete"))
    assert (response.status_code, NEEDS in text_of(response), button in text_of(response)) == (200, False, True)


def test_page_says_so_before() -> None:
    sentence = "To choose more readers, you also need the permission “Can view message”."
    assert sentence in text_of(staff(*CLERK).get(page("news")))
    assert sentence not in text_of(staff(*CLERK, "view_message").get(page("news")))


def test_conflict_comes_before_the_refusal() -> None:
    set_access("room", "public", [])
    clerk = staff(*CLERK)
    seen = clerk.get(page("room")).context["seen"]
    set_access("room", "staff", [])
    answer = clerk.post(page("room"), {"access": "public", "seen": seen})
    assert answer.status_code == 409
    again = clerk.post(page("room"), {"access": "public", "seen": answer.context["seen"]})
    assert again.status_code == 422
    assert ChannelSettings.objects.get().access == "staff"


def test_settings_are_compared_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user makes the settings stricter after the form was validated, and this user guesses the digest."""
    set_access("room", "public", [])
    form = ChannelForm({"access": "public"}, instance=ChannelSettings.objects.get())
    assert form.is_valid()
    set_access("room", "staff", [])
    with pytest.raises(MoreReadersRefused):
        form.store(digest_of(ChannelSettings.objects.get()))
    assert ChannelSettings.objects.get().access == "staff"

    set_access("news", "public", [])  # also in PUBLIC_CHANNELS, so that a reset adds no readers
    lock = forms._lock

    def stricter_first(channel: str) -> ChannelSettings | None:
        set_access(channel, "staff", [])
        return lock(channel)

    monkeypatch.setattr(forms, "_lock", stricter_first)
    answer = staff(*CLERK).post(page("news", "delete"))
    assert answer.status_code == 403
    assert ChannelSettings.objects.filter(channel="news").exists()


# --- Custom policies --------------------------------------------------------------------------------------------------


class Members(DefaultPolicy):
    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return request.user.is_authenticated or super().can_subscribe(request, channel)


@pytest.mark.parametrize("policy", [f"{__name__}.Members", "streams.policies.BasePolicy"])
def test_unknown_default_counts_as_open(policy: str, settings: Any) -> None:
    """The admin cannot predict which users such a policy admits to a channel without access settings."""
    settings.STREAMS = {"POLICY": policy}
    set_access("room", "logged-in", [])
    clerk = staff(*CLERK)
    assert save(clerk, "room", {"access": ""}).status_code == 422
    assert clerk.post(page("room", "delete")).status_code == 403
    assert save(clerk, "room", {"access": "staff"}).status_code == 302
    set_access("room", "public", [])
    assert save(clerk, "room", {"access": ""}).status_code == 302


# --- Private channels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["user.7", "generation.7"])
@pytest.mark.parametrize("access", ["public", "logged-in", "staff", "groups"])
def test_private_channels_are_opened_by_nobody(channel: str, access: str, groups: dict[str, Group]) -> None:
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    refused = save(root, channel, {"access": access, "groups": [groups["a"].pk]})
    assert refused.status_code == 422
    assert f"“{channel}” belongs to one user or to one answer" in text_of(refused)
    assert not ChannelSettings.objects.exists()
    assert save(root, channel, {"access": "", "title": "T", "keep": "3600"}).status_code == 302
    row = ChannelSettings.objects.get()
    assert (row.access, row.title, row.retention_seconds) == ("", "T", 3600)


def test_private_channel_offers_no_access_choice() -> None:
    client = staff(*CLERK, "view_message")
    text = text_of(client.get(page("user.7")))
    assert '<option value="public"' not in text
    assert "Its readers cannot be changed here" in text
    assert '<option value="public"' in text_of(client.get(page("users.7")))


@pytest.mark.parametrize(("access", "status"), [("public", 302), ("logged-in", 302), ("staff", 422), ("groups", 422)])
def test_private_channel_returns_to_default(access: str, status: int, groups: dict[str, Group]) -> None:
    """The page shows the effect of a row that code created. A reset admits the user again if the row excluded them."""
    set_access("user.7", access, [groups["a"]])
    text = text_of(staff("view_channelsettings").get(page("user.7")))
    assert "It does not let others read the channel" in text
    assert "<dd>this user, " in text
    assert ": a</dd>" not in text, "members of the group cannot read the channel"
    assert save(staff(*CLERK), "user.7", {"access": "", "title": "T"}).status_code == status
    assert save(staff(*CLERK, "view_message"), "user.7", {"access": "", "title": "T"}).status_code == 302
    assert "It does not let others" not in text_of(staff("view_channelsettings").get(page("user.7")))


# --- Other pages ------------------------------------------------------------------------------------------------------


def test_no_other_page_changes_settings() -> None:
    """Only the two pages above change settings: Django's own pages and list actions do not."""
    model_admin = admin.site.get_model_admin(ChannelSettings)
    names = [str(pattern.name).removeprefix("streams_channelsettings_") for pattern in model_admin.get_urls()]
    assert names == ["changelist", "history", "delete", "change"]
    set_access("news", "staff", [])
    publish("news", "x")
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    url = reverse("admin:streams_channelsettings_changelist")
    for fields in (
        {"action": "delete_selected", "_selected_action": ["news"], "post": "yes"},
        {"form-TOTAL_FORMS": "1", "form-INITIAL_FORMS": "1", "form-0-channel": "news", "form-0-access": "public"},
    ):
        root.post(url, {**fields, "_save": "Save"})
        assert ChannelSettings.objects.get().access == "staff"
