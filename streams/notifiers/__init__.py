"""Notifiers: they notify the hubs of all processes that the log has grown. Each process has one."""

from __future__ import annotations

import os
import threading
from typing import Any

from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from streams.conf import settings
from streams.notifiers.base import BaseNotifier, Notice, Revocation

__all__ = ["BaseNotifier", "Notice", "Revocation", "get_notifier"]

_lock = threading.Lock()
_notifier: BaseNotifier | None = None


def get_notifier() -> BaseNotifier:
    """Return this process's notifier, made from STREAMS['NOTIFIER'] at the first call."""
    global _notifier
    with _lock:
        if _notifier is None:
            choice = settings.NOTIFIER
            _notifier = import_string(choice["BACKEND"])(**choice.get("OPTIONS", {}))
        return _notifier


def _forget(*, setting: str, **kwargs: Any) -> None:
    global _notifier
    if setting == "STREAMS":
        with _lock:
            _notifier = None


def _renew() -> None:
    global _lock, _notifier
    _lock, _notifier = threading.Lock(), None


os.register_at_fork(after_in_child=_renew)  # the hubs that the notifier knows are the parent's
setting_changed.connect(_forget)  # sent by override_settings, in tests
