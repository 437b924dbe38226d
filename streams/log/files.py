"""The time of a file's birth, which Python's os.stat() does not have on Linux before Python 3.15."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
from typing import Any

# From linux/stat.h and linux/fcntl.h; the layout of struct statx is part of the kernel's interface.
_AT_FDCWD = -100
_STATX_BTIME = 0x800
_MASK, _BTIME = 0, 80  # offsets: stx_mask, stx_btime.tv_sec, which tv_nsec follows


def birth(path: str) -> str:
    """Return when the file was made; "" if the system does not say. Raises FileNotFoundError.

    It does not open the file: closing it again would release the locks that SQLite holds on it in this process.
    """
    if (time := getattr(os.stat(path), "st_birthtime", None)) is not None:  # macOS, BSD; Windows from Python 3.12
        return str(time)
    statx = _statx()
    if statx is None:
        return ""
    answer = ctypes.create_string_buffer(256)
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, answer) != 0:
        return ""
    (mask,) = struct.unpack_from("=I", answer, _MASK)
    seconds, nanoseconds = struct.unpack_from("=qI", answer, _BTIME)
    return f"{seconds}.{nanoseconds:09}" if mask & _STATX_BTIME else ""


@functools.cache
def _statx() -> Any:
    """Return libc's statx(); None if there is none (glibc before 2.28, other systems)."""
    if not sys.platform.startswith("linux"):
        return None
    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if statx is not None:
        statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    return statx
