"""Django's test runner, with a check that the tests have left no rows, connections or threads behind."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import Any

from django.db import connection
from django.test.runner import DiscoverRunner

from streams.models import Channel, Message
from tests.support.services import wait_until


class CheckingRunner(DiscoverRunner):
    """Fails if rows, connections or threads are left at the end, before the test database is destroyed."""

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        assert not Message.objects.exists(), list(Message.objects.values_list("channel", "data"))
        assert not Channel.objects.exists()
        if connection.vendor == "postgresql":
            wait_until(lambda: not others(), "the end of all other connections")
        wait_for_log_threads()
        super().teardown_databases(old_config, **kwargs)
        print("Nothing is left behind.", file=sys.stderr)


def others() -> list[Any]:
    """Return the other client connections to the database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid, state, query FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return list(cursor.fetchall())


def wait_for_log_threads() -> None:
    """Wait until the log's threads have ended. If one does not end, raise an error with its stack."""
    try:
        wait_until(lambda: not _log_threads(), "the end of the log's threads")
    except TimeoutError as error:
        frames = sys._current_frames()
        stacks = ["".join(traceback.format_stack(frames[pk])) for pk in _log_threads() if pk in frames]
        raise TimeoutError("\n\n".join([str(error), *stacks])) from None


def _log_threads() -> list[int]:
    return [thread.ident or 0 for thread in threading.enumerate() if thread.name.startswith("streams")]
