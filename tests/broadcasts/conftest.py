"""Fixtures for the tests of broadcasts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from django.contrib.auth.models import User

from tests.support.clients import leave_all


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    leave_all()


@pytest.fixture
def editor(db: None) -> User:
    return User.objects.create(username="editor", is_staff=True)
