"""Helpers for several tests of models."""

from __future__ import annotations

from django.contrib.auth.models import User

from streams.relay import usage

# The body of a request to the relay.
BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


def spend(user: User) -> None:
    """Record that the user has used the relay."""
    usage.record(
        user_id=user.pk, caller="", upstream="default", model="m", outcome="done", usage=None, chunks=1, seconds=1
    )
