"""State that is replaced in a forked child process, or if a setting is overridden."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.signals import setting_changed

from streams.runtime import resets


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.lock = threading.Lock()
        self.value = start


def in_child(check: Callable[[], bool]) -> bool:
    """Return what `check()` returns in a forked child."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_object_is_initialised_again_in_a_child() -> None:
    counter = resets.per_process(Counter, start=3)
    counter.value = 7
    with counter.lock:
        assert in_child(lambda: counter.value == 3 and not counter.lock.locked())
    assert counter.value == 7


@pytest.fixture
def receivers() -> Iterator[None]:
    """Forget the receivers that the test connects."""
    before = setting_changed.receivers.copy()
    yield
    setting_changed.receivers[:] = before


def test_only_the_named_settings_reset(receivers: None, settings: Any) -> None:
    changes: list[str] = []
    resets.on_settings_change(lambda: changes.append("STREAMS"))
    resets.on_settings_change(lambda: changes.append("others"), "DEBUG", "TIME_ZONE")
    settings.STREAMS = {**settings.STREAMS, "POLL_SECONDS": 2}
    assert changes == ["STREAMS"]
    settings.DEBUG = True
    assert changes == ["STREAMS", "others"]
