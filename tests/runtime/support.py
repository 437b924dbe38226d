"""Helpers for several tests of log threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Work:
    """A job that waits until it is released, and records the threads in which it runs."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self.running = self.max_running = 0

    def __call__(self) -> None:
        with self._lock:
            self.threads.add(threading.current_thread())
            self.running += 1
            self.max_running = max(self.max_running, self.running)
        self.release.wait(60)
        with self._lock:
            self.running -= 1


def all_gone(running: set[threading.Thread]) -> Callable[[], bool]:
    """Return a condition for wait_until(): all these threads have ended."""
    return lambda: not any(thread.is_alive() for thread in running)


def set_threads(settings: Any, number: int) -> None:
    settings.STREAMS = {**settings.STREAMS, "DATABASE_THREADS": number}
