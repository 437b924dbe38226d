"""The address of a client behind trusted and other proxies, and the key under which an address is counted."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import pytest
from django.test import AsyncRequestFactory, RequestFactory, override_settings

from streams.http.client_address import address_key, client_address, parse_address

PROXIES = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"]


def seen_as(peer: str | None, forwarded: str | None = None, *, trusted: Any = PROXIES) -> str:
    request = RequestFactory().get("/", headers={} if forwarded is None else {"X-Forwarded-For": forwarded})
    if peer is None:
        del request.META["REMOTE_ADDR"]  # uvicorn on a Unix socket sends no address
    else:
        request.META["REMOTE_ADDR"] = peer
    with override_settings(STREAMS={"TRUSTED_PROXIES": trusted}):
        return client_address(request)


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:DB8:0:0::7", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("203.0.113.7:5000", "203.0.113.7"),
        ("[2001:db8::7]:5000", "2001:db8::7"),
        ("", ""),
        (None, ""),
        ("unix:", ""),
        ("testserver", ""),
    ],
)
def test_without_a_proxy_it_is_the_peer(peer: str | None, client: str) -> None:
    assert seen_as(peer) == client


@pytest.mark.parametrize("peer", ["203.0.113.7", "::ffff:203.0.113.7", "11.0.0.1", "", "unix:", "127.0.0.2"])
def test_peer_that_is_not_trusted_cannot_name_another(peer: str) -> None:
    assert seen_as(peer, "198.51.100.9") == seen_as(peer)


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.255.0.1", "::ffff:127.0.0.1", "fd12::1", "127.0.0.1:80"])
def test_trusted_peer_names_the_client(peer: str) -> None:
    assert seen_as(peer, "198.51.100.9") == "198.51.100.9"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        # The last address that is not trusted is the client's. The client can have invented the ones before it.
        ("198.51.100.9", "198.51.100.9"),
        ("1.1.1.1, 198.51.100.9", "198.51.100.9"),
        ("1.1.1.1, 198.51.100.9, 10.0.0.2", "198.51.100.9"),
        ("1.1.1.1, 198.51.100.9, 10.0.0.2,10.0.0.3", "198.51.100.9"),
        ("10.0.0.9, 198.51.100.9, 10.0.0.2", "198.51.100.9"),
        # All addresses are trusted: the client is in the site's own network.
        ("10.0.0.9, 10.0.0.2", "10.0.0.9"),
        ("127.0.0.1", "127.0.0.1"),
        # Ports, brackets, and IPv4-mapped IPv6 addresses.
        ("198.51.100.9:5000", "198.51.100.9"),
        ("198.51.100.9 , 10.0.0.2:81", "198.51.100.9"),
        ("[2001:db8::7]:80", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:198.51.100.9", "198.51.100.9"),
        ("[::ffff:198.51.100.9]:80, ::ffff:10.0.0.2", "198.51.100.9"),
        # The search stops at an invalid address. The client is then the last valid one, or the peer.
        ("", "127.0.0.1"),
        (" ", "127.0.0.1"),
        ("unknown", "127.0.0.1"),
        ("_hidden", "127.0.0.1"),
        ("198.51.100.9, unknown", "127.0.0.1"),
        ("198.51.100.9,", "127.0.0.1"),
        ("198.51.100.9, unknown, 10.0.0.2", "10.0.0.2"),
        ("198.51.100.9, garbage 1.1.1.1, 10.0.0.2", "10.0.0.2"),
        ("198.51.100.9;10.0.0.2", "127.0.0.1"),
        ("198.51.100.9:port", "127.0.0.1"),
        ("198.51.100.9:", "127.0.0.1"),
        ("198.51.100.9:1234567", "127.0.0.1"),
        ("198.51.100.9:80:80", "127.0.0.1"),
        ("[198.51.100.9]:80", "127.0.0.1"),
        ("[2001:db8::7", "127.0.0.1"),
        ("[2001:db8::7]80", "127.0.0.1"),
        ("2001:db8::7]:80", "127.0.0.1"),
        ("198.51.100.09", "127.0.0.1"),
        ("198.51.100", "127.0.0.1"),
        ("3325256713", "127.0.0.1"),
        ("0x7f.0.0.1", "127.0.0.1"),
        ("198.51.100.9/32", "127.0.0.1"),
        ("１.1.1.1", "127.0.0.1"),
        ("for=198.51.100.9", "127.0.0.1"),
    ],
)
def test_list_of_a_trusted_peer_is_read_from_the_right(forwarded: str, client: str) -> None:
    assert seen_as("127.0.0.1", forwarded) == client


def test_several_headers_are_one_list_and_an_underscore_makes_another_header() -> None:
    """A client's own header comes first. A proxy adds another header, or appends to the first one."""
    scope_headers = [
        (b"host", b"testserver"),
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"x-forwarded-for", b"198.51.100.9, 10.0.0.2"),
        (b"x_forwarded_for", b"9.9.9.9"),
    ]
    request = AsyncRequestFactory().request(path="/", headers=scope_headers, client=["127.0.0.1", 1])
    with override_settings(STREAMS={"TRUSTED_PROXIES": PROXIES}):
        assert client_address(request) == "198.51.100.9"


