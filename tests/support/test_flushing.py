"""Deleting rows after a test leaves the database in the same state as Django's flush."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection

from streams import publish
from streams.models import Epoch, LogHead, Message
from tests.support.flushing import delete_rows

pytestmark = pytest.mark.django_db(transaction=True)


def fill() -> None:
    User.objects.create(username="ada")
    publish("news", "hello")
    assert Message.objects.get().position is not None
    assert LogHead.objects.exists()


def count_rows() -> dict[str, int]:
    models = apps.get_models(include_auto_created=True)
    existing = set(connection.introspection.table_names())
    return {model._meta.db_table: model._base_manager.count() for model in models if model._meta.db_table in existing}


def test_deleting_rows_leaves_what_flush_leaves() -> None:
    fill()
    call_command("flush", interactive=False, verbosity=0)
    flushed = count_rows()
    fill()
    assert count_rows() != flushed
    delete_rows("default")
    assert count_rows() == flushed
    assert not Epoch.objects.exists()


def test_log_can_be_used_after_flush() -> None:
    fill()
    call_command("flush", interactive=False, verbosity=0)
    fill()
