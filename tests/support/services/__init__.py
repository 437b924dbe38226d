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
    """Skip the test, or fail it if REQUIRE_SERVICES=1 requires all programs."""
    text = f"{program} is not installed; `apt-get install {package}` brings it"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(text)
    pytest.skip(text)


def free_port() -> int:
    """Return an unused port below the kernel's range for clients.

    The kernel could give a port of that range to a client before the server listens on it.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait until `condition()` is true. The time limit is generous, and only ends tests that hang."""
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
    """Suspend a process and its children, so that they answer no client and close no connection."""
    main = psutil.Process(pid)
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # its parent, which runs again, has ended it
                process.resume()
