"""Real servers for tests, started on free ports from the installed programs."""

import os
import socket
import time
from collections.abc import Callable

import pytest


def missing(program: str, package: str) -> None:
    """Skip the test, or fail it where REQUIRE_SERVICES says that everything must be there."""
    text = f"{program} is not installed; `apt-get install {package}` brings it"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(text)
    pytest.skip(text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait until `condition()` is true. A generous bound, not a measurement."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
