"""The roles, the URLs and the rules of the role matrix in test_roles.py."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from streams import publish
from streams.models import Broadcast, ChannelSettings, Message
from streams.relay.models import Generation
from streams.tokens import make_token

# Texts that only some roles can see: a message for one user, a draft, and a question with its answer.
MESSAGE, DRAFT, ANSWER = "the-message-of-bob", "the-draft-of-staff", "the-answer-for-bob"

# The permissions with which staff can see each of them.
MAY_SEE = {
    MESSAGE: ("streams.view_message",),
    DRAFT: tuple(f"streams.{verb}_broadcast" for verb in ("view", "add", "change", "delete", "send", "schedule")),
    ANSWER: ("streams_relay.view_generation", "streams_relay.change_generation"),
}

# Pages of the admin that need no user.
FOR_ALL = ("/admin/login/", "/admin/jsi18n/")

# Streaming views need ASGI, and the tests' own views are not part of the site. A logout or a new password would change
# the role.
SKIPPED = (
    "test/",
    "events/",
    "random",
    "ai/generations/<str:id>/events/",
    "admin/logout/",
    "admin/password_change/",
    "admin/streams/monitor/events/",
)


@dataclass(frozen=True)
class Role:
    """A client, and the permissions of its user; `is_staff` roles can enter the admin."""

    name: str
    client: Client
    permissions: frozenset[str] = frozenset()
    is_staff: bool = False
    is_superuser: bool = False

    def may(self, *permissions: str) -> bool:
        return self.is_superuser or (self.is_staff and not self.permissions.isdisjoint(permissions))


@dataclass
class Walk:
    """The results of all requests: their number, the faults, and the pairs of a role and a text that it saw."""

    requests: int
    faults: list[str]
    seen: set[tuple[str, str]]


def furnish() -> User:
    """Fill the database: a user with a private channel, a draft and an answer. Return the user."""
    bob = User.objects.create_user("bob", password="for-tests-only")
    publish(f"user.{bob.pk}", {"text": MESSAGE})
    publish("news", {"text": "for everyone"})
    ChannelSettings.objects.get_or_create(channel=f"user.{bob.pk}")
    Broadcast.objects.create(title=DRAFT, channels=["news"], payload=DRAFT)
    Generation.objects.create(
        owner=bob,
        caller=f"user {bob.pk}",
        upstream="default",
        model="m",
        request={"messages": [{"role": "user", "content": ANSWER}]},
        fingerprint="",
        state=Generation.State.DONE,
        ended_at=timezone.now(),
        start_position=0,
        text=ANSWER,
    )
    return bob


def roles(permissions: Sequence[Permission]) -> Iterator[Role]:
    """Yield roles: anonymous, token, user, inactive user, staff with none or one of the permissions, superuser."""
    yield Role("anonymous", Client())
    yield Role("token", Client(headers={"Authorization": f"Bearer {make_token(read=['news'])}"}))
    yield Role("user", _logged_in("user"))
    yield Role("inactive", _logged_in("inactive", is_active=False))
    yield Role("staff", _logged_in("staff", is_staff=True), is_staff=True)
    for permission in permissions:
        name = f"{permission.content_type.app_label}.{permission.codename}"
        yield Role(name, _logged_in(name, permission, is_staff=True), frozenset([name]), is_staff=True)
    yield Role("all permissions, not staff", _logged_in("not staff", *permissions))
    yield Role("superuser", _logged_in("root", is_staff=True, is_superuser=True), is_staff=True, is_superuser=True)


def _logged_in(name: str, *permissions: Permission, **flags: bool) -> Client:
    user = User.objects.create_user(name, **flags)
    user.user_permissions.set(permissions)
    client = Client()
    client.force_login(user)
    return client


def paths(bob: User) -> list[str]:
    """Return a path for each URL, with the values of existing objects."""
    samples = {
        "channel": f"user.{bob.pk}",
        "id": Generation.objects.values_list("pk", flat=True)[0],
        "pk": str(Message.objects.values_list("pk", flat=True)[0]),
        "position": "1",
        "content_type_id": "1",
        "object_id": "1",
        "url": "nothing",
        "app_label": "streams/",
    }
    found = []
    for pattern in _patterns(get_resolver()):
        if not pattern.startswith(SKIPPED):
            path = "/" + re.sub(r"\^?\(\?P<(\w+)>.*?\)/?\$", r"<\1>", pattern)  # Django's admin has regular expressions
            for name, value in samples.items():
                path = re.sub(rf"<(\w+:)?{name}>", value, path)
            found.append(path)
    changes = "/admin/streams_relay/generation/{}/change/".format(samples["id"])
    settings = f"/admin/streams/channelsettings/{ChannelSettings.objects.values_list('pk', flat=True)[0]}/change/"
    return [*dict.fromkeys(found), changes, settings, f"/api/channels/user.{bob.pk}/messages/?after=0"]


def _patterns(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    for pattern in resolver.url_patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield path
        else:
            yield from _patterns(pattern, path)


def walk(some_roles: Sequence[Role], some_paths: Sequence[str], methods: Sequence[str]) -> Walk:
    """Request every path as every role, with every method."""
    done = Walk(0, [], set())
    for role, method, path in itertools.product(some_roles, methods, some_paths):
        response = role.client.generic(method, path, data=b"{}", content_type="application/json")
        done.requests += 1
        # Do not read a stream, because it might not end.
        text = "" if getattr(response, "streaming", False) else response.content.decode(errors="replace")
        seen = {secret for secret in MAY_SEE if secret in text}
        done.seen |= {(role.name, secret) for secret in seen}
        for fault in _faults(role, path, response.status_code, seen):
            done.faults.append(f"{role.name}: {method} {path} {fault}")
    return done


def _faults(role: Role, path: str, status: int, seen: set[str]) -> Iterator[str]:
    if status >= 500:
        yield f"answers {status}"
    for secret in seen:
        if not role.may(*MAY_SEE[secret]):
            yield f"shows {secret}"
    if path.startswith("/admin/") and status == 200 and not role.is_staff and not path.startswith(FOR_ALL):
        yield "opens the admin"
