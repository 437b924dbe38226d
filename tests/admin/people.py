"""Create staff users and processes for the tests of the admin."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from streams.models import Node


def staff(*permissions: str, name: str | None = None) -> Client:
    """Return a client that is logged in as a staff user with only these permissions of the app `streams`."""
    user = User.objects.create_user(name or f"staff-{User.objects.count()}", is_staff=True)
    wanted = Permission.objects.filter(content_type__app_label="streams", codename__in=permissions)
    assert len(wanted) == len(permissions), permissions
    user.user_permissions.set(wanted)
    client = Client()
    client.force_login(user)
    return client


def node(channels: dict[str, int], **fields: Any) -> Node:
    """Store the presence row of another process that serves streams."""
    now, n = timezone.now(), Node.objects.count()
    total = sum(channels.values())
    defaults = {"id": f"n{n}", "host": "h", "pid": 1, "started_at": now, "seen_at": now, "connections": total, **fields}
    return Node.objects.create(channels=channels, **defaults)
