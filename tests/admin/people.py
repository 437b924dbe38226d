"""Users of the admin, for tests."""

from __future__ import annotations

from django.contrib.auth.models import Permission, User
from django.test import Client


def staff(*permissions: str, name: str | None = None) -> Client:
    """A client that is logged in as a staff user with these permissions of ours, and no others."""
    user = User.objects.create_user(name or f"staff-{User.objects.count()}", is_staff=True)
    wanted = Permission.objects.filter(content_type__app_label="streams", codename__in=permissions)
    assert len(wanted) == len(permissions), permissions
    user.user_permissions.set(wanted)
    client = Client()
    client.force_login(user)
    return client
