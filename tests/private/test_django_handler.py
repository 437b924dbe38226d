"""Internals of Django's ASGI handler: the installed version has them, and without them streams take Django's way."""

from __future__ import annotations

import pytest
from django.core.handlers.base import BaseHandler
from django.http import HttpResponse

import streams.direct.application
from streams.asgi import get_asgi_application
from streams.private import django_handler


def test_internals_are_available() -> None:
    assert django_handler.is_available()


def test_response_is_closed_without_the_signal() -> None:
    closed = []

    class Content:
        def __iter__(self) -> Content:
            return self

        def __next__(self) -> bytes:
            raise StopIteration

        def close(self) -> None:
            closed.append(True)

    response = HttpResponse()
    response._resource_closers.append(Content().close)
    django_handler.close_response(response)
    assert closed == [True]
    assert not response.closed


@pytest.mark.parametrize("name", ["_view_middleware", "_middleware_chain"])
def test_without_an_internal_streams_take_djangos_way(
    name: str, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the direct way is not available")

    # The application is not called: without the attribute, Django itself would not work.
    monkeypatch.setattr("django.core.asgi.get_asgi_application", lambda: None)
    monkeypatch.setattr(streams.direct.application, "with_direct_streams", refuse)
    monkeypatch.delattr(BaseHandler, name)
    get_asgi_application(direct=True)
    get_asgi_application(direct=True)
    assert warnings.text.count(name) == 1
