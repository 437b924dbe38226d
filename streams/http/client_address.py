"""Find a client's address behind trusted proxies, and the key by which limits count it."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from django.http import HttpRequest
from django.utils.crypto import salted_hmac

from streams.conf import UNIX, Network, parse_networks, settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# The smallest network that a provider gives to a customer (RFC 6177), so that one machine can use 2**64 addresses.
IPV6_PREFIX = 64

HASH_CHARACTERS = 16


def client_address(request: HttpRequest) -> str:
    """Return the client's address: that of the peer, or the one that the peer forwards if it is a trusted proxy.

    Each proxy appends the address of its own peer to X-Forwarded-For. The list is read from the right, past the
    TRUSTED_PROXIES, to the first address that is not trusted. A trusted proxy added that one; the client can have made
    up the entries to the left of it. The search also ends before an entry that is not a valid address.

    The address has no port, and IPv4 mapped to IPv6 is returned as IPv4. "" is returned for a peer on a Unix socket
    that is not trusted, and for an invalid address.
    """
    peer = str(request.META.get("REMOTE_ADDR") or "")
    client = parse_address(peer)
    trusted = tuple(settings.TRUSTED_PROXIES)
    is_trusted = _is_within(client, trusted) if client is not None else not peer and UNIX in trusted
    if is_trusted:
        for entry in reversed(str(request.META.get("HTTP_X_FORWARDED_FOR", "")).split(",")):
            if (hop := parse_address(entry)) is None:
                break
            client = hop
            if not _is_within(hop, trusted):
                break
    return "" if client is None else str(client)


def address_key(address: str) -> str:
    """Return the key by which an address is counted: a keyed hash of the IPv4 address, or of the IPv6 /64 network.

    The key is stored in a table. It is hashed with the SECRET_KEY so that the table, or a backup of it, does not reveal
    who is connected. Without the SECRET_KEY, all addresses could be hashed and compared.
    """
    counted: Address | ipaddress.IPv6Network | None = parse_address(address)
    if isinstance(counted, ipaddress.IPv6Address):
        counted = ipaddress.IPv6Network((counted, IPV6_PREFIX), strict=False)
    digest = salted_hmac("streams.addresses", str(counted or ""), algorithm="sha256").hexdigest()
    return f"address {digest[:HASH_CHARACTERS]}"


# Longer texts are not kept: a client chooses the header's value.
MAX_CACHED_CHARACTERS = 64

# [IPv6], IPv6 without brackets, or IPv4. A port can follow, except after an IPv6 address without brackets.
_FORMS = re.compile(r"(?:\[(?P<ipv6>[^]]*)\]|(?P<ipv4>[^:]*))(?::\d{1,5})?|(?P<bare>.*:.*:.*)", re.ASCII)


def parse_address(text: str) -> Address | None:
    """Parse an address from a header or a server, with or without a port. Return None if it is not valid."""
    return _parse(text) if len(text) <= MAX_CACHED_CHARACTERS else _parse.__wrapped__(text)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Address | None:
    if (match := _FORMS.fullmatch(text.strip())) is None:
        return None
    try:
        if match["ipv4"] is not None:
            return ipaddress.IPv4Address(match["ipv4"])
        address = ipaddress.IPv6Address((match["ipv6"] or match["bare"] or "").partition("%")[0])  # without a zone
    except ValueError:
        return None
    return address.ipv4_mapped or address


def _is_within(address: Address, items: tuple[str, ...]) -> bool:
    return any(address in network for network in _networks(items))


@lru_cache(maxsize=8)
def _networks(items: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(_unmapped_network(network) for network in parse_networks(items))


def _unmapped_network(network: Network) -> Network:
    """Return ::ffff:10.0.0.0/104 as 10.0.0.0/8, because addresses are compared in that form."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
