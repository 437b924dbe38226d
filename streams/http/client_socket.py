"""Access to the client's TCP connection, for two things that ASGI does not offer: see unsent bytes, and close it.

The connection is searched among the open files of the process. With thousands of streams the search takes hundreds of
milliseconds, so that a thread does it. Call `is_searching()` until it returns False, and then `unsent()`, `reset()` or
`close()`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any

from streams.runtime.resets import per_process
from streams.runtime.tasks import start_thread

_Ends = tuple[str, int, int]

# The minimum time between two searches of the open files.
SEARCH_SECONDS = 1.0

# How soon to call is_searching() again.
AGAIN_SECONDS = 0.1

_FILES = "/dev/fd"  # this process's open files; on Linux, macOS and the BSDs
_TIOCOUTQ = 0x5411  # linux/sockios.h, there called SIOCOUTQ


def is_searching(scope: Mapping[str, Any] | None) -> bool:
    """Return True while a request's connection is being searched. Call it again after AGAIN_SECONDS.

    Return False if it was found, or if it cannot be found. This is cheap enough for the event loop.
    """
    ends = _ends_of(scope)
    return ends is not None and _files.is_searching(ends)


def unsent(scope: Mapping[str, Any] | None) -> int | None:
    """Return how many bytes the kernel still holds for a request's client, or None if that is unknown.

    A server that waits to write cannot distinguish a slow client from one that does not read at all: the kernel's
    buffer has megabytes, and accepts more only when a good part of it is free.
    """
    with contextlib.suppress(OSError, ImportError), _connection(scope) as connection:
        import fcntl

        return int(struct.unpack("i", fcntl.ioctl(connection, _TIOCOUTQ, b"\0" * 4))[0])
    return None


def reset(scope: Mapping[str, Any] | None) -> bool:
    """Reset a request's connection, and drop all bytes that are not sent yet. Return False if it was not found.

    Servers close a connection only after the client has read everything, and a client that reads nothing never does
    (seen in uvicorn 0.54, hypercorn 0.18 and granian 2.8). After a reset, the server behaves as if the client had left.
    """
    with contextlib.suppress(OSError), _connection(scope) as connection:
        # With a linger time of 0, the kernel drops unsent bytes and sends RST when the server closes its side.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        return True
    return False


def close(scope: Mapping[str, Any] | None) -> bool:
    """Close a request's connection after the kernel has sent its bytes. Return False if it was not found.

    The server behaves as if the client had left, and so does not complete the response.
    """
    with contextlib.suppress(OSError), _connection(scope) as connection:
        connection.shutdown(socket.SHUT_RDWR)
        return True
    return False


def can_be_found() -> bool:
    """Return True if a process can list its own open files on this system."""
    return os.path.isdir(_FILES)


def listening(among: Mapping[int, int] | None = None) -> dict[int, int]:
    """Return {file: inode} of the sockets on which this process accepts connections.

    among: An earlier result. Only these sockets are checked, and those that are still open are returned.
    """
    found: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for file in map(int, os.listdir(_FILES)) if among is None else among:
            with contextlib.suppress(OSError), _copy(file) as one:
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found[file] = os.fstat(one.fileno()).st_ino
    return found if among is None else dict(found.items() & among.items())


def _connection(scope: Mapping[str, Any] | None) -> socket.socket:
    """Return a copy of the TCP connection of an ASGI request. Raise OSError if it was not found."""
    if (ends := _ends_of(scope)) is None or (found := _files.find(ends)) is None:
        raise OSError("The connection was not found among the open files.")
    return found


def _ends_of(scope: Mapping[str, Any] | None) -> _Ends | None:
    """Return the ends of the TCP connection of an ASGI request, or None if they do not identify it.

    An HTTP/2 connection serves several requests at once. Behind a proxy, `client` can be the address of another
    machine, and the connection is not found.
    """
    if scope is None or scope.get("http_version") not in ("1.0", "1.1"):
        return None
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or not server[1]:
        return None
    return (*_address(client), int(server[1]))


class _Files:
    """The connections among this process's open files. All methods can be called from any thread.

    One search at most every SEARCH_SECONDS serves all callers, because hundreds of clients stop reading at once when a
    network fails. A file with the same number and inode as in the last search is not examined again.
    """

    def __init__(self) -> None:
        self._numbers: dict[_Ends, int] = {}
        self._known: dict[int, tuple[int, _Ends | None]] = {}  # by number: the inode, and its ends if it is TCP
        self._searched_at = -math.inf
        self._is_searching = False
        self._lock = threading.Lock()

    def is_searching(self, ends: _Ends) -> bool:
        """Return True while a search runs. If the connection is unknown and the last search is old, start one."""
        with self._lock:
            if (found := self._open(ends)) is not None:
                found.close()
                return False
            if self._is_searching or time.monotonic() - self._searched_at < SEARCH_SECONDS:
                return self._is_searching
            try:
                start_thread(self._search, "streams-sockets")
            except RuntimeError:  # the system cannot start another thread
                return False
            self._is_searching = True
            return True

    def find(self, ends: _Ends) -> socket.socket | None:
        """Return a copy of the connection, or None if the last search has not found it. The caller closes the copy."""
        with self._lock:
            return self._open(ends)

    def _search(self) -> None:
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
                self._searched_at = time.monotonic()
                self._is_searching = False

    def _open(self, ends: _Ends) -> socket.socket | None:
        with contextlib.suppress(KeyError, OSError):
            connection = _copy(self._numbers[ends])
            if _ends(connection) == ends:
                return connection
            connection.close()  # the number belongs to another file now
        return None


def _inode(file: int) -> int | None:
    """Return the inode of a socket, or None for any other file."""
    with contextlib.suppress(OSError):
        found = os.fstat(file)
        return found.st_ino if stat.S_ISSOCK(found.st_mode) else None
    return None


def _ends_behind(file: int) -> _Ends | None:
    with contextlib.suppress(OSError), _copy(file) as connection:
        return _ends(connection)
    return None


def _copy(file: int) -> socket.socket:
    """Return a socket on a copy of the file. Raise OSError if the file is closed or not a socket.

    A copy, because another thread can close the original at any moment, and its number is then reused. Other files are
    never copied: closing a copy of SQLite's file would release all locks that this process has on it (POSIX, see
    fcntl(2)), and another process could write in between.
    """
    if stat.S_ISSOCK(os.fstat(file).st_mode):
        copy = os.dup(file)
        if stat.S_ISSOCK(os.fstat(copy).st_mode):
            return socket.socket(fileno=copy)
        # The number was reused at this moment. The copy stays open, because closing it could release locks.
    raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))


def _ends(connection: socket.socket) -> _Ends | None:
    """Return the client's address and port and the server's port of a TCP connection."""
    with contextlib.suppress(OSError):  # not connected
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            return (*_address(connection.getpeername()), connection.getsockname()[1])
    return None


def _address(pair: Any) -> tuple[str, int]:
    return str(pair[0]).removeprefix("::ffff:"), int(pair[1])  # granian gives the port as text


_files = per_process(_Files)
