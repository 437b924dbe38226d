"""A notifier that makes every kind of error that hubs must tolerate."""

from __future__ import annotations

import random
import threading

from streams.notifiers import Notice
from streams.notifiers.local import LocalNotifier


class FaultyNotifier(LocalNotifier):
    """Drops, repeats, delays, reorders and empties notices at random, and fails. The `seed` determines the choices."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._held: list[Notice] = []

    def notify(self, notice: Notice) -> None:
        with self._lock:
            action = self._random.choice(["pass", "pass", "drop", "repeat", "hold", "empty", "fail", "release"])
            due = {
                "pass": [notice],
                "repeat": [notice, notice],
                "empty": [Notice(notice.first, notice.last)],
            }.get(action, [])
            if action == "hold":
                self._held.append(notice)
            elif action == "release":
                due = [*self._held, notice]
                self._random.shuffle(due)
                self._held.clear()
        for one in due:
            super().notify(one)
        if action == "fail":
            raise ConnectionError("no server")
