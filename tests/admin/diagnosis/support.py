"""Helpers for the tests of the diagnosis."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.test import RequestFactory

from streams.admin.diagnosis.diagnose import diagnose
from streams.admin.diagnosis.findings import Finding

DIAGNOSIS = "/admin/streams/message/diagnosis/"


def ask(position: int, user: Any = None, last_event_id: str = "") -> list[Finding]:
    request = RequestFactory().get(DIAGNOSIS, headers={"cookie": "sessionid=staff", "authorization": "Bearer staff"})
    request.user = get_user_model()(username="who-asks", is_staff=True, is_superuser=True, is_active=True)
    return diagnose(position, request=request, user=user or AnonymousUser(), last_event_id=last_event_id)


def as_text(findings: list[Finding]) -> str:
    return "\n".join(f"{each.verdict.value}: {each.sentence} {each.remedy}" for each in findings)


def about(findings: list[Finding], words: str) -> Finding:
    """Return the only finding whose sentence contains these words."""
    found = [each for each in findings if words in each.sentence]
    assert len(found) == 1, as_text(findings)
    return found[0]


def user(name: str = "ada", **attributes: Any) -> Any:
    return get_user_model().objects.create_user(name, **attributes)
