"""Whose address a request comes from."""

from __future__ import annotations

from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """The client's address."""
    return str(request.META.get("REMOTE_ADDR") or "")
