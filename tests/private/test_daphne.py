"""daphne's internals: the installed version has them as Streams uses them, and Streams works without them."""

from __future__ import annotations

import inspect
from functools import partial
from types import SimpleNamespace
from typing import Any

import daphne.server
import pytest
from daphne.http_protocol import WebRequest

from streams.private import daphne as accessors
from streams.redaction import hide


async def handle_reply(protocol: Any, message: Any) -> None: ...


handle_reply.__module__ = "daphne.server"


def test_send_of_daphne_is_bound_to_a_request() -> None:
    """Check daphne's source: a request needs a reactor. tests/system/servers/test_asgi.py uses a real server."""
    assert "send=partial(self.handle_reply, protocol)" in inspect.getsource(daphne.server)
    assert list(inspect.signature(daphne.server.Server.handle_reply).parameters)[1:] == ["protocol", "message"]
    assert callable(WebRequest.registerProducer)
    assert callable(WebRequest.unregisterProducer)
    assert "self.uri" in inspect.getsource(daphne.server) + inspect.getsource(WebRequest)


def test_request_is_found_in_daphnes_send() -> None:
    request = SimpleNamespace(registerProducer=None, unregisterProducer=None)
    assert accessors.twisted_request(partial(handle_reply, request)) is request


@pytest.mark.parametrize("send", [handle_reply, partial(handle_reply, object())])
def test_send_of_daphne_without_a_request_is_reported(send: Any, warnings: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert accessors.twisted_request(send) is None
    assert warnings.text.count("What slow clients do not read") == 1


def test_send_of_another_server_is_not_reported(warnings: pytest.LogCaptureFixture) -> None:
    async def send(message: Any) -> None: ...

    assert accessors.twisted_request(send) is None
    assert accessors.twisted_request(partial(send, object())) is None
    assert not warnings.records


def test_uri_is_replaced_if_there_is_one(warnings: pytest.LogCaptureFixture) -> None:
    request = SimpleNamespace(uri=b"/events/?token=streams.abc")
    accessors.replace_uri(request, hide)
    assert request.uri.startswith(b"/events/?token=")
    assert b"abc" not in request.uri
    assert not warnings.records
    for _ in range(2):
        accessors.replace_uri(SimpleNamespace(), hide)
    assert warnings.text.count("Request.uri") == 1


def test_connection_is_aborted_if_there_is_one(warnings: pytest.LogCaptureFixture) -> None:
    aborted: list[bool] = []
    transport = SimpleNamespace(abortConnection=lambda: aborted.append(True))
    accessors.abort(SimpleNamespace(channel=SimpleNamespace(transport=transport)))
    assert aborted == [True]
    gone = SimpleNamespace(channel=None)
    accessors.abort(gone)
    assert not accessors.is_connected(gone)
    assert not warnings.records
    for _ in range(2):
        accessors.abort(SimpleNamespace(channel=SimpleNamespace()))
    assert accessors.is_connected(SimpleNamespace())
    assert warnings.text.count("transport") == 1
