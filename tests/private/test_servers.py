"""The `send` methods of servers: those of the installed versions are known, and no other one is."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from streams.asgi import _Backpressure
from streams.private.servers import sends_from_any_task

granian = pytest.importorskip("granian._granian")
hypercorn = pytest.importorskip("hypercorn.protocol.http_stream")
h11 = pytest.importorskip("uvicorn.protocols.http.h11_impl")
httptools = pytest.importorskip("uvicorn.protocols.http.httptools_impl")


async def plain(event: Any) -> None: ...


@pytest.mark.parametrize("kind", [h11.RequestResponseCycle, httptools.RequestResponseCycle, _Backpressure])
def test_sends_of_known_servers_are_known(kind: type) -> None:
    assert sends_from_any_task(kind.__new__(kind).send)


def test_granians_protocol_is_known() -> None:
    """It cannot be made in Python. tests/system/servers/test_live.py checks the real one."""
    assert granian.ASGIHTTPProtocol.__module__ == "granian._granian"
    assert callable(granian.ASGIHTTPProtocol.send)


@pytest.mark.parametrize(
    "send", [plain, partial(plain), None, hypercorn.HTTPStream.__new__(hypercorn.HTTPStream).app_send]
)
def test_other_sends_are_not(send: Any) -> None:
    assert not sends_from_any_task(send)
