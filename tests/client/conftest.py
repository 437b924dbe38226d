"""Fixtures: a kind of event source, and servers that write exact bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.client.support import KINDS, Answer, Kind, RawServer


@pytest.fixture(params=KINDS)
def new_source(request: pytest.FixtureRequest) -> Kind:
    """Return a function that makes an event source."""
    return Kind(request.param)


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    """Return a function that starts a RawServer."""
    servers: list[RawServer] = []

    def start(*answers: Answer) -> RawServer:
        servers.append(RawServer(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
