"""LocalNotifier, the default: it sends notices from any thread of the process to all of its event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from django.test import override_settings

from streams.notifiers import BaseNotifier, Notice, get_notifier
from streams.notifiers.local import LocalNotifier
from streams.protocol.sse import StoredEvent

SECONDS = 20.0


def notice(number: int) -> Notice:
    return Notice(number, number, (StoredEvent(number, "news", "message", "x"),))


async def take(notices: AsyncGenerator[Notice | None, None], count: int) -> list[Notice | None]:
    async with asyncio.timeout(SECONDS):
        return [await anext(notices) for _ in range(count)]


async def listening(notifier: LocalNotifier) -> tuple[AsyncGenerator[Notice | None, None], asyncio.Task[Notice | None]]:
    """Return a listener, and a task that waits for its first notice."""
    notices = notifier.listen()
    assert await anext(notices) is None, "None reports that it listens"
    first = asyncio.ensure_future(anext(notices))
    await asyncio.sleep(0)
    return notices, first


async def test_notices_come_in_the_order_in_which_they_were_given() -> None:
    notifier = LocalNotifier()
    notices, first = await listening(notifier)
    for number in range(1, 4):
        notifier.notify(notice(number))
    async with aclosing(notices):
        assert [await first, *await take(notices, 2)] == [notice(1), notice(2), notice(3)]


async def test_notices_come_from_any_thread() -> None:
    notifier = LocalNotifier()
    notices, first = await listening(notifier)

    def publisher(start: int) -> None:
        for number in range(start, start + 100):
            notifier.notify(notice(number))

    threads = [threading.Thread(target=publisher, args=(start,)) for start in (100, 200, 300, 400)]
    for thread in threads:
        thread.start()
    async with aclosing(notices):
        heard = [await first, *await take(notices, 399)]
    for thread in threads:
        thread.join()
    assert sorted(one.first for one in heard) == list(range(100, 500)), "no notice is lost"
    for start in (100, 200, 300, 400):
        of_one = [one.first for one in heard if start <= one.first < start + 100]
        assert of_one == sorted(of_one), "the notices of one thread keep their order"


async def test_all_listeners_hear_every_notice() -> None:
    notifier = LocalNotifier()
    one, first_of_one = await listening(notifier)
    other, first_of_other = await listening(notifier)
    notifier.notify(notice(1))
    async with aclosing(one), aclosing(other):
        assert (await first_of_one, await first_of_other) == (notice(1), notice(1))


async def test_listener_on_another_event_loop_hears_as_well() -> None:
    notifier = LocalNotifier()
    ready = threading.Event()
    heard: list[Notice] = []

    async def other_loop() -> None:
        notices, first = await listening(notifier)
        ready.set()
        async with aclosing(notices), asyncio.timeout(SECONDS):
            heard.append(await first)

    thread = threading.Thread(target=lambda: asyncio.run(other_loop()))
    thread.start()
    assert await asyncio.to_thread(ready.wait, SECONDS)
    notices, first = await listening(notifier)
    notifier.notify(notice(1))
    async with aclosing(notices):
        assert await first == notice(1)
    await asyncio.to_thread(thread.join, SECONDS)
    assert heard == [notice(1)]


async def test_waiting_listener_is_woken_without_delay_by_another_thread() -> None:
    """The listener does not poll: its event loop sleeps until the notice arrives."""
    notifier = LocalNotifier()
    notices, first = await listening(notifier)
    await asyncio.to_thread(notifier.notify, notice(1))
    async with aclosing(notices), asyncio.timeout(SECONDS):
        assert await first == notice(1)


def test_notice_without_a_listener_is_dropped() -> None:
    LocalNotifier().notify(notice(1))


async def test_listener_hears_nothing_from_before_it_listened() -> None:
    notifier = LocalNotifier()
    notifier.notify(notice(1))
    notices, first = await listening(notifier)
    notifier.notify(notice(2))
    async with aclosing(notices):
        assert await first == notice(2)


class Text(str):
    """A string that can have a weak reference, which shows whether it is still in memory."""


def is_kept(notifier: LocalNotifier) -> bool:
    """Return True if a new notice stays in memory."""
    text = Text("data")
    seen = weakref.ref(text)
    notifier.notify(Notice(1, 1, (StoredEvent(1, "news", "message", text),)))
    del text
    gc.collect()
    return seen() is not None


async def test_listener_that_was_closed_keeps_nothing() -> None:
    notifier = LocalNotifier()
    notices, first = await listening(notifier)
    assert is_kept(notifier)
    await first
    await notices.aclose()
    assert not is_kept(notifier)


async def test_listener_that_was_cancelled_keeps_nothing() -> None:
    notifier = LocalNotifier()
    _notices, first = await listening(notifier)
    first.cancel()
    await asyncio.wait([first])
    assert not is_kept(notifier)


def test_loop_that_ended_without_closing_its_listener_disturbs_no_publisher() -> None:
    notifier = LocalNotifier()
    loop = asyncio.new_event_loop()

    async def begin() -> AsyncGenerator[Notice | None, None]:
        notices, first = await listening(notifier)
        notifier.notify(notice(1))
        await first
        return notices

    notices = loop.run_until_complete(begin())
    loop.close()
    notifier.notify(notice(2))  # raises no exception
    loop = asyncio.new_event_loop()
    loop.run_until_complete(notices.aclose())
    loop.close()


# --- The setting ------------------------------------------------------------------------------------------------------


class Quiet(BaseNotifier):
    """A site's own notifier."""

    def __init__(self, volume: int = 0) -> None:
        self.volume = volume

    def notify(self, notice: Notice) -> None:
        """Do nothing."""

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        await asyncio.Event().wait()
        yield Notice(1, 1)


@override_settings(STREAMS={})
def test_local_notifier_is_the_default_and_one_for_all_threads() -> None:
    found: list[BaseNotifier] = []
    threads = [threading.Thread(target=lambda: found.append(get_notifier())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert type(found[0]) is LocalNotifier
    assert len(set(map(id, found))) == 1


@override_settings(STREAMS={"NOTIFIER": {"BACKEND": f"{__name__}.Quiet", "OPTIONS": {"volume": 11}}})
def test_settings_name_another_with_its_options() -> None:
    notifier = get_notifier()
    assert isinstance(notifier, Quiet)
    assert notifier.volume == 11


@override_settings(STREAMS={"NOTIFIER": {"BACKEND": f"{__name__}.Quiet"}})
def test_options_may_be_left_out() -> None:
    notifier = get_notifier()
    assert isinstance(notifier, Quiet)
    assert notifier.volume == 0


def test_notifier_is_made_anew_where_the_settings_change() -> None:
    before = get_notifier()
    with override_settings(STREAMS={"NOTIFIER": {"BACKEND": f"{__name__}.Quiet"}}):
        assert type(get_notifier()) is Quiet
    assert type(get_notifier()) is type(before)


def test_a_notifier_has_both_methods() -> None:
    class Half(BaseNotifier):
        def notify(self, notice: Notice) -> None:
            """Do nothing."""

    with pytest.raises(TypeError, match="listen"):
        Half()  # type: ignore[abstract]
