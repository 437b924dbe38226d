"""What a process with a hub does besides, now and then. Who has such work registers it here; each hub does it.

So the hub need not know of retention, presence or broadcasts, and these need no process of their own.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Chore:
    """`run` is called on the hub's event loop every `seconds()` seconds, and never twice at a time in one hub.

    Several hubs, in this process and in others, do the same chore: one that must happen once sees to that itself, in
    the database. Where `seconds()` is None, it is not done. What `run` raises is logged, once for a run of failures.
    `at_start`: whether it is done as soon as the hub has started, too.
    """

    name: str
    run: Callable[[], Awaitable[object]]
    seconds: Callable[[], float | None]
    at_start: bool = True


_chores: dict[str, Chore] = {}


def register(chore: Chore) -> None:
    """Have all hubs that start from now on do `chore`. One of the same name is replaced."""
    _chores[chore.name] = chore


def registered() -> Iterable[Chore]:
    return tuple(_chores.values())


def spawn(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task of the process's own on the running event loop.

    It has a context of its own: the task outlives the request that happened to start it, and must not keep that
    request's thread, its user or its trace alive.
    """
    return asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())
