"""Find a client's address behind trusted proxies, and the key by which limits count it."""

from __future__ import annotations

import ipaddress
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
    trusted = settings.TRUSTED_PROXIES
    is_trusted = UNIX in trusted if not peer else client is not None and _is_within(client, tuple(trusted))
    if is_trusted:
        for entry in reversed(str(request.META.get("HTTP_X_FORWARDED_FOR", "")).split(",")):
            if (hop := parse_address(entry)) is None:
                break
            client = hop
            if not _is_within(hop, tuple(trusted)):
                break
    return "" if client is None else str(client)


def address_key(address: str) -> str:
    """Return the key by which an address is counted: a keyed hash of the IPv4 address, or of the IPv6 /64 network.

    The key is stored in a table. It is hashed with the SECRET_KEY so that the table, or a backup of it, does not reveal
    who is connected. Without the SECRET_KEY, all addresses could be hashed and compared.
    """
    return f"address {_hash(_counted_as(address))}"


def parse_address(text: str) -> Address | None:
    """Parse an address from a header or a server, with or without a port. Return None if it is not valid."""
    text = text.strip()
    if text.startswith("["):
        text, closed, port = text[1:].partition("]")
        if not closed or not _is_port(port):
            return None
        family: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address] = ipaddress.IPv6Address
    elif text.count(":") < 2:
        text, colon, port = text.partition(":")
        if not _is_port(colon + port):
            return None
        family = ipaddress.IPv4Address
    else:
        family = ipaddress.IPv6Address
    try:
        address: Address = family(text.partition("%")[0] if family is ipaddress.IPv6Address else text)  # without a zone
    except ValueError:
        return None
    return _unmapped(address)


def _is_port(text: str) -> bool:
    """Return True if `text` is empty, or a colon and a port."""
    return not text or (text[0] == ":" and text[1:].isascii() and text[1:].isdigit() and len(text) <= len(":65535"))


def _unmapped(address: Address) -> Address:
    return getattr(address, "ipv4_mapped", None) or address


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


def _counted_as(address: str) -> str:
    known = parse_address(address)
    if isinstance(known, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((known, IPV6_PREFIX), strict=False))
    return str(known or "")


def _hash(text: str) -> str:
    return salted_hmac("streams.addresses", text, algorithm="sha256").hexdigest()[:HASH_CHARACTERS]
