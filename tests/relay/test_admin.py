"""Generations and usage in the admin are read-only, and need the view permission."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from streams.relay import usage
from streams.relay.access import Principal
from streams.relay.generations import store
from streams.relay.models import Generation, Usage

pytestmark = pytest.mark.django_db

BODY = {"model": "small", "messages": [{"role": "user", "content": "<script>alert(1)</script>"}], "stream": True}


@pytest.fixture
def staff(client: Client) -> Client:
    user = User.objects.create_user("staff", is_staff=True)
    viewing = Permission.objects.filter(content_type__app_label="streams_relay", codename__startswith="view_")
    user.user_permissions.set(viewing)
    client.force_login(user)
    return client


@pytest.fixture
def made() -> Generation:
    owner = User.objects.create_user("<b>ann")
    usage.record(
        user_id=owner.pk, caller="", upstream="default", model="small", outcome="done", usage=None, chunks=7, seconds=1
    )
    return store.create(Principal(owner, "user 1"), BODY, "default")[0]


def test_staff_who_may_view_them_see_them(staff: Client, made: Generation) -> None:
    for path, words in [("generation", "queued"), (f"generation/{made.pk}/change", "small"), ("usage", "7")]:
        html = staff.get(f"/admin/streams_relay/{path}/").content.decode()
        assert words in html
        assert "&lt;b&gt;ann" in html
        assert "<script>alert" not in html
        assert "<b>ann" not in html


def test_nobody_changes_them(staff: Client, made: Generation) -> None:
    User.objects.filter(username="staff").update(is_superuser=True)
    for path in ("add", f"{made.pk}/delete"):
        assert staff.get(f"/admin/streams_relay/generation/{path}/").status_code == 403
    staff.post(f"/admin/streams_relay/generation/{made.pk}/change/", {"state": "done"})
    made.refresh_from_db()
    assert made.state == "queued"
    assert staff.get(f"/admin/streams_relay/usage/{Usage.objects.get().pk}/delete/").status_code == 403


def test_staff_without_the_permission_see_nothing(client: Client, made: Generation) -> None:
    client.force_login(User.objects.create_user("other", is_staff=True))
    for name in ("generation", "usage"):
        assert client.get(f"/admin/streams_relay/{name}/").status_code == 403
