"""The role matrix: every URL, asked by every role."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission

from tests.system.attacks import roles

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.django_db]


def test_no_role_sees_what_is_for_others() -> None:
    """No answer is a 500 or shows a text that the role cannot see. There is a role for each permission of Streams."""
    bob = roles.furnish()
    ours = Permission.objects.filter(content_type__app_label__startswith="streams")
    some_roles = list(roles.roles(ours.select_related("content_type").order_by("pk")))
    walk = roles.walk(some_roles, roles.paths(bob), ["GET"])
    assert not walk.faults
    assert walk.requests > 2000
    # The superuser sees all texts, so the test can fail.
    assert {secret for name, secret in walk.seen if name == "superuser"} == set(roles.MAY_SEE)
