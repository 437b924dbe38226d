"""The default limits on streams, and the peers that the default limit per address does not count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import AsyncRequestFactory, override_settings

from streams import conf
from streams.delivery import limits
from streams.http.client_address import address_key
from streams.presence import counter, node_row, totals

PUBLIC = "8.8.8.8"


@pytest.fixture(autouse=True)
def _no_streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(counter, "process", fresh := counter.Process())
    monkeypatch.setattr(node_row, "process", fresh)
    monkeypatch.setattr(totals, "process", fresh)
    with override_settings(STREAMS={}):
        yield


async def counted(peer: str | None, **headers: str) -> list[str]:
    """Return the keys under which a stream from this peer counts."""
    request: Any = AsyncRequestFactory().get(
        "/", headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    request.META["REMOTE_ADDR"] = peer
    place = limits.take(request)
    keys = list(counter.slots().counts())
    place.release()
    return keys


def test_default_limits_are_finite() -> None:
    names = ("MAX_STREAMS_PER_PROCESS", "MAX_STREAMS_PER_USER", "MAX_STREAMS_PER_ADDRESS", "MAX_REPLAY_SECONDS")
    assert [getattr(conf.settings, name) for name in names] == [10_000, 100, 1000, 300]


async def test_public_address_is_counted_by_default() -> None:
    assert await counted(PUBLIC) == [address_key(PUBLIC)]
    assert await counted("2606:4700::1") == [address_key("2606:4700::2")]


@pytest.mark.parametrize(
    "peer",
    [
        "127.0.0.1",
        "::1",
        "10.1.2.3",
        "172.17.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "fd00::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "",
        None,
    ],
)
async def test_probable_proxy_is_not_counted_by_default(peer: str | None) -> None:
    assert await counted(peer) == []


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.1.2.3", ""])
async def test_limit_that_is_set_counts_every_peer(peer: str) -> None:
    with override_settings(STREAMS={"MAX_STREAMS_PER_ADDRESS": 1000}):
        assert await counted(peer) == [address_key(peer)]


async def test_named_proxy_has_its_clients_counted() -> None:
    with override_settings(STREAMS={"TRUSTED_PROXIES": ["10.0.0.0/8"]}):
        assert await counted("10.0.0.1", x_forwarded_for=PUBLIC) == [address_key(PUBLIC)]
        assert await counted("192.168.0.1") == [address_key("192.168.0.1")]


async def test_limit_can_be_switched_off() -> None:
    with override_settings(STREAMS={"MAX_STREAMS_PER_ADDRESS": None}):
        assert await counted(PUBLIC) == []


def test_reads_take_turns_by_user_or_address() -> None:
    """Reads of uncounted peers, such as a proxy that no setting names, take turns as well."""
    request: Any = AsyncRequestFactory().get("/")
    request.META["REMOTE_ADDR"] = "127.0.0.1"
    assert limits.caller_of(request) == address_key("127.0.0.1")
    request.META["REMOTE_ADDR"] = "2001:db8::1"
    assert limits.caller_of(request) == address_key("2001:db8::2")
    request._cached_user = type("User", (), {"pk": 7, "is_authenticated": True})()
    request.user = request._cached_user
    assert limits.caller_of(request) == "user 7"
