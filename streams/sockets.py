"""The client's connection as the kernel sees it, for what ASGI has no words for: whether it moves, and to break it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

_FILES = "/dev/fd"  # this process's open files; on Linux, macOS and the BSDs
_TIOCOUTQ = 0x5411  # linux/sockios.h, there called SIOCOUTQ


def unsent(scope: Mapping[str, Any]) -> int | None:
    """How many bytes the kernel holds for a request's client, who has not taken them yet; None where it cannot tell.

    A server that waits to write cannot tell a client that reads slowly from one that does not read: the kernel's buffer
    is megabytes, and it asks for more only when a good part of it is free.
    """
    with contextlib.suppress(OSError, ImportError), _connection(scope) as connection:
        import fcntl

        if connection is not None:
            return int(struct.unpack("i", fcntl.ioctl(connection, _TIOCOUTQ, b"\0" * 4))[0])
    return None


def reset(scope: Mapping[str, Any]) -> bool:
    """Break a request's connection, and drop what is still to be sent. Whether it was found.

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


@contextlib.contextmanager
def _connection(scope: Mapping[str, Any]) -> Iterator[socket.socket | None]:
    """The TCP connection that an ASGI request came over, found among this process's open files; None where it is not.

    Not where it carries other requests as well (HTTP/2), and maybe not behind a proxy, where `client` may name somebody
    else. Proxies have limits of their own.
    """
    client, server = scope.get("client"), scope.get("server")
    if scope.get("http_version") not in ("1.0", "1.1") or not client or not server or not server[1]:
        yield None
        return
    wanted = (*_address(client), int(server[1]))
    for name in os.listdir(_FILES):
        if (found := _open(int(name), wanted)) is not None:
            with found:
                yield found
            return
    yield None


def _open(file: int, wanted: tuple[str, int, int]) -> socket.socket | None:
    # A copy: another thread may close the original at any moment, and its number be given to something else.
    with contextlib.suppress(OSError):  # closed meanwhile
        copy = os.dup(file)
        try:
            connection = socket.socket(fileno=copy)
        except OSError:  # no socket
            os.close(copy)
            return None
        with contextlib.suppress(OSError):  # not connected
            is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
            if is_tcp and (*_address(connection.getpeername()), connection.getsockname()[1]) == wanted:
                return connection
        connection.close()
    return None


def _address(pair: Any) -> tuple[str, int]:
    return str(pair[0]).removeprefix("::ffff:"), int(pair[1])  # granian gives the port as text
