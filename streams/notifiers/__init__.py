"""Notifiers: they notify the hubs of all processes that the log has grown. Each process has one."""

from __future__ import annotations

import threading

from django.utils.module_loading import import_string

from streams.conf import settings
from streams.notifiers.base import BaseNotifier, Notice, Revocation
from streams.runtime.resets import on_settings_change, per_process

__all__ = ["BaseNotifier", "Notice", "Revocation", "get_notifier"]


class _Chosen:
    """This process's notifier. In a forked child it is another one: this one knows the hubs of the parent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notifier: BaseNotifier | None = None

    def get(self) -> BaseNotifier:
        with self._lock:
            if self._notifier is None:
                choice = settings.NOTIFIER
                self._notifier = import_string(choice["BACKEND"])(**choice.get("OPTIONS", {}))
            return self._notifier

    def forget(self) -> None:
        with self._lock:
            self._notifier = None


_chosen = per_process(_Chosen)
on_settings_change(_chosen.forget)


def get_notifier() -> BaseNotifier:
    """Return this process's notifier, made from STREAMS['NOTIFIER'] at the first call."""
    return _chosen.get()
