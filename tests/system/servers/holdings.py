"""Read the resources that a running server process holds, and wait until they meet a condition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psutil

from tests.support.sites import Server

Holdings = dict[str, Any]


async def ask(server: Server, path: str) -> Any:
    """Call Server.json() in a thread, so that the test's clients continue to run."""
    return await asyncio.to_thread(server.json, path)


async def publish(server: Server, channel: str, n: int = 1, bytes: int = 10) -> int:
    """Publish `n` messages from the server's own process, and return the last position."""
    return int((await ask(server, f"/test/burst/?channel={channel}&n={n}&bytes={bytes}"))["last"])


async def holdings(server: Server) -> Holdings:
    """Return the resources of the process that answers: threads, fds, tasks, rss, streams, subscribers and queues."""
    found: Holdings = await ask(server, "/test/process/?collect=1")
    return found


async def until(server: Server, condition: Callable[[Holdings], bool], what: str, seconds: float = 30.0) -> Holdings:
    """Wait until the process's resources meet the condition, and return them."""
    end = time.monotonic() + seconds
    pause = 0.1
    while not condition(found := await holdings(server)):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s; the process holds {found}")
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, 0.5)  # each request makes the process collect garbage
    return found


async def holds(server: Server, **expected: int) -> Holdings:
    """Wait until the process holds exactly these resources, such as `subscribers=0`."""
    return await until(server, lambda found: expected.items() <= found.items(), f"expected {expected}")


async def holds_no_more_than(server: Server, before: Holdings) -> Holdings:
    """Wait until the process holds no more streams, tasks, threads and open files than before."""
    counted = ("streams", "subscribers", "tasks", "threads", "fds")
    limits = {key: before[key] for key in counted}
    return await until(server, lambda found: all(found[key] <= limits[key] for key in counted), f"at most {limits}")


def connections(server: Server) -> int:
    """Return the number of client connections that the kernel lists for the server and its worker processes."""
    main = psutil.Process(server.pid)
    return sum(
        connection.laddr.port == server.port and connection.status != psutil.CONN_LISTEN
        for process in (main, *main.children(recursive=True))
        for connection in process.net_connections("tcp")
    )
