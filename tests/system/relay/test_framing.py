"""The framing of relayed events: line ends, split characters, long lines, types and heartbeats. Over real sockets."""

from __future__ import annotations

import pytest

from tests.relay.conftest import Relay
from tests.relay.steps import (
    DONE,
    END,
    HEAD,
    LAST,
    USAGE,
    Step,
    chunk,
    event,
    piece,
    raw,
    wait,
)
from tests.system.relay.support import HEARTBEAT, error_in, events_of, text_of

pytestmark = pytest.mark.once


async def test_single_bytes_give_same_events(relay: Relay) -> None:
    sent = event("H\u2028\u0085é😀") + ": comment\n\n" + event("!") + event(reason="stop") + USAGE + DONE
    for end in ("\n", "\r", "\r\n"):
        data = raw("\ufeff" + sent.replace("\n", end))
        steps = [HEAD, *[["chunk", byte] for byte in data], LAST]
        status, body, _ = await relay.answer(steps, stream_options={"include_usage": True})
        assert (status, text_of(body)) == (200, "H\u2028\u0085é😀!")
        assert events_of(body)[-2:] == [USAGE.strip(), "data: [DONE]"]


async def test_split_characters_are_joined(relay: Relay) -> None:
    data = raw(event("é").replace("\n", "\r\n"))
    steps: list[Step] = [HEAD]
    for at in range(1, len(data), 7):
        steps += [["chunk", data[:at]], wait(0.005), ["chunk", data[at:]]]
    _, body, _ = await relay.answer([*steps, *END])
    assert text_of(body) == "é" * len(range(1, len(data), 7))


async def test_long_lines_are_bounded(relay: Relay) -> None:
    """Lines of one MiB are relayed, and a longer line ends the stream with an error event."""
    before, after = raw(event("@")).split("@")
    long: list[Step] = [["chunk", before], ["repeat", 64, [chunk("x" * 16_384)]], ["chunk", after]]
    _, body, _ = await relay.answer([HEAD, *long, *END])
    assert text_of(body) == "x" * 1_048_576
    endless: list[Step] = [HEAD, piece("Hi"), chunk("data: "), ["repeat", 300, [chunk("x" * 10_000)]]]
    status, body, _ = await relay.answer(endless)
    assert (status, error_in(body)["code"]) == (200, "upstream-too-large")


async def test_event_types_are_kept(relay: Relay) -> None:
    """DashScope sends events with a type."""
    sent = "".join(f"id:{n}\nevent:result\n:HTTP_STATUS/200\n{event(text)}" for n, text in ((1, "a"), (2, "b")))
    _, body, _ = await relay.answer([HEAD, chunk(sent), *END])
    events = events_of(body)
    assert [each.split("\n")[0] for each in events[:2]] == ["event: result"] * 2
    assert b"id:" not in body
    assert b"HTTP_STATUS" not in body
    assert text_of(body) == "ab"


async def test_heartbeats_come_between_events_only(relay: Relay) -> None:
    """Each heartbeat is one line with a single newline."""
    first, second = raw(event("ab")), raw(event("cd"))
    steps: list[Step] = [HEAD, ["chunk", first + second[:30]], wait(0.7), ["chunk", second[30:]], *END]
    asked = await relay.ask(steps)
    body = await asked.rest()
    assert body.count(HEARTBEAT) >= 3
    assert b":\n\n" not in body
    assert [each for each in body.decode().replace(":\n", "").split("\n\n") if each][:2] == [
        first.encode("latin-1").decode().strip(),
        second.encode("latin-1").decode().strip(),
    ]


async def test_events_are_passed_on_at_once(relay: Relay) -> None:
    asked = await relay.ask([HEAD, piece("one"), wait(0.3), piece("two"), wait(3)])
    await asked.has(b"one")
    assert b"two" not in asked.raw
    await asked.has(b"two")
