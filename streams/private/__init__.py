"""Access to internals of other libraries, with one module for each library.

No other module uses these names; tests/test_boundaries.py checks that. Each accessor's docstring gives its purpose,
the versions in which the internal was seen, and a change that would make it unnecessary. If an internal is missing at
run time, its accessor returns the documented substitute and logs one warning: Streams then costs more or does less.
tests/private checks each internal against the installed version, and the degraded mode without it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger("streams")

_reported: set[str] = set()


def report_missing(library: str, internal: str, consequence: str) -> None:
    """Log once per process that a library no longer has an internal, with the consequence."""
    if internal not in _reported:
        _reported.add(internal)
        logger.warning(
            "The installed version of %s has no %s. %s A newer version of django-sse-streams may support it.",
            library,
            internal,
            consequence,
        )


def or_substitute(
    substitute: Any, library: str, internal: str, consequence: str
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate an accessor: if it raises AttributeError, return `substitute` and report the missing internal."""

    def decorate(accessor: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(accessor)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return accessor(*args, **kwargs)
            except AttributeError:
                report_missing(library, internal, consequence)
                return cast(T, substitute)

        return guarded

    return decorate
