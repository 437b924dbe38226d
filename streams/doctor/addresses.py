"""Find out whether the site knows the addresses of its clients behind a proxy.

The doctor's requests claim in X-Forwarded-For to come from a documentation address (RFC 5737). If the site counts the
stream for that address, every client can claim any address.
"""

from __future__ import annotations

import secrets

from django.db import Error

from streams import presence
from streams.conf import configured, settings
from streams.doctor.connection import Response
from streams.doctor.database import in_time
from streams.doctor.findings import Findings, ok, problem, warning
from streams.http.client_address import address_key

HEADER = "X-Forwarded-For"

# How proxies show themselves. The ASGI servers have other values of Server.
PROXIES = ("nginx", "openresty", "caddy", "apache", "cloudflare", "envoy", "haproxy", "awselb", "litespeed")
PROXY_HEADERS = ("Via", "CF-Ray", "X-Amz-Cf-Id", "X-Served-By", "Fly-Request-Id", "X-Envoy-Upstream-Service-Time")


def forged_address() -> str:
    """Return a random address that no client can have."""
    return f"203.0.113.{1 + secrets.randbelow(254)}"


def check(response: Response, forged: str) -> Findings:
    """Check for which address the site counts the open stream, and whether its proxy is named."""
    if settings.MAX_STREAMS_PER_ADDRESS is None:
        return
    is_counted = _is_counted(response, forged)
    if is_counted:
        yield problem(
            "client address",
            f"The site believed an invented address in {HEADER}. Every client can claim any address, and so evade "
            "MAX_STREAMS_PER_ADDRESS.",
            "In nginx, write `proxy_set_header X-Forwarded-For $remote_addr;`. List only your proxies in "
            "TRUSTED_PROXIES and in the server's own option, such as uvicorn's `--forwarded-allow-ips`.",
        )
        return
    proxy = _proxy(response)
    if proxy and not settings.TRUSTED_PROXIES:
        effect = (
            "All its clients together get the limit of one address"
            if "MAX_STREAMS_PER_ADDRESS" in configured()
            else "If its address is private, its clients are not limited by address; otherwise all of them share "
            "one limit"
        )
        yield warning(
            "client address",
            f"A proxy answers ({proxy}), but STREAMS['TRUSTED_PROXIES'] names none. {effect}.",
            "Write STREAMS = {'TRUSTED_PROXIES': ['127.0.0.1']} with the addresses from which the proxy connects.",
        )
    elif proxy and is_counted is False:
        yield ok("client address", f"The proxy ({proxy}) does not pass on addresses that clients invent.")


def _is_counted(response: Response, address: str) -> bool | None:
    """Return True if a process counts a stream of this address, or None if that is not known."""
    period = settings.PRESENCE_SECONDS
    if period is None or response.seconds < 2 * period:
        return None  # the process might not have reported the stream
    try:
        nodes = [node for node in in_time(presence.nodes) if node.connections]
    except Error:
        return None
    if not nodes:
        return None  # the command and the servers use different databases
    return any(address_key(address) in node.callers for node in nodes)


def _proxy(response: Response) -> str:
    """Return the header by which a proxy shows itself, or ""."""
    server = response.headers.get("Server", "")
    if any(name in server.lower() for name in PROXIES):
        return f"Server: {server}"
    return next((f"{name} header" for name in PROXY_HEADERS if name in response.headers), "")
