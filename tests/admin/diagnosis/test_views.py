"""The page of the diagnosis."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission, UserManager
from django.test import Client

from streams import publish
from tests.admin.diagnosis.support import DIAGNOSIS, user

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def reader() -> Client:
    client = Client()
    editor = user("editor", is_staff=True)
    editor.user_permissions.add(Permission.objects.get(codename="view_message"))
    client.force_login(editor)
    return client


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html.partition('id="content-main"')[2].partition("<footer")[0]))


def test_page_explains_and_asks(reader: Client) -> None:
    html = reader.get(DIAGNOSIS).content.decode()
    assert "Find out why a user did not receive a message." in text_of(html)
    assert "Findings about" not in html
    assert "problem" not in html.partition('id="content-main"')[2]


def test_link_from_message_fills_in_id(reader: Client) -> None:
    html = reader.get(DIAGNOSIS, {"message": "7"}).content.decode()
    assert re.search(r'name="message" value="7"', html)
    assert "Findings about" not in html


@pytest.mark.parametrize("who", ["ada", "pk"])
def test_user_is_found_by_name_or_pk(reader: Client, who: str) -> None:
    allow_viewing_users()
    assert "or the primary key" in reader.get(DIAGNOSIS).content.decode()
    ada = user("ada")
    publish(f"user.{ada.pk}", "x")
    name = str(ada.pk) if who == "pk" else who
    text = text_of(reader.get(DIAGNOSIS, {"message": "1", "user": name, "last_event_id": " 0 "}).content.decode())
    assert "Findings about event 1" in text
    assert f"OK ada can read user.{ada.pk}" in text
    assert "A stream that resumes from 0 delivers this event" in text
    assert "Reason No client is connected now" in text


def allow_viewing_users() -> None:
    editor = get_user_model().objects.get(username="editor")
    editor.user_permissions.add(Permission.objects.get(codename="view_user"))


def test_users_cannot_be_listed_without_permission(reader: Client) -> None:
    users = [user("ada@example.org"), user("bob@example.org", is_active=False)]
    publish("news", "x")
    assert "primary key" not in text_of(reader.get(DIAGNOSIS).content.decode())
    for pk in (*(each.pk for each in users), 10**6):
        html = reader.get(DIAGNOSIS, {"message": "1", "user": str(pk)}).content.decode()
        assert "No user has this username." in text_of(html), "the answer does not depend on whether the user exists"
        assert "example.org" not in html
        assert "not active" not in html
    text = text_of(reader.get(DIAGNOSIS, {"message": "1", "user": "ada@example.org"}).content.decode())
    assert "ada@example.org can read news" in text


class Folding(UserManager[Any]):
    """Compare usernames without case, as the database or the manager of a site can do."""

    def filter(self, *args: Any, **kwargs: Any) -> Any:
        return super().filter(*args, **{"username__iexact" if k == "username" else k: v for k, v in kwargs.items()})


def test_findings_repeat_the_entered_username(reader: Client, monkeypatch: Any) -> None:
    folding = Folding()
    folding.model = get_user_model()
    monkeypatch.setattr(get_user_model()._meta, "default_manager", folding)
    user("Ada.Lovelace", is_active=False)
    publish("news", "x")
    query = {"message": "1", "user": " ada.lovelace "}
    html = reader.get(DIAGNOSIS, query).content.decode()
    assert "ada.lovelace can read news" in text_of(html)
    assert "The account of ada.lovelace is not active." in text_of(html)
    assert "Ada.Lovelace" not in html
    allow_viewing_users()
    assert "Ada.Lovelace can read news" in text_of(reader.get(DIAGNOSIS, query).content.decode())


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"message": ""}, "This field is required."),
        ({"message": "x"}, "Enter a whole number, such as 1024."),
        ({"message": "0"}, "greater than or equal to 1"),
        ({"message": "-7"}, "greater than or equal to 1"),
        ({"message": "9" * 5000}, "whole number"),
        ({"message": "9" * 19}, "less than or equal to"),
        ({"message": "1", "user": "nobody"}, "No user has this username or primary key."),
        ({"message": "1", "user": "9" * 100}, "No user has this username or primary key."),
        ({"message": "1", "user": "a\0"}, "Null characters are not allowed."),
        ({"message": "1", "last_event_id": "\0"}, "Null characters are not allowed."),
        ({"message": "1", "last_event_id": "x" * 1001}, "at most 1000 characters"),
    ],
    ids=[
        "none",
        "word",
        "zero",
        "negative",
        "thousands",
        "too-large",
        "nobody",
        "large-key",
        "nul-user",
        "nul-id",
        "long",
    ],
)
def test_invalid_form_explains(reader: Client, query: dict[str, str], expected: str) -> None:
    allow_viewing_users()
    answer = reader.get(DIAGNOSIS, {"user": "", "last_event_id": "", **query})
    assert answer.status_code == 200
    assert expected in text_of(answer.content.decode())
    assert "Findings about" not in answer.content.decode()


def test_page_needs_permission(client: Client) -> None:
    client.force_login(user("editor", is_staff=True))
    assert client.get(DIAGNOSIS).status_code == 403


def test_username_cannot_inject_markup(reader: Client) -> None:
    user("<script>x</script>‮")
    publish("secret", "x")
    html = reader.get(DIAGNOSIS, {"message": "1", "user": "<script>x</script>‮"}).content.decode()
    assert "<script>x" not in html
    assert "&lt;script&gt;x&lt;/script&gt;<span" in html
