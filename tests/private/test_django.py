"""Django's internals: the installed version has them as Streams uses them, and Streams works without them."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth import middleware
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.base import SessionBase
from django.core import mail
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection, transaction
from django.http import HttpRequest
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory, TestCase
from django.test import utils as test_utils
from django.utils.functional import SimpleLazyObject

from streams import EventStreamResponse, apublish
from streams.api.requests.bodies import read_json
from streams.private import asgiref, django
from streams.testing import read_events

# --- Tests and their transactions -------------------------------------------------------------------------------------


def test_test_run_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert django.in_test_run()
    test_utils_module = sys.modules.pop("django.test.utils")
    try:
        assert not django.in_test_run()
    finally:
        sys.modules["django.test.utils"] = test_utils_module
    monkeypatch.delattr(test_utils._TestState, "saved_data")
    assert not django.in_test_run()


def test_test_run_is_known_by_the_outbox(monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture) -> None:
    monkeypatch.delattr(test_utils, "_TestState")
    assert django.in_test_run()
    monkeypatch.delattr(mail, "outbox")
    assert not django.in_test_run()
    assert warnings.text.count("_TestState") == 1


class Transactions(TestCase):
    def test_only_the_callers_transaction_counts(self) -> None:
        assert connection.in_atomic_block
        assert django.in_tests_transaction(connection)
        assert not django.in_callers_transaction(connection)
        assert django.is_nested(connection), "the class has a transaction, and the test has a savepoint in it"
        with transaction.atomic():
            assert django.in_callers_transaction(connection)
        assert not django.in_callers_transaction(connection)


@pytest.mark.django_db(transaction=True)
def test_transaction_outside_of_testcase_is_the_callers() -> None:
    assert not django.in_callers_transaction(connection)
    with transaction.atomic():
        assert django.in_callers_transaction(connection)
        assert not django.in_tests_transaction(connection)
        assert not django.is_nested(connection)
        with transaction.atomic():
            assert django.is_nested(connection)


def test_hooks_of_a_savepoint_that_is_rolled_back_are_gone(db: None) -> None:
    def kept() -> None: ...

    def dropped() -> None: ...

    with transaction.atomic():
        transaction.on_commit(kept, robust=True)
        with transaction.atomic():
            transaction.on_commit(dropped)
            assert django.commit_hooks(connection) == [kept, dropped]
            transaction.set_rollback(True)
        assert django.commit_hooks(connection) == [kept]


def test_thread_of_a_connection_is_known(db: None) -> None:
    assert django.thread_of(connection) == threading.get_ident()


@pytest.mark.parametrize("in_block", [True, False])
def test_connection_without_internals_has_substitutes(in_block: bool, warnings: pytest.LogCaptureFixture) -> None:
    bare = SimpleNamespace(in_atomic_block=in_block)
    for _ in range(2):
        assert django.in_callers_transaction(bare) is in_block, "the result is the same as outside of tests"
        assert not django.in_tests_transaction(bare)
        assert not django.is_nested(bare)
        assert django.commit_hooks(bare) == []
        assert django.thread_of(bare) is None
    assert len(warnings.records) == 3
    unmarked = SimpleNamespace(atomic_blocks=[object()])
    assert django.in_callers_transaction(unmarked)
    assert not django.in_tests_transaction(unmarked)


def test_hooks_of_another_shape_are_none(warnings: pytest.LogCaptureFixture) -> None:
    assert django.commit_hooks(SimpleNamespace(run_on_commit=[object()])) == []
    assert "run_on_commit" in warnings.text


# --- Users ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def request_of_ann(db: None) -> HttpRequest:
    """Return a request with Ann's session, as the middleware returns it."""
    request = RequestFactory().get("/")
    client = Client()
    client.force_login(User.objects.create_user("ann"))
    request.session = client.session
    middleware.AuthenticationMiddleware(lambda request: None).process_request(request)  # type: ignore[arg-type]
    return request


def test_user_is_known_once_it_was_loaded(request_of_ann: HttpRequest) -> None:
    assert django.loaded_user(request_of_ann) is None
    assert django.has_sessions_user(request_of_ann)
    assert str(request_of_ann.user) == "ann"
    assert django.loaded_user(request_of_ann) == request_of_ann.user
    assert django.has_sessions_user(request_of_ann)
    request_of_ann.user = User(pk=-1)
    assert not django.has_sessions_user(request_of_ann)


def test_user_that_was_awaited_is_known(request_of_ann: HttpRequest) -> None:
    assert str(async_to_sync(request_of_ann.auser)()) == "ann"
    assert str(django.loaded_user(request_of_ann)) == "ann"


def test_forgotten_user_is_loaded_again(request_of_ann: HttpRequest, warnings: pytest.LogCaptureFixture) -> None:
    str(request_of_ann.user)
    User.objects.update(username="bob")
    django.forget_loaded_user(request_of_ann)
    middleware.AuthenticationMiddleware(lambda request: None).process_request(request_of_ann)  # type: ignore[arg-type]
    assert str(request_of_ann.user) == "bob"
    assert not warnings.records, "Django uses both names"


