"""Assertions about the messages that a test publishes. They read the log, and so they count what is delivered.

A message whose transaction was rolled back does not count. A message counts if another thread, the HTTP API, a
broadcast or a command has published it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from unittest.mock import ANY

from django.db import connections

from streams.exceptions import InvalidMessage
from streams.models import Message
from streams.private.django import commit_hooks
from streams.protocol.events import encode_data
from streams.runtime import executor, test_run
from streams.tokens import validate_pattern

# How many messages a failed assertion lists, and how much of their data.
LISTED_MESSAGES = 20
LISTED_CHARACTERS = 200


def assert_published(
    channel: str | None = None,
    data: Any = ANY,
    *,
    event: str | None = None,
    contains: Any = None,
    sequence: Sequence[Any] | None = None,
    count: int | None = None,
    run_on_commit: bool = False,
) -> PublishedAssertion:
    """Assert that a block of code publishes a message. Use it with `with` or `async with`, in sync and async tests.

        with assert_published("orders", {"order": 17}):
            self.client.post("/pay/17/")

        with assert_published("orders", contains={"state": "paid"}, event="update", count=2) as messages:
            pay_all()

    To check after the fact what the test has published so far: `assert_published("orders", {"order": 17}).so_far()`.

    Args:
        channel: the channel's name, or a pattern in which `*` stands for any characters. Default: any channel.
        data: the whole data of the message. Or a function that gets the data, decoded if it is JSON, and returns True
            if it matches.
        event: the type. Default: any type.
        contains: a part of the data: a dict whose keys and values the data must have, at any depth, or a part of the
            text.
        sequence: the data of all messages on the channel with this type, in order. Each item is like `data`.
        count: the exact number of messages that match. Default: at least one.
        run_on_commit: run the functions that the block passes to `transaction.on_commit()` at its end. A `TestCase`
            never commits, and so Django never runs them. Has no effect if the transactions of the test commit.

    `as` gives a list, which holds the matching rows of `Message`, the oldest first, after the block.

    Raises:
        AssertionError: no message matches, or not `count` of them. The text lists the published messages.
        ValueError: the channel's name cannot exist, or the arguments exclude each other.
    """
    if sequence is not None and (data is not ANY or contains is not None or count is not None):
        raise ValueError(
            "`sequence` gives the data and the number of all messages: leave out data, contains and count."
        )
    return PublishedAssertion(Expected(channel, data, event, contains, sequence), count, run_on_commit)


def assert_not_published(
    channel: str | None = None,
    data: Any = ANY,
    *,
    event: str | None = None,
    contains: Any = None,
    run_on_commit: bool = False,
) -> PublishedAssertion:
    """Assert that a block of code publishes no message that matches. See assert_published().

        with assert_not_published("orders", run_on_commit=True):
            self.client.post("/cancel/17/")

    Without arguments, the block publishes nothing at all.
    """
    return PublishedAssertion(Expected(channel, data, event, contains), 0, run_on_commit)


def published(
    channel: str | None = None, data: Any = ANY, *, event: str | None = None, contains: Any = None
) -> list[Message]:
    """Return the messages that the test has published so far and that match, the oldest first.

        pay(order)
        assert [message.data for message in published("orders")] == ['{"order":17}']

    See assert_published() for the arguments. In a `TestCase`, messages of setUpTestData() count as well.
    """
    expected = Expected(channel, data, event, contains)
    return [message for message in executor.run_in_test(_messages_after, 0) if expected.matches(message)]


@dataclass(frozen=True)
class Expected:
    """The messages that an assertion is about."""

    channel: str | None
    data: Any
    event: str | None
    contains: Any = None
    sequence: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if self.channel is not None:
            validate_pattern(self.channel)
        if self.contains is not None and not isinstance(self.contains, str | Mapping):
            raise ValueError(f"`contains` is a dict or a text; got {self.contains!r}. Use `data` for anything else.")

    def matches(self, message: Message) -> bool:
        return (
            (self.channel is None or fnmatchcase(message.channel, self.channel))
            and (self.event is None or message.event == self.event)
            and _is(self.data, message.data)
            and (self.contains is None or _has(self.contains, message.data))
        )

    def __str__(self) -> str:
        parts = [f"on {self.channel!r}"] if self.channel is not None else []
        parts += [f"of the type {self.event!r}"] if self.event is not None else []
        if callable(self.data) and self.data is not ANY:
            parts.append(f"with data that {getattr(self.data, '__qualname__', repr(self.data))}() accepts")
        elif self.data is not ANY:
            parts.append(f"with the data {self.data!r}")
        parts += [f"with data that contains {self.contains!r}"] if self.contains is not None else []
        return " ".join(parts)


class PublishedAssertion:
    """What assert_published() and assert_not_published() return: a context manager, sync and async."""

    def __init__(self, expected: Expected, count: int | None, run_on_commit: bool) -> None:
        self._expected = expected
        self._count = count
        self._run_on_commit = run_on_commit
        self._messages: list[Message] = []
        self._newest_id = 0
        self._hooks: list[list[Callable[[], object]]] = []
        self._capturing = ExitStack()
        self._is_used = False

    def so_far(self) -> list[Message]:
        """Check the messages that the test has published so far, and return those that match."""
        self._is_used = True
        return executor.run_in_test(self._check)

    def __enter__(self) -> list[Message]:
        self._is_used = True
        if self._run_on_commit and executor.is_on_event_loop():
            raise RuntimeError(
                "run_on_commit can run code that waits for this event loop. In an async test, write `async with`."
            )
        executor.run_in_test(self._begin)
        return self._messages

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        executor.run_in_test(self._end, kind is None)

    async def __aenter__(self) -> list[Message]:
        self._is_used = True
        await executor.run(self._begin)
        return self._messages

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        await executor.run(self._end, kind is None)

    def __del__(self) -> None:
        if not getattr(self, "_is_used", True):
            warnings.warn(
                "An assertion about published messages was never checked. Write `with assert_published(…):`, or call "
                "`assert_published(…).so_far()`.",
                RuntimeWarning,
                stacklevel=2,
            )

    # --- In the thread of the test's transaction ---

    def _begin(self) -> None:
        self._newest_id = (
            Message.objects.using(executor.database()).order_by("-pk").values_list("pk", flat=True)[:1].first() or 0
        )
        if self._run_on_commit:
            self._hooks = [
                self._capturing.enter_context(_capture(alias)) for alias in test_run.strategy().wrapped_aliases()
            ]

    def _end(self, has_succeeded: bool) -> None:
        self._capturing.close()
        if not has_succeeded:
            return  # the block's own exception is the one to show
        with ExitStack() as stack:
            for alias in test_run.strategy().wrapped_aliases() if self._run_on_commit else ():
                stack.enter_context(_capture(alias, execute=True))  # those that these functions pass on
            for hook in [hook for hooks in self._hooks for hook in hooks]:
                hook()
        self._messages += self._check()

    def _check(self) -> list[Message]:
        everything = _messages_after(self._newest_id)
        found = [message for message in everything if self._expected.matches(message)]
        sequence = self._expected.sequence
        if sequence is not None:
            in_order = len(found) == len(sequence)
            holds = in_order and all(_is(data, each.data) for data, each in zip(sequence, found, strict=True))
        else:
            holds = bool(found) if self._count is None else len(found) == self._count
        if not holds:
            raise AssertionError(self._failure(found, everything))
        return found

    def _failure(self, found: Sequence[Message], everything: Sequence[Message]) -> str:
        what = f"messages {self._expected}".strip()
        if self._expected.sequence is not None:
            text = f"Expected exactly these {what}, in this order: {list(self._expected.sequence)!r}."
        elif self._count is None:
            text = f"Expected {what}; none was published."
        else:
            text = f"Expected {self._count or 'no'} {what}; got {len(found)}."
        text += "\n" + _listing(everything)
        waiting = 0 if self._run_on_commit else _waiting_hooks()
        if waiting:
            text += (
                f"\nFunctions of transaction.on_commit() that wait for a commit: {waiting}. A TestCase never commits: "
                "pass run_on_commit=True, or use captureOnCommitCallbacks(execute=True)."
            )
        return text


def _messages_after(pk: int) -> list[Message]:
    """Return the messages with a higher id, in the order of their positions; those without one are last."""
    rows = Message.objects.using(executor.database()).filter(pk__gt=pk)
    return sorted(rows.order_by("pk"), key=lambda row: (row.position is None, row.position or row.pk))


def _listing(messages: Sequence[Message]) -> str:
    if not messages:
        return "Nothing was published."
    lines = [
        f"  {number}. {message.channel}, {message.event}: {message.data[:LISTED_CHARACTERS]}"
        for number, message in enumerate(messages[:LISTED_MESSAGES], 1)
    ]
    if more := len(messages) - LISTED_MESSAGES:
        lines += [f"  … and {more} more"] if more > 0 else []
    return "\n".join(["Published:", *lines])


# --- Comparing data ---


def _is(expected: Any, text: str) -> bool:
    """Return True if `text`, the data of a message, is what publish() makes of `expected`."""
    if expected is ANY:
        return True
    if callable(expected):
        return bool(expected(_decoded(text)))
    try:
        encoded = encode_data(expected, max_bytes=None, allow_nul=True)
    except InvalidMessage:  # it has a part such as ANY, which only equality understands
        return bool(_decoded(text) == expected)
    if encoded == text:
        return True
    return not isinstance(expected, str) and bool(_decoded(text) == json.loads(encoded))


def _has(part: Any, text: str) -> bool:
    return part in text if isinstance(part, str) else _is_part(part, _decoded(text))


def _is_part(part: Any, whole: Any) -> bool:
    if isinstance(part, Mapping):
        return isinstance(whole, Mapping) and all(
            str(key) in whole and _is_part(value, whole[str(key)]) for key, value in part.items()
        )
    return part is ANY or _is(part, json.dumps(whole)) or bool(part == whole)


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# --- Functions that wait for a commit ---


def _capture(alias: str, *, execute: bool = False) -> Any:
    from django.test import TestCase  # takes a while to import

    return TestCase.captureOnCommitCallbacks(using=alias, execute=execute)


def _waiting_hooks() -> int:
    """Return how many functions wait for a commit that the test's transaction never makes, without Streams' own."""
    waiting = [hook for alias in test_run.strategy().wrapped_aliases() for hook in commit_hooks(connections[alias])]
    return sum(1 for hook in waiting if not getattr(hook, "__qualname__", "").startswith("streams."))
