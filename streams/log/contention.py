"""How busy the head's lock is, as one process has noticed: whether to try it at once, and how long to wait."""

from __future__ import annotations

import time

# How long a publisher inserts its messages without trying the lock first, after the lock was taken.
BUSY_SECONDS = 0.1

FIRST_PAUSE_SECONDS = 0.001
MAX_PAUSE_SECONDS = 0.02

# Numbers that threads replace without a lock: a lost update changes a pause, and nothing else.
_busy_until = 0.0  # in time.monotonic() seconds
_usual_wait = 0.0  # in seconds


def is_busy() -> bool:
    """Return True if other processes publish at the same time."""
    return time.monotonic() < _busy_until


def note_taken() -> None:
    """Remember that the lock was taken when a publisher tried it."""
    global _busy_until
    _busy_until = time.monotonic() + BUSY_SECONDS


def note_not_taken() -> None:
    """Remember that nothing but another database kept a publisher from the lock."""
    global _busy_until
    _busy_until = 0.0


def note_wait(seconds: float) -> None:
    """Remember how long a publisher has waited for its positions so far."""
    global _usual_wait
    _usual_wait += (seconds - _usual_wait) / 8


def first_pause() -> float:
    """Return the seconds to wait before asking for positions that other processes give."""
    return min(max(_usual_wait / 2, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
