"""The limit of open files, which a process with thousands of connections needs to raise."""

from __future__ import annotations

import resource

# What a server or a client process has open besides its streams: libraries, the database, the listening socket.
OTHER_FILES = 256


def raise_limit() -> int:
    """Raise this process's limit as far as it can, for its children too, and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def too_few_for(connections: int) -> str:
    """Return why so many connections cannot be opened, with the remedy, or an empty string."""
    limit, needed = raise_limit(), connections + OTHER_FILES
    if limit >= needed:
        return ""
    return f"{connections:,} connections need {needed:,} open files, and the limit is {limit:,}; `ulimit -n {needed}`"
