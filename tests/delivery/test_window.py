"""The hub's window: frames with consecutive positions, bounded by number and bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.delivery.window import Frame, Window
from streams.protocol.sse import StoredEvent

ROOMY = {"max_messages": 1000, "max_bytes": 1_000_000}


def frame(position: int, size: int = 1) -> Frame:
    return Frame(position, "news", b"x" * size)


class Message(StoredEvent):
    """A message that is encoded as its data alone."""

    def encode(self) -> bytes:
        return self.data.encode()


def message(position: int, size: int = 1) -> Message:
    return Message(position, "news", "message", "x" * size)


def positions(window: Window, cursor: int) -> list[int] | None:
    found = window.after(cursor)
    return None if found is None else [frame.position for frame in found]


def test_frame_has_the_messages_bytes_on_the_wire() -> None:
    assert Frame.of(StoredEvent(7, "news", "add", "a\nb")) == Frame(
        7, "news", b"event: add\nid: 7\ndata: a\ndata: b\n\n"
    )


def test_empty_window_knows_its_end_and_nothing_before() -> None:
    window = Window(5, **ROOMY)
    assert (window.start, window.end) == (5, 5)
    assert [positions(window, cursor) for cursor in (4, 5, 6)] == [None, [], None]


def test_frames_above_a_cursor_come_in_order() -> None:
    window = Window(5, **ROOMY)
    for position in (6, 7, 8):
        window.append(message(position))
    assert (window.start, window.end) == (5, 8)
    assert positions(window, 5) == [6, 7, 8]
    assert positions(window, 7) == [8]
    assert positions(window, 8) == []


def test_cursor_outside_the_window_gets_nothing_rather_than_a_part() -> None:
    window = Window(5, **ROOMY)
    window.append(message(6))
    assert positions(window, 4) is None
    assert positions(window, 7) is None


@pytest.mark.parametrize("position", [4, 5, 7])
def test_only_the_next_position_is_appended(position: int) -> None:
    window = Window(5, **ROOMY)
    with pytest.raises(ValueError, match=f"ends at 5 and takes the next position only; got {position}"):
        window.append(message(position))
    assert (window.start, window.end) == (5, 5)


def test_oldest_make_room_by_number() -> None:
    window = Window(0, max_messages=2, max_bytes=1000)
    for position in (1, 2, 3):
        window.append(message(position))
    assert positions(window, 1) == [2, 3]
    assert positions(window, 0) is None


def test_oldest_make_room_by_bytes() -> None:
    window = Window(0, max_messages=1000, max_bytes=10)
    window.append(message(1, 4))
    window.append(message(2, 4))
    window.append(message(3, 4))
    assert positions(window, 1) == [2, 3]
    window.append(message(4, 10))
    assert (window.start, positions(window, 3)) == (3, [4])


def test_frame_that_is_larger_than_the_window_empties_it_and_moves_its_end() -> None:
    window = Window(0, max_messages=1000, max_bytes=10)
    window.append(message(1, 4))
    window.append(message(2, 11))
    assert (window.start, window.end) == (2, 2)
    assert positions(window, 1) is None
    window.append(message(3, 10))
    assert positions(window, 2) == [3]


def test_window_is_filled_backwards_from_its_end() -> None:
    window = Window(5, **ROOMY)
    assert [window.extend_back(frame(position)) for position in (5, 4, 3)] == [True, True, True]
    assert (window.start, window.end) == (2, 5)
    assert positions(window, 2) == [3, 4, 5]
    window.append(message(6))
    assert positions(window, 2) == [3, 4, 5, 6]


@pytest.mark.parametrize("position", [2, 3, 5, 6])
def test_window_is_not_filled_over_a_hole(position: int) -> None:
    window = Window(5, **ROOMY)
    window.extend_back(frame(5))
    assert not window.extend_back(frame(position))
    assert positions(window, 4) == [5]


def test_window_is_filled_backwards_only_while_there_is_room() -> None:
    by_number = Window(5, max_messages=1, max_bytes=1000)
    assert [by_number.extend_back(frame(position)) for position in (5, 4)] == [True, False]
    by_bytes = Window(5, max_messages=1000, max_bytes=10)
    assert [by_bytes.extend_back(frame(position, 6)) for position in (5, 4)] == [True, False]
    assert (by_number.start, by_bytes.start) == (4, 4)


def test_reading_takes_no_copy_and_is_not_disturbed_by_an_earlier_reader() -> None:
    window = Window(0, **ROOMY)
    window.append(message(1))
    first, second = window.after(0), window.after(0)
    assert first is not None
    assert second is not None
    assert next(first) is next(second)


@given(
    end=st.integers(0, 5),
    limit=st.tuples(st.integers(1, 5), st.integers(1, 40)),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 15)), max_size=30),
)
def test_window_is_always_unbroken_and_within_its_bounds(
    end: int, limit: tuple[int, int], steps: list[tuple[bool, int]]
) -> None:
    max_messages, max_bytes = limit
    window = Window(end, max_messages=max_messages, max_bytes=max_bytes)
    sizes: dict[int, int] = {}
    for forward, size in steps:
        position = window.end + 1 if forward else window.start
        if forward:
            window.append(message(position, size))
            sizes[position] = size
        elif window.extend_back(frame(position, size)):
            sizes[position] = size
        held = range(window.start + 1, window.end + 1)
        assert len(held) <= max_messages
        assert sum(sizes[position] for position in held) <= max_bytes
        for cursor in range(window.start - 1, window.end + 2):
            expected = list(range(cursor + 1, window.end + 1)) if window.start <= cursor <= window.end else None
            assert positions(window, cursor) == expected
