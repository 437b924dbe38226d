"""Findings about the user, compared with the site's policy."""

from __future__ import annotations

import re
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group, Permission
from django.test import AsyncClient, AsyncRequestFactory, RequestFactory

from streams import publish
from streams.admin.diagnosis.diagnose import diagnose
from streams.admin.diagnosis.findings import Finding, Verdict
from streams.models import ChannelSettings
from streams.policies import BasePolicy, DefaultPolicy
from tests.admin.diagnosis.support import DIAGNOSIS, about, as_text, ask, user

pytestmark = pytest.mark.django_db(transaction=True)


def admitted(channel: str, reader: Any = None) -> Finding:
    position = publish(channel, "x").position
    assert position is not None
    return next(each for each in ask(position, reader) if re.search(r" can(not)? read ", each.sentence))


def test_open_channel_is_for_everybody() -> None:
    finding = admitted("news")
    assert finding.verdict is Verdict.GOOD
    assert finding.sentence == "A visitor who is not logged in can read news according to the current policy."


def test_refused_says_who_may() -> None:
    finding = admitted("secret", user())
    assert finding.verdict is Verdict.BAD
    assert finding.sentence == "ada cannot read secret. Readers: staff with permission to view messages."
    assert "channel’s settings" in finding.remedy


def test_policy_sees_the_chosen_user() -> None:
    ada, bob = user("ada"), user("bob")
    assert admitted(f"user.{ada.pk}", ada).verdict is Verdict.GOOD
    assert admitted(f"user.{ada.pk}", bob).verdict is Verdict.BAD
    assert admitted(f"user.{ada.pk}").verdict is Verdict.BAD
    staff = user("staff", is_staff=True)
    assert admitted("secret", staff).verdict is Verdict.BAD
    staff.user_permissions.add(Permission.objects.get(codename="view_message"))
    assert admitted("secret", get_user_model().objects.get(pk=staff.pk)).verdict is Verdict.GOOD


def test_channel_settings_affect_the_finding() -> None:
    group = Group.objects.create(name="press")
    settings = ChannelSettings.objects.create(channel="news", access="groups")
    settings.groups.add(group)
    ada = user()
    assert admitted("news", ada).verdict is Verdict.BAD
    ada.groups.add(group)
    assert admitted("news", get_user_model().objects.get(pk=ada.pk)).verdict is Verdict.GOOD


def test_inactive_account() -> None:
    ada = user(is_active=False)
    publish(f"user.{ada.pk}", "x")
    findings = ask(1, ada)
    assert about(findings, "The account of ada is not active.").verdict is Verdict.BAD
    assert about(findings, "cannot read").verdict is Verdict.BAD
    assert "not active" not in as_text(ask(1, user("bob")))


class WhoeverIsLoggedIn(BasePolicy):
    """Ignore whether the account is active. The user of a stream's request is never an inactive one."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        return bool(request.user.is_authenticated)


def test_inactive_account_is_checked_as_visitor(settings: Any, async_client: AsyncClient) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.WhoeverIsLoggedIn"}
    ada = user("ada")
    async_client.force_login(ada)
    ada.is_active = False
    ada.save()
    assert admitted("news", ada).verdict is Verdict.BAD
    assert admitted("news", user("bob")).verdict is Verdict.GOOD

    async def status() -> int:
        return (await async_client.get("/events/news/")).status_code

    assert async_to_sync(status)() == 403


class AsyncRule(BasePolicy):
    """Decide in an async method, which gets the user with `request.auser()`."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        return async_to_sync(self.acan_subscribe)(request, channel)

    async def acan_subscribe(self, request: Any, channel: str) -> bool:
        return (await request.auser()).username == "ada"


class OnlyTheWhole(DefaultPolicy):
    """Decide about all channels of a request at once."""

    def denied_channels(self, request: Any, channels: Any) -> list[str]:
        return [] if request.user.username == "ada" else list(channels)


