"""Real servers for tests, started on free ports from the installed programs."""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator

import psutil
import pytest


def missing(program: str, package: str) -> None:
    """Skip the test, or fail it where REQUIRE_SERVICES says that everything must be there."""
    text = f"{program} is not installed; `apt-get install {package}` brings it"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(text)
    pytest.skip(text)


def free_port() -> int:
    """A port that nobody uses, below those that the kernel hands to clients: it would give away one of its own again
    before the server has it."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait until `condition()` is true. A generous bound, not a measurement."""
    end = time.monotonic() + seconds
    pause = 0.02
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(pause)
        pause = min(1.5 * pause, 0.25)  # most conditions are a new connection or a request: asking costs the most


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def suspended(pid: int) -> Iterator[None]:
    """The process and its children answer nobody, and close no connection either."""
    main = psutil.Process(pid)
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()
