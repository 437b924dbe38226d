"""A live server that serves streams to browsers and HTTP clients in tests: the site's ASGI application on uvicorn.

Django's LiveServerTestCase serves WSGI, under which no stream can be open.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import LiveServerTestCase, modify_settings
from django.utils.module_loading import import_string

from streams.asgi import get_asgi_application
from streams.http import shutdown

# How long open requests can take when the server stops.
STOP_SECONDS = 2

NEEDS_UVICORN = "A live server for streams runs on uvicorn. Install it for your tests: `pip install uvicorn`."


class _ServerThread(threading.Thread):
    """Runs the server. It has the interface of Django's LiveServerThread."""

    def __init__(self, host: str, static_handler: Any, connections_override: Any = None, port: int = 0) -> None:
        super().__init__(name="streams-live-server", daemon=True)
        self.host = host
        self.port = port
        self.connections_override: dict[str, Any] = connections_override or {}
        self.is_ready = threading.Event()
        self.error: Exception | None = None
        self._static_handler = static_handler
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None

    def run(self) -> None:
        try:
            with contextlib.closing(socket.create_server((self.host, self.port))) as listening:
                self.port = listening.getsockname()[1]
                asyncio.run(self._serve(listening))
        except Exception as error:  # the test's thread raises it
            self.error = error
        finally:
            self.is_ready.set()
            connections.close_all()

    def terminate(self) -> None:
        if self._loop is not None and self._server is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._stop_serving)
        self.join()

    async def _serve(self, listening: socket.socket) -> None:
        import uvicorn

        self._loop = asyncio.get_running_loop()
        config = uvicorn.Config(
            self._static_handler(_application()),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        self.is_ready.set()
        await serving

    def _stop_serving(self) -> None:
        shutdown.end_loop()
        self._server.should_exit = True


class StreamsLiveServerTestCase(LiveServerTestCase):
    """A LiveServerTestCase whose server serves streams, for Selenium, Playwright or SyncStreamClient.

        class ChatTest(StreamsLiveServerTestCase):
            def test_message_reaches_the_page(self):
                with SyncStreamClient(self.live_server_url, "/events/news/") as stream:
                    publish("news", "hello")
                    self.assertEqual(stream.next().data, "hello")

    The server runs ASGI_APPLICATION, or Django's application, in a thread, and serves static files as `runserver` does.
    Raise ImproperlyConfigured if uvicorn is not installed, or if the test database is SQLite in memory: its
    connections do not wait for each other's locks. Set `"TEST": {"NAME": BASE_DIR / "test.sqlite3"}` in DATABASES.
    """

    server_thread_class: Any = _ServerThread
    static_handler: Any = ASGIStaticFilesHandler

    @classmethod
    def setUpClass(cls) -> None:
        check_environment()
        super().setUpClass()


class StreamsLiveServer:
    """The same server as a context manager. Its attribute `url` is the address.

        with StreamsLiveServer() as server, SyncStreamClient(server, "/events/news/") as stream:
            ...

    Use it in tests that commit: TransactionTestCase, or pytest-django's `transactional_db`. With pytest, use the
    fixture `streams_live_server`. See StreamsLiveServerTestCase for the errors.
    """

    def __init__(self, host: str = "localhost", port: int = 0) -> None:
        self._thread = _ServerThread(host, ASGIStaticFilesHandler, port=port)
        self._allowed = modify_settings(ALLOWED_HOSTS={"append": host})

    @property
    def url(self) -> str:
        return f"http://{self._thread.host}:{self._thread.port}"

    def __enter__(self) -> StreamsLiveServer:
        check_environment()
        self._allowed.enable()
        self._thread.start()
        self._thread.is_ready.wait()
        if self._thread.error is not None:
            self._allowed.disable()
            raise self._thread.error
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.terminate()
        self._allowed.disable()


def check_environment() -> None:
    """Raise ImproperlyConfigured if uvicorn is missing, or if a test database is SQLite in memory."""
    try:
        import uvicorn  # noqa: F401
    except ImportError:
        raise ImproperlyConfigured(NEEDS_UVICORN) from None
    for alias in connections:
        connection: Any = connections[alias]
        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            raise ImproperlyConfigured(
                f"A live server for streams needs a test database that is not in memory, and {alias!r} is. Set "
                f'DATABASES[{alias!r}]["TEST"] = {{"NAME": BASE_DIR / "test.sqlite3"}}.'
            )


def _application() -> Any:
    path = getattr(settings, "ASGI_APPLICATION", None)
    return import_string(path) if path else get_asgi_application()
