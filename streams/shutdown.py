"""Prompt shutdown: when a server is told to end, the streams end at once, and nobody waits for their clients.

A server that ends in good order waits for its open responses, and a stream is one that never ends: uvicorn and granian
would hang for as long as a client listens. ASGI has no word for it, either: lifespan's shutdown comes after the wait.
So this module listens where the server does, without touching the server's classes: it puts itself before the handler
that the server has set for SIGTERM and SIGINT, ends the streams, and has the server's handler go on as if nothing had
been. A server whose processes hear no signal (hypercorn's) is known by its listening socket, which it closes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from streams import sockets
from streams.conf import settings
from streams.runtime import tasks
from streams.runtime.resets import per_process

logger = logging.getLogger("streams")

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Streams that have not ended after so long, for their clients take nothing or their database does not answer, are cut.
CUT_SECONDS = 1.0

# What is to be done at the end, and the streams' own last lines, may hold the server up for so long.
GRACE_SECONDS = 1.0

# How often it is seen whether the listening socket is still there, and whether all streams have ended.
LOOK_SECONDS = 0.25
END_LOOK_SECONDS = 0.02


class Stream(Protocol):
    """What is told of the end. Called on the stream's event loop."""

    def stop(self, last: bytes = b"") -> None:
        """End in good order, with these bytes where an event may begin."""

    def cut(self) -> None:
        """End now, however."""


def register(hook: Callable[[], object]) -> None:
    """Have `hook()` called in a thread when this process is told to end; the server waits GRACE_SECONDS for it."""
    if hook not in _hooks:
        _hooks.append(hook)


def listen() -> None:
    """Hear of this process's end from now on, by the server that runs the running event loop.

    Call it where there is something to do at the end and perhaps no stream: a stream's opening listens by itself.
    """
    _process.listen()


def attend(stream: Stream) -> None:
    """Tell `stream`, which a server serves on the running event loop, of this process's end; now, if it has come."""
    _process.attend(stream)


def forget(stream: Stream) -> None:
    """`stream`, on the running event loop, has ended."""
    _process.forget(stream)


def is_ending() -> bool:
    """Return True once this process has been asked to end."""
    return _process.is_ending


def reconnect_hint() -> bytes:
    """The last line of a stream: when its client shall come back. Drawn by lot, so that not all come at once.

    Without a blank line: the field counts once its line has ended (WHATWG HTML, section 9.2.6), and some clients
    dispatch an empty event at each blank line.
    """
    return f"retry: {round(settings.RETRY_MILLISECONDS * random.uniform(0.5, 1.5))}\n".encode()  # noqa: S311


class _Process:
    """This process's streams, and how it learns that it shall end."""

    def __init__(self) -> None:
        self.is_ending = False
        self.is_signalled = False
        self.held_back: list[Callable[[], object]] = []  # what the server is to hear of the signal
        self._streams: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakSet[Stream]] = WeakKeyDictionary()

    def attend(self, stream: Stream) -> None:
        loop = self.listen()
        self._streams[loop].add(stream)
        if self.is_ending:
            stream.stop(reconnect_hint())
            loop.call_later(CUT_SECONDS, self._cut, loop)

    def forget(self, stream: Stream) -> None:
        if (streams := self._streams.get(asyncio.get_running_loop())) is not None:
            streams.discard(stream)

    def listen(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop not in self._streams:
            self._streams[loop] = WeakSet()
            self._listen(loop)
        return loop

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Learn of the end on this loop: when its first request comes, the server has long set its handlers."""
        has_handler = False
        if threading.current_thread() is threading.main_thread():
            has_handler, _ = (_listen_to(number, loop) for number in SIGNALS)
        if listening := sockets.listening():
            # Also where there is a handler: a server may end of itself, as uvicorn does after --limit-max-requests.
            loop.call_later(LOOK_SECONDS, self._look, loop, listening)
        elif has_handler and sockets.can_be_found():
            # The signal came before the first stream: this request is one of the last.
            self.begin(loop, lambda: None)

    def _look(self, loop: asyncio.AbstractEventLoop, listening: dict[int, int]) -> None:
        if self.is_ending:
            return
        if sockets.listening(listening):
            loop.call_later(LOOK_SECONDS, self._look, loop, listening)
        else:
            self.begin(loop, lambda: None)

    def begin(self, loop: asyncio.AbstractEventLoop, then: Callable[[], object]) -> None:
        """End all streams of all loops, and do what is to be done at the end; `then()` afterwards. On `loop`."""
        self.is_ending = True
        for other, streams in list(self._streams.items()):
            if streams:
                with contextlib.suppress(RuntimeError):  # it has closed
                    other.call_soon_threadsafe(self._end, other)
        hooks = threading.Thread(target=_do_hooks, name="streams-shutdown", daemon=True)
        with contextlib.suppress(RuntimeError):  # the machine has no thread to give
            hooks.start()
            # A server that has nothing open may end before anybody has waited: no daemon, this one holds the process.
            threading.Thread(target=hooks.join, args=[GRACE_SECONDS], name="streams-grace").start()
        tasks.spawn(self._go_on(hooks, then))

    async def _go_on(self, hooks: threading.Thread, then: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                # Some servers drop what is still open the moment they are told to end: the last lines go out first.
                while hooks.is_alive() or any(self._streams.values()) or tasks.must_finish():  # noqa: ASYNC110
                    await asyncio.sleep(END_LOOK_SECONDS)
        except TimeoutError:
            logger.warning("Ending goes on with what was not done within %s s.", GRACE_SECONDS)
        finally:
            then()

    def pass_on(self) -> None:
        """Have the server hear of the signal, once."""
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
            logger.exception("%r failed, which was to be done at the process's end.", hook)


def _listen_to(number: signal.Signals, loop: asyncio.AbstractEventLoop) -> bool:
    """Put a handler before the one that the server has set for a signal. Whether there is one of the server's."""
    before: Any = signal.getsignal(number)
    if not callable(before):
        return False
    if getattr(before, "__self__", None) is loop:
        # uvloop's own, for handlers that were set on the loop. The wakeup calls those anyway, and this once more, at
        # which granian hangs for good (seen in uvloop 0.23, granian 2.8). asyncio's does nothing.
        before = _nothing
    if isinstance(before, _Handler):
        if not before.loop.is_closed():
            return True
        before = before.before  # of a server that this process has had before
    signal.signal(number, _Handler(before, loop))
    # As asyncio has it, which may have set the handler before ours: calls that a signal interrupts go on.
    signal.siginterrupt(number, False)
    return True


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


class _Handler:
    """Ends the streams, then does what the server's own handler does. A second signal is the server's alone.

    It may interrupt anything in the main thread, and so takes no lock, and leaves all work to the event loop. Where the
    server has set its handler on the loop, that one runs at once, by the loop's own wakeup; `before` does nothing then.
    """

    def __init__(self, before: Callable[[int, FrameType | None], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.before = before
        self.loop = loop

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _process.is_signalled or self.loop.is_closed() or not self.loop.is_running():
            _process.pass_on()  # servers count: the first must not come after the second
            self.before(number, frame)
            return
        _process.is_signalled = True
        _process.held_back.append(lambda: self.before(number, None))
        self.loop.call_soon_threadsafe(_process.begin, self.loop, _process.pass_on)


_hooks: list[Callable[[], object]] = []
_process = per_process(_Process)  # a forked child has its own streams, and gets its own signal
