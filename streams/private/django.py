"""Internals of Django: transactions of tests, users that are already loaded, requests and responses."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import django
from django.core.exceptions import RequestAborted
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, QueryDict, StreamingHttpResponse
from django.urls import get_resolver, get_urlconf
from django.utils import functional
from django.utils.functional import LazyObject, SimpleLazyObject

from streams.private import or_substitute, report_missing

# --- Tests and their transactions ---


def in_test_run() -> bool:
    """Return True if Django's test environment is set up in this process. It costs nothing if it is not.

    Seen in Django 5.2 to 6.1 (django.test.utils._TestState). A public function of this kind would make it unnecessary.
    If it is missing, the documented `django.core.mail.outbox` is looked for, which other code can have made as well.
    """
    module = sys.modules.get("django.test.utils")
    if module is None:
        return False
    try:
        return hasattr(module._TestState, "saved_data")
    except AttributeError:
        report_missing("Django", "django.test.utils._TestState", "Test runs are known by `django.core.mail.outbox`.")
        return hasattr(sys.modules.get("django.core.mail"), "outbox")


def in_callers_transaction(connection: Any) -> bool:
    """Return True if the calling code has opened a transaction that will commit.

    The transaction that Django's TestCase, or pytest-django's `db`, has around a test never commits, so it does not
    count. Seen in Django 5.2 to 6.1 (connection.atomic_blocks, Atomic._from_testcase, which atomic(durable=True)
    looks at as well). A public question of this kind would make it unnecessary. If it is missing, a test's transaction
    counts as the caller's: the messages that a test publishes are delivered to no stream.
    """
    if (blocks := _atomic_blocks(connection)) is None:
        return bool(connection.in_atomic_block)
    return any(not _is_of_test(block) for block in blocks)


def in_tests_transaction(connection: Any) -> bool:
    """Return True if Django's TestCase, or pytest-django's `db`, has a transaction around the running test.

    See in_callers_transaction(). If it is missing, False.
    """
    blocks = _atomic_blocks(connection)
    return bool(blocks) and _is_of_test(blocks[0])


def is_nested(connection: Any) -> bool:
    """Return True if the innermost transaction is inside another one, so that its work can still be rolled back.

    Seen in Django 5.2 to 6.1 (connection.atomic_blocks; see in_callers_transaction()). If it is missing, False: a test
    can then mistake the identity of an earlier test's log for its own.
    """
    return len(_atomic_blocks(connection) or ()) > 1


_NOT_IN_TESTS = "Messages that a test publishes reach no stream."


@or_substitute(None, "Django", "connection.atomic_blocks", _NOT_IN_TESTS)
def _atomic_blocks(connection: Any) -> Any:
    return connection.atomic_blocks


@or_substitute(False, "Django", "Atomic._from_testcase", _NOT_IN_TESTS)
def _is_of_test(block: Any) -> bool:
    return bool(block._from_testcase)


def commit_hooks(connection: Any) -> list[Callable[[], object]]:
    """Return the functions that were passed to transaction.on_commit() and still wait, the oldest first.

    All publishes of a transaction find their common hook there. Django removes the hooks of a savepoint that is rolled
    back. Seen in Django 5.2 to 6.1 (connection.run_on_commit). Data of one's own that lives as long as a transaction or
    savepoint would make it unnecessary. If it is missing, each publish of a transaction is numbered by its own hook.
    """
    try:
        return [hook[1] for hook in connection.run_on_commit]
    except (AttributeError, TypeError, LookupError):
        report_missing("Django", "connection.run_on_commit", "Publishes of one transaction do not share their work.")
        return []


class _EveryAlias(set[str]):
    """Contains every alias, including those of databases that are configured later."""

    def __contains__(self, alias: object) -> bool:
        return True


def exempt_from_atomic_requests(view: Any) -> None:
    """Keep a view outside of the transactions of ATOMIC_REQUESTS, for every database.

    Seen in Django 5.2 to 6.1 (`view._non_atomic_requests`, which transaction.non_atomic_requests() sets for one
    database). A decorator without a database would make it unnecessary. If the attribute has another name, only the
    databases that the public decorator was called for are covered.
    """
    view._non_atomic_requests = _EveryAlias()


@or_substitute(None, "Django", "connection._thread_ident", "Async tests find the log outside of their transaction.")
def thread_of(connection: Any) -> int | None:
    """Return the identifier of the thread that a connection belongs to; None if it is not known.

    For async tests, whose transaction is in the thread of the event loop. Seen in Django 5.2 to 6.1
    (connection._thread_ident). A public name would make it unnecessary.
    """
    ident: int = connection._thread_ident
    return ident


# --- Users that were loaded already ---

_CACHED_USERS = ("_cached_user", "_acached_user")


def loaded_user(request: HttpRequest) -> Any:
    """Return the user that other code has loaded for a request, logged in or not; None if none was. Never queries.

    Seen in Django 5.2 to 6.1 (AuthenticationMiddleware keeps it in `request._cached_user`, `await request.auser()` in
    `request._acached_user`; LazyObject._wrapped). A way to ask whether `request.user` was loaded would make it
    unnecessary. If it is missing, None: such a stream counts for no user until its policy has loaded one.
    """
    known = request.__dict__
    user = known.get("user")
    return _cached_user(known) if isinstance(user, LazyObject) and not _was_loaded(user) else user


@or_substitute(False, "Django", "LazyObject._wrapped", "Streams count for no user until their policy asks for one.")
def _was_loaded(user: Any) -> bool:
    return user._wrapped is not functional.empty


def _cached_user(kept: dict[str, Any]) -> Any:
    return next((kept[name] for name in _CACHED_USERS if kept.get(name)), None)


def has_sessions_user(request: HttpRequest) -> bool:
    """Return True if a request's user is that of its session, as AuthenticationMiddleware finds it.

    False if other code has put a user in its place. Seen in Django 5.2 to 6.1 (`request.auser` is a partial of a
    function in django.contrib.auth.middleware; see loaded_user()). A mark of the middleware's on the request would
    make it unnecessary. If `_wrapped` is missing, a lazy user that the middleware could have made counts as its own.
    """
    from django.contrib.auth.middleware import AuthenticationMiddleware

    kept = request.__dict__
    user, auser = kept.get("user"), kept.get("auser")
    has_middleware = isinstance(auser, partial) and auser.func.__module__ == AuthenticationMiddleware.__module__
    if not has_middleware or not isinstance(user, SimpleLazyObject) or kept.get("session") is None:
        return False
    if not _was_loaded(user):
        return True
    found = _cached_user(kept)
    return found is not None and found.pk == user.pk


def forget_loaded_user(request: HttpRequest) -> None:
    """Remove the user that AuthenticationMiddleware keeps with a request, so that it is loaded again.

    See loaded_user(). If Django keeps it under another name, every private attribute with "user" in its name is
    removed: a recheck must not be answered with a user from before.
    """
    kept = request.__dict__
    for name in _CACHED_USERS if _knows_cached_users() else [n for n in kept if n.startswith("_") and "user" in n]:
        kept.pop(name, None)


def _knows_cached_users() -> bool:
    from django.contrib.auth import middleware

    try:
        sync, asynchronous = middleware.get_user.__code__, middleware.auser.__code__
        known = "_cached_user" in sync.co_names and "_acached_user" in asynchronous.co_names
    except AttributeError:
        known = False
    if not known:
        report_missing("Django", "request._cached_user", "Rechecks drop all private attributes named after a user.")
    return known


# --- Requests and responses ---


def has_body(request: HttpRequest) -> bool:
    """Return True if a request's body was read already, so that `request.body` returns it again.

    Seen in Django 5.2 to 6.1 (HttpRequest._body). If it is missing, False, and reading on gives an empty body.
    """
    return hasattr(request, "_body")


def keep_body(request: HttpRequest, body: bytes) -> None:
    """Keep a body that was read by `request.read()`, so that code that comes later finds it in `request.body`.

    Seen in Django 5.2 to 6.1 (HttpRequest._body). A limit for `request.body` by request would make it unnecessary.
    """
    request._body = body


def empty_form(request: HttpRequest) -> None:
    """Give a copied request an empty form, and drop the values that were computed for the original.

    Seen in Django 5.2 to 6.1 (HttpRequest._post, _files, the cached `headers`, `_messages` of django.contrib.messages).
    A public way to make a request from parts would make it unnecessary.
    """
    forget_loaded_user(request)
    for name in ("headers", "_messages"):
        request.__dict__.pop(name, None)
    request._post, request._files = QueryDict(), {}  # type: ignore[attr-defined]


@or_substitute([], "Django", "URLResolver.app_dict", "{% stream_url %} finds no stream in a nested namespace.")
def namespaces_of(app_name: str) -> list[str]:
    """Return the namespaces in which an app's URLs are mounted in the active URLconf, such as `shop:streams`.

    The outer ones come first. Seen in Django 5.2 to 6.1 (URLResolver.app_dict, URLResolver.namespace_dict). A reverse()
    that finds an app in a nested namespace would make it unnecessary. If one is missing, the list is empty: an app in
    a nested namespace is not found.
    """
    found: list[str] = []
    level: list[tuple[str, Any]] = [("", get_resolver(get_urlconf()))]
    while level:
        found += [prefix + name for prefix, resolver in level for name in resolver.app_dict.get(app_name, ())]
        level = [
            (f"{prefix}{name}:", nested)
            for prefix, resolver in level
            for name, (_, nested) in resolver.namespace_dict.items()
        ]
    return found


# If this is raised while a response is sent, ASGIHandler catches it and ends the request. Up to Django 6.0 it is a
# cancellation, as for a client that has disconnected. Django 6.1 (seen in 6.1.3) passes a cancellation on to the
# server, and catches RequestAborted.
EndOfRequest: type[BaseException] = RequestAborted if django.VERSION >= (6, 1) else asyncio.CancelledError


class ServedResponse(StreamingHttpResponse):
    """A StreamingHttpResponse that learns which handler serves it, and whose iterator can be iterated as it is.

    Seen in Django 5.2 to 6.1. `_handler_class`: handlers set it before they read anything else of a response, which
    is the only moment at which a response can find out that WSGI will serve it. `wsgi_request`: Django's sync test
    client sets it in the same place, and has no handler class of WSGI's. `_iterator`: without the two generators that
    Django puts around it. If one is missing, the stream works with Django's generators, and under WSGI it raises when
    it is iterated. An attribute of the request that names its handler, and a public name for the iterator, would make
    them unnecessary.
    """

    is_async: bool

    def served_by(self, handler: type) -> None:
        """Hook: this handler is going to serve the response. Called before the handler reads the response."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_handler_class" and value is not None:
            self.served_by(value)
        elif name == "wsgi_request":
            self.served_by(WSGIHandler)

    @or_substitute(None, "Django", "StreamingHttpResponse._iterator", "Each delivery runs through two generators.")
    def plain_iterator(self) -> Any:
        """Return the iterator of the response, which a middleware can have replaced; None if it is unknown."""
        return self._iterator  # type: ignore[attr-defined]

    # Django's own getter returns a generator that refers to the response. If a middleware wraps it and then drops both
    # because the client has disconnected, a reference cycle remains: the source would stay open until the garbage
    # collector runs.
    @property
    def streaming_content(self) -> Any:
        iterator = self.plain_iterator() if self.is_async else None
        return super().streaming_content if iterator is None else _as_bytes(iterator, self.charset)

    @streaming_content.setter
    def streaming_content(self, value: Any) -> None:
        own: Any = StreamingHttpResponse.streaming_content  # a property, which the stubs do not know
        own.fset(self, value)


async def _as_bytes(parts: AsyncIterator[Any], charset: str) -> AsyncIterator[bytes]:
    """Convert as HttpResponse.make_bytes does: the wrapper of a middleware can yield any type."""
    async for part in parts:
        yield bytes(part) if isinstance(part, (bytes, memoryview)) else str(part).encode(charset)


def has_new_messages(request: HttpRequest) -> bool:
    """Return True if django.contrib.messages has messages to store or to remove, which can use the session.

    Seen in Django 5.2 to 6.1 (`request._messages`). If it is missing, False: such messages are not stored.
    """
    storage = getattr(request, "_messages", None)
    return storage is not None and (storage.used or storage.added_new)
