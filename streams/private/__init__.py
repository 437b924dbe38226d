"""The internals of other libraries that Streams needs, each library's in one module.

No other module uses these names; tests/test_architecture.py checks that. Each accessor's docstring says what it is for,
the versions it was seen in, and what would make it unnecessary. If an internal is missing at run time, its accessor
returns the documented substitute and logs one warning: Streams then costs more or does less, and goes on.
tests/private checks each internal against the installed version, and the degraded mode without it.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("streams")

_reported: set[str] = set()


def report_missing(library: str, internal: str, consequence: str) -> None:
    """Log once in this process that a library has no such internal any more, and what follows from that."""
    if internal not in _reported:
        _reported.add(internal)
        logger.warning(
            "The installed version of %s has no %s. %s A newer version of django-sse-streams may support it.",
            library,
            internal,
            consequence,
        )
