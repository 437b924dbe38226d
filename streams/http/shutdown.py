"""Prompt shutdown: all streams end at once when the server stops.

A server that shuts down gracefully waits for its open responses, but a stream never ends by itself: uvicorn and granian
would wait for as long as a client listens. ASGI has no message for this, because lifespan's shutdown comes after the
wait. So this module installs its own handler for SIGTERM and SIGINT in front of the server's handler. It ends the
streams and then calls the server's handler. The worker processes of hypercorn receive no signal; they are recognised by
their listening socket, which the server closes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from streams.conf import settings
from streams.http import client_socket
from streams.runtime import tasks
from streams.runtime.resets import per_process
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams")

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# A stream that has not ended after this time is cut: its client does not read, or its database does not answer.
CUT_SECONDS = 1.0

# How long the server waits for the shutdown hooks and for the last bytes of the streams.
GRACE_SECONDS = 1.0

# How often the listening socket is checked, and how often the streams are checked during shutdown.
LOOK_SECONDS = 0.25
END_LOOK_SECONDS = 0.02


class Stream(Protocol):
    """An open stream. Both methods are called on its event loop."""

    def stop(self, last: bytes = b"") -> None:
        """End the response after sending the bytes `last` between two events."""

    def cut(self) -> None:
        """End the response immediately, even in the middle of an event."""


def register(hook: Callable[[], object]) -> None:
    """Call `hook()` in a thread when this process is shut down. The server waits up to GRACE_SECONDS for it."""
    if hook not in _hooks:
        _hooks.append(hook)


def is_ending() -> bool:
    """Return True if this process is shutting down."""
    return _process.is_ending


def reconnect_hint() -> bytes:
    """Return the reconnect hint: the last line of a stream, a `retry:` field with the client's reconnection time.

    The time has jitter (50 to 150 % of RETRY_MILLISECONDS), so that clients do not reconnect all at once. There is no
    blank line after it: the field is processed at the end of its line (WHATWG HTML, section 9.2.6), and some clients
    dispatch an empty event at each blank line.
    """
    return f"retry: {round(settings.RETRY_MILLISECONDS * random.uniform(0.5, 1.5))}\n".encode()  # noqa: S311


class _Process:
    """This process's streams, and its detection of the shutdown."""

    def __init__(self) -> None:
        self.is_ending = False
        self.is_signalled = False
        self.held_back: list[Callable[[], object]] = []  # the calls of the server's own handler
        self._streams: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakSet[Stream]] = WeakKeyDictionary()

    def attach(self, stream: Stream) -> None:
        """Stop `stream` when this process is shut down, or now if that has begun. Called on the stream's event loop."""
        loop = self.listen()
        self._streams[loop].add(stream)
        if self.is_ending:
            stream.stop(reconnect_hint())
            loop.call_later(CUT_SECONDS, self._cut, loop)

    def forget(self, stream: Stream) -> None:
        """Remove a stream that has ended. Called on its event loop."""
        if (streams := self._streams.get(asyncio.get_running_loop())) is not None:
            streams.discard(stream)

    def listen(self) -> asyncio.AbstractEventLoop:
        """Watch for the shutdown of the server on the running event loop, and return the loop.

        attach() does this for streams. Call it if there are hooks to run but perhaps no stream.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._streams:
            self._streams[loop] = WeakSet()
            self._listen(loop)
        return loop

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Install the handlers. At the first request of the event loop, the server has set its own already."""
        has_handler = False
        if threading.current_thread() is threading.main_thread():
            has_handler, _ = (_listen_to(number, loop) for number in SIGNALS)
        if listening := client_socket.listening():
            # Also with a handler: a server can stop without a signal, as uvicorn does after --limit-max-requests.
            loop.call_later(LOOK_SECONDS, self._look, loop, listening)
        elif has_handler and client_socket.can_be_found():
            # The server was stopped before its first stream: this is one of its last requests.
            self.begin(lambda: None)

    def _look(self, loop: asyncio.AbstractEventLoop, listening: dict[int, int]) -> None:
        if self.is_ending or loop not in self._streams:
            return
        if client_socket.listening(listening):
            loop.call_later(LOOK_SECONDS, self._look, loop, listening)
        else:
            self.begin(lambda: None)

    def end_loop(self) -> None:
        """End the streams of the running event loop, because its server stops and the process goes on.

        Live servers of tests do that. Otherwise the look for listening sockets would take it for the process's end.
        """
        for stream in tuple(self._streams.pop(asyncio.get_running_loop(), ())):
            stream.stop()

    def begin(self, then: Callable[[], object]) -> None:
        """End all streams of all event loops and run the hooks; afterwards call `then()`, on the running event loop."""
        self.is_ending = True
        for other, streams in list(self._streams.items()):
            if streams:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    other.call_soon_threadsafe(self._end, other)
        hooks = threading.Thread(target=_do_hooks, name="streams-shutdown", daemon=True)
        with contextlib.suppress(RuntimeError):  # the system cannot start another thread
            hooks.start()
            # A server without open requests can exit before the hooks are done. This thread is not a daemon, so that
            # the process waits for it.
            threading.Thread(target=hooks.join, args=[GRACE_SECONDS], name="streams-grace").start()
        tasks.spawn(self._go_on(hooks, then))

    async def _go_on(self, hooks: threading.Thread, then: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                # Some servers drop open responses at the signal, so that the streams must send their last bytes first.
                while hooks.is_alive() or any(self._streams.values()) or tasks.must_finish():  # noqa: ASYNC110
                    await asyncio.sleep(END_LOOK_SECONDS)
        except TimeoutError:
            extra = fields(event="shutdown-incomplete", seconds=GRACE_SECONDS)
            logger.warning(
                "Shutdown hooks or streams did not finish within %s s; shutdown continues.", GRACE_SECONDS, extra=extra
            )
        finally:
            then()

    def pass_on(self) -> None:
        """Call the server's own handler, once."""
        with contextlib.suppress(IndexError):
            self.held_back.pop()()

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        for stream in tuple(self._streams[loop]):
            stream.stop(reconnect_hint())
        loop.call_later(CUT_SECONDS, self._cut, loop)

    def _cut(self, loop: asyncio.AbstractEventLoop) -> None:
        for stream in tuple(self._streams[loop]):
            stream.cut()


def _do_hooks() -> None:
    for hook in tuple(_hooks):
        try:
            hook()
        except Exception:
            logger.exception("The shutdown hook %r failed.", hook)


def _listen_to(number: signal.Signals, loop: asyncio.AbstractEventLoop) -> bool:
    """Install our handler in front of the server's handler for a signal. Return False if the server has none."""
    before: Any = signal.getsignal(number)
    if not callable(before):
        return False
    if getattr(before, "__self__", None) is loop:
        # uvloop's handler, for callbacks that were added to the loop. uvloop's wakeup calls those anyway. If this calls
        # them a second time, granian hangs (seen in uvloop 0.23 and granian 2.8). asyncio's handler does nothing.
        before = _nothing
    if isinstance(before, _Handler):
        if not before.loop.is_closed():
            return True
        before = before.before  # from an earlier server of this process
    signal.signal(number, _Handler(before, loop))
    # As asyncio does for its handlers: system calls continue after the signal.
    signal.siginterrupt(number, False)
    return True


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


@dataclass(eq=False)
class _Handler:
    """Ends the streams and then calls the server's handler. It passes on a second signal directly.

    A signal can interrupt any code of the main thread, so that this takes no lock and leaves all work to the event
    loop. If the server has added its handler to the loop, the loop's wakeup calls that one, and `before` does nothing.
    """

    before: Callable[[int, FrameType | None], Any]
    loop: asyncio.AbstractEventLoop

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _process.is_signalled or self.loop.is_closed() or not self.loop.is_running():
            _process.pass_on()  # servers count signals, so that the first must arrive before the second
            self.before(number, frame)
            return
        _process.is_signalled = True
        _process.held_back.append(lambda: self.before(number, None))
        self.loop.call_soon_threadsafe(_process.begin, _process.pass_on)


_hooks: list[Callable[[], object]] = []
_process = per_process(_Process)  # a forked child has its own streams, and gets its own signal
attach, forget, listen, end_loop = _process.attach, _process.forget, _process.listen, _process.end_loop
