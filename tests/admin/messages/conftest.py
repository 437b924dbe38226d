"""Logged-in clients for the tests of the message pages."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.admin.messages.support import log_in


@pytest.fixture
def reader() -> Client:
    return log_in("view_message")


@pytest.fixture
def sender() -> Client:
    return log_in("view_message", "add_message")


@pytest.fixture
def pruner() -> Client:
    return log_in("view_message", "delete_message")
