"""Fixtures that several tests of access share."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ann", password="one")
