"""Fixtures for several tests of models."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from streams import publish
from streams.models import Broadcast
from streams.relay.access import Principal
from streams.relay.generations import store
from streams.runtime.database import database
from tests.models.support import BODY, spend


@pytest.fixture
def ann() -> User:
    """A user to whom rows of every kind refer."""
    ann = User.objects.create(username="ann")
    publish("news", "by ann", published_by=ann)
    Broadcast.objects.using(database()).create(title="t", created_by=ann, scheduled_by=ann, sent_by=ann)
    store.create(Principal(ann, f"user {ann.pk}"), BODY, "default")
    spend(ann)
    return ann
