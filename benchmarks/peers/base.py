"""What the load generator needs to know about a server."""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks import rig

LIMIT_SECONDS = 120.0


class Peer(abc.ABC):
    """One server of the comparison. Its command runs in the foreground, on loopback."""

    name: str
    path: str  # of the stream that all clients open

    def missing(self) -> str:
        """Return how to install this server if it is not installed, or an empty string."""
        return ""

    def versions(self) -> Mapping[str, str]:
        """Return the versions of the programs and libraries that are measured."""
        return {}

    def prepare(self, folder: Path) -> None:  # noqa: B027 (most servers need nothing)
        """Create the database in an empty folder, once in a run."""

    @abc.abstractmethod
    def command(self, port: int, folder: Path) -> list[str]: ...

    def environment(self, folder: Path) -> Mapping[str, str]:
        return os.environ

    def publish(self, server: rig.Server, events: int, rate: float) -> None:
        """Publish the events, `rate` per second or as fast as possible if it is 0, and return when all are published.

        By default, the server publishes them itself, as its users do: in the process that has the streams. The
        benchmark does not wait longer than LIMIT_SECONDS.
        """
        with contextlib.suppress(TimeoutError):
            server.get(f"/burst/?n={events}&rate={rate}", timeout=LIMIT_SECONDS)
