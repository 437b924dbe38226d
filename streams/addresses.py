"""Clients' addresses: who sent a request, through proxies that are trusted, and what of an address limits count by."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from django.http import HttpRequest
from django.utils.crypto import salted_hmac

from streams.conf import UNIX, Network, parse_networks, settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# What a provider gives a single customer at the least (RFC 6177), so that one machine has 2**64 addresses to come from.
IPV6_PREFIX = 64

HASH_CHARACTERS = 16


def client_address(request: HttpRequest) -> str:
    """The address of the client: of the peer, or, where that is one of TRUSTED_PROXIES, the one that it forwards.

    Each proxy adds the address of who came to it at the right of X-Forwarded-For. So the list is read from there, past
    those that are trusted, to the first that is not: that one a trusted proxy has seen, and whatever stands to the left
    of it the client may have made up. An entry that is no address ends the walk at the one before.

    In its plain form: without a port, IPv4 where it is IPv4 in IPv6. "" for a Unix socket's peer, or what is none.
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
    """What an address counts as: IPv4 alone, IPv6 with all of its /64. Hashed under the SECRET_KEY.

    It is stored, and who listens is nobody's business who reads a table or a backup of it. Without the key, the few
    addresses that there are could be tried one by one.
    """
    return f"address {_hash(_counted_as(address))}"


def parse_address(text: str) -> Address | None:
    """An address as headers and servers write it, with a port or without; None where it is none."""
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
    """Whether it is what may follow an address: a colon and a port, or nothing."""
    return not text or (text[0] == ":" and text[1:].isascii() and text[1:].isdigit() and len(text) <= len(":65535"))


def _unmapped(address: Address) -> Address:
    return getattr(address, "ipv4_mapped", None) or address


def _is_within(address: Address, items: tuple[str, ...]) -> bool:
    return any(address in network for network in _networks(items))


@lru_cache(maxsize=8)
def _networks(items: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(_unmapped_network(network) for network in parse_networks(items))


def _unmapped_network(network: Network) -> Network:
    """As the addresses: 10.0.0.0/8 may have been written ::ffff:10.0.0.0/104."""
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
