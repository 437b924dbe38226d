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


def per_process(make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `make(*args, **kwargs)`, an object that a forked child initialises again in place. `make` is a class.

    A child inherits the memory of its parent, but none of its threads: a lock that one of them held stays locked, and
    jobs that were waiting for a thread are never done.
    """
    thing = make(*args, **kwargs)
    os.register_at_fork(after_in_child=lambda: thing.__init__(*args, **kwargs))  # type: ignore[misc]
    return thing


def on_settings_change(reset: Callable[[], object], *names: str) -> None:
    """Call `reset()` if one of these settings, or STREAMS if none is given, is overridden.

    Only tests override settings. A value that was computed from a setting would otherwise outlive the test.
    """

    def changed(*, setting: str, **kwargs: Any) -> None:
        if setting in (names or ("STREAMS",)):
            reset()

    setting_changed.connect(changed, weak=False)
