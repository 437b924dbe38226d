"""The client's connection is found among the open files of the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.http import client_socket
from tests.support.services import wait_until
from tests.support.sites import ROOT


def scope(client: socket.socket, server: socket.socket) -> dict[str, Any]:
    return {"http_version": "1.1", "client": client.getsockname(), "server": server.getsockname()}


def wait_for_search(scope: dict[str, Any]) -> dict[str, Any]:
    """Wait until the search for a connection is over."""
    wait_until(lambda: not client_socket.is_searching(scope), "the end of the search")
    return scope


def unsent(scope: dict[str, Any]) -> int | None:
    return client_socket.unsent(wait_for_search(scope))


def reset(scope: dict[str, Any]) -> bool:
    return client_socket.reset(wait_for_search(scope))


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening


@pytest.fixture
def connect(server: socket.socket) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def connect() -> tuple[socket.socket, socket.socket]:
            client = stack.enter_context(socket.create_connection(server.getsockname()))
            return client, stack.enter_context(server.accept()[0])

        yield connect


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets an entry for each search through the open files."""
    monkeypatch.setattr(client_socket, "_files", client_socket._Files())
    real, made = os.listdir, []

    def listdir(path: str) -> list[str]:
        made.append(path)
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    return made


def test_what_the_kernel_holds_is_told_for_each(server: socket.socket, connect: Any, looks: list[str]) -> None:
    pairs = [connect() for _ in range(20)]
    for number, (_, accepted) in enumerate(pairs):
        accepted.send(b"x" * number)
    for client, _ in pairs:
        assert unsent(scope(client, server)) == 0
    assert len(looks) == 1  # one search finds all connections


def test_bytes_that_nobody_takes_are_counted(server: socket.socket, connect: Any, looks: list[str]) -> None:
    client, accepted = connect()
    accepted.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += accepted.send(b"x" * 65536)
    held = unsent(scope(client, server))
    assert held is not None
    assert 0 < held <= sent


def test_connection_that_breaks_is_that_one(server: socket.socket, connect: Any, looks: list[str]) -> None:
    (one, _), (other, accepted) = connect(), connect()
    assert reset(scope(one, server))
    assert one.recv(1) == b""
    accepted.send(b"still here")
    assert other.recv(10) == b"still here"
    assert len(looks) == 1


def test_number_that_was_given_to_another_connection_is_not_taken_for_the_first(
    server: socket.socket, connect: Any, looks: list[str]
) -> None:
    one, accepted = connect()
    wanted = scope(one, server)
    assert unsent(wanted) == 0
    number = accepted.fileno()
    accepted.close()
    one.close()
    other, again = connect()
    assert number in (other.fileno(), again.fileno())  # the kernel gives the lowest free number
    assert unsent(wanted) is None
    assert not reset(wanted)
    again.send(b"still here")
    assert other.recv(10) == b"still here"


def test_unknown_connection_is_searched_again(
    server: socket.socket, connect: Any, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = connect()
    assert unsent(scope(one, server)) == 0
    late, _ = connect()
    assert unsent(scope(late, server)) is None
    monkeypatch.setattr(client_socket, "SEARCH_SECONDS", 0.0)
    assert unsent(scope(late, server)) == 0
    assert len(looks) == 2


@pytest.mark.parametrize(
    "unknown",
    [
        {"http_version": "2", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)},
        {"http_version": "1.1", "client": None, "server": ("127.0.0.1", 2)},
        {"http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("/run/socket", None)},
        {"http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)},
    ],
)
def test_connection_that_cannot_be_found_is_left_alone(unknown: dict[str, Any], looks: list[str]) -> None:
    assert unsent(unknown) is None
    assert not reset(unknown)


def test_search_runs_in_another_thread(server: socket.socket, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of open files, a search takes hundreds of milliseconds and would block the event loop."""
    monkeypatch.setattr(client_socket, "_files", client_socket._Files())
    real, threads, go_on = os.listdir, [], threading.Event()

    def listdir(path: str) -> list[str]:
        threads.append(threading.current_thread())
        assert go_on.wait(30)
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    wanted = scope(connect()[0], server)
    for _ in range(3):
        assert client_socket.is_searching(wanted)
        assert client_socket.unsent(wanted) is None
        assert not client_socket.reset(wanted)
    go_on.set()
    assert unsent(wanted) == 0
    assert len(threads) == 1, "one search at a time"
    assert threads[0] is not threading.current_thread()


def test_known_connection_is_found_during_a_search(
    server: socket.socket, connect: Any, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_socket, "SEARCH_SECONDS", 0.0)
    known = scope(connect()[0], server)
    assert unsent(known) == 0
    go_on = threading.Event()

    def listdir(path: str) -> list[str]:
        go_on.wait(30)
        return []

    monkeypatch.setattr(os, "listdir", listdir)
    late = scope(connect()[0], server)
    assert client_socket.is_searching(late)
    assert not client_socket.is_searching(known)
    assert client_socket.unsent(known) == 0
    go_on.set()
    wait_for_search(known)


def test_known_file_is_not_examined_again(
    server: socket.socket, connect: Any, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_socket, "SEARCH_SECONDS", 0.0)
    pairs = [connect() for _ in range(20)]
    assert unsent(scope(pairs[0][0], server)) == 0
    copied: list[int] = []
    real = client_socket._copy

    def copy(file: int) -> socket.socket | None:
        copied.append(file)
        return real(file)

    monkeypatch.setattr(client_socket, "_copy", copy)
    late, accepted = connect()
    assert unsent(scope(late, server)) == 0
    assert accepted.fileno() in copied
    assert not {old.fileno() for _, old in pairs} & set(copied)


FORK = """
import os, signal
from streams.http import client_socket
with client_socket._files._lock:
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        client_socket.is_searching({"http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)})
        os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_child_can_look_although_its_parent_was_looking() -> None:
    """A fork copies a locked lock, but not the thread that would release it."""
    done = subprocess.run([sys.executable, "-c", FORK], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_looking_through_the_open_files_gives_no_lock_up(tmp_path: Path) -> None:
    """SQLite's locks (fcntl) belong to the process, and end when it closes any copy of the file."""
    ask = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    path = tmp_path / "file"
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        files = client_socket._Files()
        wait_until(lambda: not files.is_searching(("127.0.0.1", 1, 1)), "the end of the search")
        assert files.find(("127.0.0.1", 1, 1)) is None
        client_socket.listening()
        other = subprocess.run([sys.executable, "-c", ask, path], capture_output=True, text=True)
    assert "BlockingIOError" in other.stderr, "the lock is still held"


def test_socket_that_accepts_no_more_is_not_listening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        files = (server.fileno(), other.fileno())
        before = {file: inode for file, inode in client_socket.listening().items() if file in files}
        assert set(before) == set(files)
        other.close()
        assert set(client_socket.listening(before)) == {server.fileno()}
        with socket.create_connection(server.getsockname()):
            assert set(client_socket.listening(before)) == {server.fileno()}
