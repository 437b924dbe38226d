"""The client's connection as the kernel sees it, for what ASGI has no words for: whether it moves, and to break it.

A connection is found among the process's open files. With thousands of streams, looking through them takes hundreds of
milliseconds, so that a thread does it: ask with `is_sought()`, and a moment later `unsent()` and `reset()` know it.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from streams.runtime.resets import per_process

_Ends = tuple[str, int, int]

# How old the knowledge of the open files may be before they are looked through again for a connection that it lacks.
LOOK_SECONDS = 1.0

# How soon to ask again about a connection that is being sought.
AGAIN_SECONDS = 0.1

_FILES = "/dev/fd"  # this process's open files; on Linux, macOS and the BSDs
_TIOCOUTQ = 0x5411  # linux/sockios.h, there called SIOCOUTQ


def is_sought(scope: Mapping[str, Any] | None) -> bool:
    """Return True while a request's connection is being looked for: ask again AGAIN_SECONDS later.

    False once unsent() and reset() know it, and if it was not found. Costs next to nothing on the event loop.
    """
    ends = None if scope is None else _ends_of(scope)
    return ends is not None and _files.is_sought(ends)


def unsent(scope: Mapping[str, Any]) -> int | None:
    """How many bytes the kernel holds for a request's client, who has not taken them yet; None where it cannot tell.

    None as well if the connection was not looked for, see is_sought().

    A server that waits to write cannot tell a client that reads slowly from one that does not read: the kernel's buffer
    is megabytes, and it asks for more only when a good part of it is free.
    """
    with contextlib.suppress(OSError, ImportError), _connection(scope) as connection:
        import fcntl

        if connection is not None:
            return int(struct.unpack("i", fcntl.ioctl(connection, _TIOCOUTQ, b"\0" * 4))[0])
    return None


def reset(scope: Mapping[str, Any]) -> bool:
    """Break a request's connection, and drop what is still to be sent. Whether it was found, see is_sought().

    A server that ends such a response itself does it in good order (seen in uvicorn 0.54, hypercorn 0.18, granian 2.8):
    it waits until a client that reads nothing has read everything. After this the server sees what it would see if the
    client had left.
    """
    with contextlib.suppress(OSError), _connection(scope) as connection:
        if connection is not None:
            # Lingering for no time: when the server closes its side, the kernel drops what it holds and sends RST.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RDWR)
            return True
    return False


def close(scope: Mapping[str, Any]) -> bool:
    """Close a request's connection after all that the kernel holds for it. Whether it was found, see is_sought().

    The server sees what it would see if the client had left, and so does not complete the response.
    """
    with contextlib.suppress(OSError), _connection(scope) as connection:
        if connection is not None:
            connection.shutdown(socket.SHUT_RDWR)
            return True
    return False


def can_be_found() -> bool:
    """Whether this system shows a process its own open files."""
    return os.path.isdir(_FILES)


def listening(among: Mapping[int, int] | None = None) -> dict[int, int]:
    """{file: inode} of the sockets on which this process accepts connections; of those `among` that it still does."""
    found: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for file in map(int, os.listdir(_FILES)) if among is None else among:
            if (one := _copy(file)) is not None:
                with one, contextlib.suppress(OSError):
                    inode = os.fstat(one.fileno()).st_ino
                    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        found[file] = inode
    return found if among is None else dict(found.items() & among.items())


@contextlib.contextmanager
def _connection(scope: Mapping[str, Any]) -> Iterator[socket.socket | None]:
    """The TCP connection that an ASGI request came over, if it was found among this process's open files; else None."""
    ends = _ends_of(scope)
    if ends is None or (found := _files.find(ends)) is None:
        yield None
        return
    with found:
        yield found