def test_unix_sockets_peer_is_trusted_where_it_is_named() -> None:
    for peer_name in (None, ""):
        assert seen_as(peer_name, "198.51.100.9", trusted=["unix"]) == "198.51.100.9"
        assert seen_as(peer_name, "198.51.100.9, 10.0.0.2", trusted=["unix", "10.0.0.0/8"]) == "198.51.100.9"
        assert seen_as(peer_name, "198.51.100.9, ", trusted=["unix"]) == ""
        assert seen_as(peer_name, "198.51.100.9", trusted=["0.0.0.0/0", "::/0"]) == ""
    assert seen_as("garbage", "198.51.100.9", trusted=["unix"]) == ""
    assert seen_as("203.0.113.7", "198.51.100.9", trusted=["unix"]) == "203.0.113.7"


def test_setting_is_read_live_and_may_be_a_tuple() -> None:
    assert seen_as("203.0.113.7", "198.51.100.9", trusted=[]) == "203.0.113.7"
    assert seen_as("203.0.113.7", "198.51.100.9", trusted=("203.0.113.7",)) == "198.51.100.9"
    assert seen_as("203.0.113.7", "198.51.100.9", trusted=["203.0.113.6/31"]) == "198.51.100.9"
    assert seen_as("10.0.0.1", "198.51.100.9", trusted=["::ffff:10.0.0.0/104"]) == "198.51.100.9"
    assert seen_as("10.0.0.1", "198.51.100.9", trusted=["::/0"]) == "10.0.0.1"


def test_server_that_reads_the_list_as_well_changes_nothing() -> None:
    """uvicorn replaces the peer by the last address that it does not trust, and keeps the header."""
    assert seen_as("198.51.100.9", "1.1.1.1, 198.51.100.9") == "198.51.100.9"
    assert seen_as("10.0.0.2", "1.1.1.1, 198.51.100.9, 10.0.0.2") == "198.51.100.9"  # uvicorn trusts only 127.0.0.1


def test_long_list_is_read_no_further_than_it_is_trusted() -> None:
    assert seen_as("127.0.0.1", "garbage, " * 10_000 + "198.51.100.9") == "198.51.100.9"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("198.51.100.9", "198.51.100.9", True),
        ("198.51.100.9", "198.51.100.8", False),
        ("198.51.100.9", "::ffff:198.51.100.9", True),
        ("2001:db8::7", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::7", "2001:DB8:0:0:1::", True),
        ("2001:db8::7", "2001:db8:0:1::7", False),
        ("2001:db8::7", "198.51.100.9", False),
        ("", "", True),
        ("", "198.51.100.9", False),
    ],
)
def test_ipv4_counts_alone_and_ipv6_with_its_64(one: str, other: str, same: bool) -> None:
    assert (address_key(one) == address_key(other)) is same


def test_key_shows_no_address_and_depends_on_the_secret() -> None:
    key = address_key("198.51.100.9")
    assert re.fullmatch("address [0-9a-f]{16}", key)
    with override_settings(SECRET_KEY="another"):
        assert address_key("198.51.100.9") != key


def test_no_text_makes_it_fail() -> None:
    for text in ("%", "::%", "fe80::1%", ":" * 1000, "[" * 1000, "[]", "[]:", "\0", "é", "1" * 10_000, ":1", "%25"):
        found = parse_address(text)
        assert found is None or isinstance(found, ipaddress.IPv6Address)