@pytest.mark.parametrize("policy", [AsyncRule, OnlyTheWhole])
def test_policy_that_overrides_one_method(settings: Any, policy: type) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.{policy.__name__}"}
    assert admitted("secret", user("ada")).verdict is Verdict.GOOD
    refused = admitted("secret", user("bob"))
    assert refused.verdict is Verdict.BAD


class BySecrets(BasePolicy):
    """Look for data of the staff user everywhere in the request."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        assert request.method == "GET"
        found = [*request.COOKIES, *request.GET, *request.POST, *request.session.keys()]
        found += [name for name in request.headers if name in ("Cookie", "Authorization")]
        return found == [] and request.session.get("x") is None


def test_policy_sees_nothing_of_who_asks(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.BySecrets"}
    assert admitted("news", user()).verdict is Verdict.GOOD


class BySecretsOfTheServer(BasePolicy):
    """Look for data of the staff user in the data from the server: META, environ and the scope."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        data = {**request.META, **getattr(request, "environ", {}), **getattr(request, "scope", {})}
        return "staff" not in repr(data).replace(DIAGNOSIS, "")


@pytest.mark.parametrize("factory", [RequestFactory, AsyncRequestFactory], ids=["wsgi", "asgi"])
def test_policy_sees_no_secrets_of_server_data(settings: Any, factory: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.BySecretsOfTheServer"}
    publish("news", "x")
    headers = {"cookie": "sessionid=staff", "authorization": "Bearer staff", "proxy-authorization": "Basic staff"}
    request = factory().get(DIAGNOSIS, {"user": "staff"}, headers={**headers, "x-tenant": "acme"})
    request.user = user("who-asks")
    request.META["REMOTE_USER"] = "staff"
    findings = diagnose(1, request=request, user=user("ada"))
    assert about(findings, "ada can read news").verdict is Verdict.GOOD
    assert "staff" in repr(request.META), "the original request is unchanged"
    assert hasattr(request, "environ") or b"Bearer staff" in dict(request.scope["headers"]).values()


class ByTenant(BasePolicy):
    """Decide by a header of the request and of the scope, which identifies no user and is therefore kept."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        in_scope = dict(request.scope["headers"]).get(b"x-tenant") if hasattr(request, "scope") else b"acme"
        return request.headers["X-Tenant"] == "acme" and in_scope == b"acme"


@pytest.mark.parametrize("factory", [RequestFactory, AsyncRequestFactory], ids=["wsgi", "asgi"])
def test_policy_sees_other_request_data(settings: Any, factory: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.ByTenant"}
    publish("news", "x")
    findings = diagnose(1, request=factory().get(DIAGNOSIS, headers={"x-tenant": "acme"}), user=AnonymousUser())
    assert about(findings, "can read news").verdict is Verdict.GOOD


def test_request_is_not_modified(settings: Any) -> None:
    publish("news", "x")
    request = RequestFactory().get(DIAGNOSIS, {"a": "b"}, headers={"cookie": "c=d"})
    request.user = staff_user = user("who-asks")
    diagnose(1, request=request, user=user("ada"))
    assert request.user is staff_user
    assert request.GET["a"] == "b"
    assert request.COOKIES == {"c": "d"}


class Broken(BasePolicy):
    def can_subscribe(self, request: Any, channel: str) -> bool:
        raise KeyError("tenant")


def test_policy_that_raises(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.Broken"}
    publish("news", "x")
    finding = about(ask(1, user()), "Cannot check whether ada can read news")
    assert finding.verdict is Verdict.BAD
    assert "the policy raised KeyError: 'tenant'" in finding.sentence


class Speechless(BasePolicy):
    def describe_readers(self, channel: str) -> str:
        raise KeyError("tenant")


def test_policy_that_cannot_name_the_readers(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.Speechless"}
    publish("news", "x")
    assert about(ask(1, user()), "the policy raised KeyError: 'tenant'").verdict is Verdict.BAD
