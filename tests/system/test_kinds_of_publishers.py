"""Publishing works from scripts, forked processes and log handlers, and on a log without a head."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import pytest
from django.db import connections, transaction

from streams import apublish, publish
from tests.support.sites import Site, finish
from tests.system.support import assert_no_holes, in_threads, sequenced

pytestmark = pytest.mark.once


def publish_in_four_threads() -> None:
    in_threads(*[lambda: [publish("news", "after") for _ in range(5)]] * 4)


def test_missing_head_is_created_once(site: Site) -> None:
    site.manage("publish", "news", "before")
    site.manage("publish", "news", "before")
    site.execute("DELETE FROM streams_loghead")
    for process in [site.call(publish_in_four_threads) for _ in range(2)]:
        finish(process)
    rows = sequenced(site)
    assert [data for _, data in rows] == ["before"] * 2 + ["after"] * 40
    # A missing head means that the tables were truncated, so that one new epoch starts.
    [(start,)] = site.execute("SELECT start FROM streams_epoch")
    assert [position for position, _ in rows] == [1, 2, *range(start + 1, start + 41)]


def publish_in_child() -> None:
    """Publish, fork as a pre-forking server does, and publish in the child."""
    publish("news", "parent")
    asyncio.run(apublish("news", "parent"))  # last, so that its thread is still there when the process forks
    connections.close_all()
    if (child := os.fork()) == 0:
        signal.alarm(30)  # ends a child that hangs
        asyncio.run(apublish("news", "child"))
        publish("news", "child")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status


def test_forked_child_publishes(site: Site) -> None:
    finish(site.call(publish_in_child))
    assert assert_no_holes(site) == ["parent", "parent", "child", "child"]


def log_by_publishing() -> None:
    """Publish everything that is logged, with a notifier that fails, so that publishing logs an error."""

    class Publisher(logging.Handler):
        publishing = False

        def emit(self, record: logging.LogRecord) -> None:
            if not self.publishing:
                self.publishing = True
                publish("log", record.getMessage())
                self.publishing = False

    logging.getLogger("streams").addHandler(Publisher())
    signal.alarm(30)  # ends a process that hangs
    publish("news", "one")
    with transaction.atomic():
        publish("news", "two")


def test_log_handler_can_publish(site: Site) -> None:
    site.settings(NOTIFIER={"BACKEND": "tests.publishing.support.BrokenNotifier"})
    finish(site.call(log_by_publishing))
    failed = "The notifier failed; subscribers will find the messages by polling the log."
    assert assert_no_holes(site) == ["one", failed, "two"], "an outage is logged once"


def test_script_and_its_threads_publish(site: Site) -> None:
    code = """
import threading
from django.db import connections
from streams import publish
print(publish("news", {"from": "script"}).position)
thread = threading.Thread(target=lambda: (publish("news", {"from": "thread"}), connections.close_all()))
thread.start()
thread.join()
"""
    assert finish(site.script(code)) == "1\n"
    assert assert_no_holes(site) == ['{"from":"script"}', '{"from":"thread"}']