def test_user_under_another_name_is_forgotten(
    request_of_ann: HttpRequest, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    def get_user(request: Any) -> Any:
        if not hasattr(request, "_user_cache"):
            request._user_cache = User.objects.get()
        return request._user_cache

    monkeypatch.setattr(middleware, "get_user", get_user)
    assert str(request_of_ann.user) == "ann"
    User.objects.update(username="bob")
    for _ in range(2):
        django.forget_loaded_user(request_of_ann)
    middleware.AuthenticationMiddleware(lambda request: None).process_request(request_of_ann)  # type: ignore[arg-type]
    assert str(request_of_ann.user) == "bob"
    assert warnings.text.count("_cached_user") == 1


def test_lazy_user_without_internals_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    def never() -> Any:
        raise AssertionError("loaded")

    request = RequestFactory().get("/")
    request.user = SimpleLazyObject(never)
    monkeypatch.delattr("django.utils.functional.empty")
    for _ in range(2):
        assert django.loaded_user(request) is None
    assert warnings.text.count("LazyObject._wrapped") == 1


# --- Requests and responses -------------------------------------------------------------------------------------------


def test_body_that_was_kept_is_read_again() -> None:
    request = RequestFactory().post("/", b'{"a": 1}', content_type="application/json")
    assert not django.has_body(request)
    assert read_json(request) == {"a": 1}
    assert django.has_body(request)
    assert read_json(request) == {"a": 1}
    assert request.body == b'{"a": 1}'


def test_copied_request_has_an_empty_form() -> None:
    request = RequestFactory().post("/", {"secret": "one"}, headers={"X-Secret": "two"})
    assert (request.POST["secret"], request.headers["X-Secret"]) == ("one", "two")
    request.META = {}
    django.empty_form(request)
    assert not request.POST
    assert not request.FILES
    assert "X-Secret" not in request.headers


async def numbers() -> AsyncIterator[str]:
    for number in range(3):
        yield str(number)


def test_wsgi_handler_names_itself(db: None) -> None:
    """Streams can then respond with an error under WSGI instead of blocking a worker."""
    started: list[str] = []
    environ = RequestFactory().get("/test/response/numbers/?n=3").environ
    body = b"".join(WSGIHandler()(environ, lambda status, headers: started.append(status)))
    assert started == ["500 Internal Server Error"]
    assert b"need ASGI" in body


def test_sync_test_client_names_its_request(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream is then an error in the sync test client, as it is under WSGI."""
    seen: list[type] = []
    monkeypatch.setattr(EventStreamResponse, "served_by", lambda self, handler: seen.append(handler))
    Client().get("/test/response/numbers/?n=3")
    assert seen == [WSGIHandler]


def test_namespaces_of_an_app_are_found(monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture) -> None:
    assert django.namespaces_of("streams") == ["streams"]
    monkeypatch.setattr(django, "get_resolver", lambda urlconf: SimpleNamespace())
    assert django.namespaces_of("streams") == []
    assert warnings.text.count("URLResolver.app_dict") == 1


async def test_asgi_handler_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type] = []
    monkeypatch.setattr(EventStreamResponse, "served_by", lambda self, handler: seen.append(handler))
    scope = {**AsyncRequestFactory().get("/test/response/numbers/?n=3").scope, "asgi": {"version": "3.0"}}
    server = ApplicationCommunicator(ASGIHandler(), scope)
    await server.send_input({"type": "http.request"})
    assert (await server.receive_output(10))["status"] == 200
    assert seen == [ASGIHandler]
    await server.send_input({"type": "http.disconnect"})
    await server.wait(10)


async def test_stream_is_iterated_without_djangos_generators() -> None:
    response = EventStreamResponse(numbers())
    assert aiter(response) is response.plain_iterator()
    response.streaming_content = numbers()
    assert [part async for part in response] == [b"0", b"1", b"2"]


async def test_stream_without_a_known_iterator_works(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    """Some version of Django could store the iterator under another name."""

    async def content(self: Any) -> AsyncIterator[bytes]:
        async for part in self.renamed:
            yield part

    def keep(self: Any, value: Any) -> None:
        self.is_async, self.renamed = True, aiter(value)

    monkeypatch.setattr("django.http.StreamingHttpResponse.streaming_content", property(content, keep))
    response = EventStreamResponse(numbers())
    assert b"".join([part async for part in response]).count(b"data:") == 3
    assert warnings.text.count("StreamingHttpResponse._iterator") == 1


# --- A stream without any of the internals ----------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_stream_works_without_internals(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    # Only a test run needs this one: connections to a SQLite database in memory do not wait for each other's locks.
    shared = asgiref.shared_executor()
    monkeypatch.setattr("streams.private.asgiref.shared_executor", lambda: shared)
    monkeypatch.setattr("streams.private.asgiref.SyncToAsync", SimpleNamespace())
    monkeypatch.setattr("streams.private.asgiref.AsyncToSync", SimpleNamespace())
    monkeypatch.setattr(django, "_atomic_blocks", lambda connection: None)
    monkeypatch.setattr(django, "_was_loaded", lambda user: False)
    response = await AsyncClient().get("/events/news/")
    await apublish("news", "hello")
    assert [event.data for event in await read_events(response, 1)] == ["hello"]


def test_factories_make_requests_of_nobody() -> None:
    for factory in (RequestFactory(), AsyncRequestFactory()):
        request = factory.get("/")
        assert django.loaded_user(request) is None
        assert not django.has_sessions_user(request)
        request.session, request.user = SessionBase(), AnonymousUser()
        assert not django.has_sessions_user(request)
