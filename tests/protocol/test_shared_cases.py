"""The decoder with the cases that the clients share."""

from __future__ import annotations

import pytest

from streams.protocol.sse import DecodedEvent
from tests.protocol.support import decode_in_pieces
from tests.support.event_stream_cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_is_decoded(case: Case) -> None:
    expected = [DecodedEvent(data, kind, id) for kind, data, id in case.events], case.last_event_id, case.retry
    assert decode_in_pieces(case.chunks) == expected
    whole = b"".join(case.chunks)
    assert decode_in_pieces([whole]) == expected
    assert decode_in_pieces(whole[at : at + 1] for at in range(len(whole))) == expected
