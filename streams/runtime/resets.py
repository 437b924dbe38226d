"""The state of a process that must be replaced: in a forked child, and if a test overrides settings.

No other module calls os.register_at_fork() or connects to setting_changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from django.core.signals import setting_changed

P = ParamSpec("P")
T = TypeVar("T")
Reset = TypeVar("Reset", bound=Callable[[], object])


def per_process(make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `make(*args, **kwargs)`, an object that a forked child initialises again in place.

    A child inherits the memory of its parent, but none of its threads: a lock that one of them held stays locked, and
    jobs that were waiting for a thread are never done. `make` is a class.
    """
    thing = make(*args, **kwargs)
    after_fork(lambda: thing.__init__(*args, **kwargs))  # type: ignore[misc]
    return thing


def after_fork(reset: Reset) -> Reset:
    """Call `reset()` in each forked child. Can be used as a decorator."""
    os.register_at_fork(after_in_child=reset)
    return reset


_on_change: list[tuple[tuple[str, ...], Callable[[], object]]] = []


def on_settings_change(reset: Reset, *names: str) -> Reset:
    """Call `reset()` if one of these settings, or STREAMS if none is given, is overridden. Can be used as a decorator.

    Only tests override settings. What is kept of a setting would otherwise outlive the test.
    """
    _on_change.append((names or ("STREAMS",), reset))
    return reset


def _changed(*, setting: str, **kwargs: Any) -> None:
    for names, reset in _on_change:
        if setting in names:
            reset()


setting_changed.connect(_changed)
