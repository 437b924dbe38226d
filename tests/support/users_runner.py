"""Django's test runner, which then looks at what the tests have left behind, while their database is still there."""

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
    """Ends with an error where there are rows, connections or threads left."""

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        assert not Message.objects.exists(), list(Message.objects.values_list("channel", "data"))
        assert not Channel.objects.exists()
        if connection.vendor == "postgresql":
            wait_until(lambda: not others(), "the end of all connections but this one")
        wait_for_log_threads()
        super().teardown_databases(old_config, **kwargs)
        print("Nothing is left behind.", file=sys.stderr)


def others() -> list[Any]:
    """What else is connected to the database, PostgreSQL's own workers aside."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid, state, query FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return list(cursor.fetchall())


def wait_for_log_threads() -> None:
    """Wait until the log's threads have ended. Where one does not, say what it is at."""
    try:
        wait_until(lambda: not _log_threads(), "the end of the log's threads")
    except TimeoutError as error:
        frames = sys._current_frames()
        stacks = ["".join(traceback.format_stack(frames[pk])) for pk in _log_threads() if pk in frames]
        raise TimeoutError("\n\n".join([str(error), *stacks])) from None


def _log_threads() -> list[int]:
    return [thread.ident or 0 for thread in threading.enumerate() if thread.name.startswith("streams")]