def _ends_of(scope: Mapping[str, Any]) -> _Ends | None:
    """The ends of the TCP connection that an ASGI request came over; None if they do not tell it.

    They do not if it carries other requests as well (HTTP/2), and perhaps not behind a proxy, where `client` can name
    another machine. Proxies have limits of their own.
    """
    client, server = scope.get("client"), scope.get("server")
    if scope.get("http_version") not in ("1.0", "1.1") or not client or not server or not server[1]:
        return None
    return (*_address(client), int(server[1]))


class _Files:
    """Which of this process's open files is whose connection. All methods may be called from any thread.

    Looked through at most once a second for all who ask: clients get stuck by the hundred when a network fails. A file
    that was there the last time, by its number and its inode, is not looked at again.
    """

    def __init__(self) -> None:
        self._numbers: dict[_Ends, int] = {}
        self._known: dict[int, tuple[int, _Ends | None]] = {}  # by number: the inode, and its ends if it is TCP
        self._looked_at = -math.inf
        self._looking = False
        self._lock = threading.Lock()

    def is_sought(self, ends: _Ends) -> bool:
        """Return True while a look for this connection goes on. Begins one if the last was too long ago."""
        with self._lock:
            if (found := self._open(ends)) is not None:
                found.close()
                return False
            if self._looking or time.monotonic() - self._looked_at < LOOK_SECONDS:
                return self._looking
            try:
                threading.Thread(target=self._look, name="streams-sockets", daemon=True).start()
            except RuntimeError:  # the machine has no thread to give
                return False
            self._looking = True
            return True

    def find(self, ends: _Ends) -> socket.socket | None:
        """Return a copy of the connection, to be closed; None if the last look has not found it."""
        with self._lock:
            return self._open(ends)

    def _look(self) -> None:
        known: dict[int, tuple[int, _Ends | None]] = {}
        try:
            for number in map(int, os.listdir(_FILES)):
                if (inode := _inode(number)) is not None:
                    before = self._known.get(number)
                    same = before is not None and before[0] == inode and before[1] is not None
                    known[number] = before if same and before else (inode, _ends_behind(number))
        except OSError:
            known = {}
        finally:
            with self._lock:
                self._known = known
                self._numbers = {ends: number for number, (_, ends) in known.items() if ends is not None}
                self._looked_at = time.monotonic()
                self._looking = False

    def _open(self, ends: _Ends) -> socket.socket | None:
        number = self._numbers.get(ends)
        if number is None or (connection := _copy(number)) is None:
            return None
        if _ends(connection) == ends:
            return connection
        connection.close()  # the number is another's by now
        return None


def _inode(file: int) -> int | None:
    """The inode of a socket; None for anything else."""
    with contextlib.suppress(OSError):
        found = os.fstat(file)
        return found.st_ino if stat.S_ISSOCK(found.st_mode) else None
    return None


def _ends_behind(file: int) -> _Ends | None:
    if (connection := _copy(file)) is None:
        return None
    with connection:
        return _ends(connection)


def _copy(file: int) -> socket.socket | None:
    """A socket on a copy of the file: another thread may close the original at any moment, and its number be given to
    something else. None where it is closed, or no socket.

    Never of a file that is none: to close a copy of SQLite's file would give up all locks that this process has on it
    (POSIX has it so, see fcntl(2)), and another process could write in between.
    """
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(file).st_mode):
            copy = os.dup(file)
            if stat.S_ISSOCK(os.fstat(copy).st_mode):
                return socket.socket(fileno=copy)
            # The number has become another file's at this very moment. One that stays open is the lesser evil.
    return None


def _ends(connection: socket.socket) -> _Ends | None:
    """The client's address and port and the server's port, of a TCP connection."""
    with contextlib.suppress(OSError):  # not connected
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            return (*_address(connection.getpeername()), connection.getsockname()[1])
    return None


def _address(pair: Any) -> tuple[str, int]:
    return str(pair[0]).removeprefix("::ffff:"), int(pair[1])  # granian gives the port as text


_files = per_process(_Files)
