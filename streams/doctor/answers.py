"""Judge the head of an answer: errors, redirects, login pages, compression, caching, cookies, CORS."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Generator

from django.conf import settings

from streams.doctor.application import application_path, error_code, mount_path
from streams.doctor.connection import Response, Target
from streams.doctor.findings import Finding, Findings, ok, problem, warning
from streams.redaction import hide

STREAM = "text/event-stream"

# A browser's EventSource reconnects after a network error, but not after another status than 200.
GIVES_UP = "An EventSource gives up at this status, until its page is reloaded."

START_ASGI = (
    "Start an ASGI server instead, such as `uvicorn {0} --host 127.0.0.1 --port 8001`. For `manage.py runserver`, "
    "install "
    'daphne, and write "daphne" as the first of INSTALLED_APPS.'
)

FIND_SERVER = (
    "Start the site's servers. In nginx, compare the `server` lines of `upstream` (or `proxy_pass`) with the "
    "addresses on which they listen."
)
KEEP_CLIENTS = (
    " To keep browsers alive in an outage, write `proxy_intercept_errors on;` and `error_page 502 503 504 = @away;` "
    "with the location `@away` of the documentation's nginx.conf."
)


def check_failure(target: Target, error: Exception) -> Finding:
    """Return the finding about a connection that could not be made, or that brought no answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return problem(
            "certificate",
            f"The certificate of {target.authority} is not valid: {error.verify_message}. Browsers refuse it.",
            "In nginx, `ssl_certificate` must name the certificate with its intermediate certificates. To test with a "
            "certificate of your own, use --insecure.",
        )
    if isinstance(error, ssl.SSLError):
        return problem(
            "connection",
            f"{target.authority} does not speak TLS ({error.reason or error}).",
            "Write `listen 443 ssl;` in nginx, or check the URL with http://.",
        )
    if isinstance(error, socket.gaierror):
        return problem(
            "connection", f"The name {target.host} has no address.", "Correct the URL, or the domain's DNS records."
        )
    if isinstance(error, ConnectionRefusedError):
        return problem(
            "connection",
            f"{target.authority} refuses connections.",
            "Start the server or the proxy that listens there: in nginx, see its `listen` lines.",
        )
    if isinstance(error, http.client.HTTPException):
        return problem(
            "connection",
            f"{target.authority} did not answer in HTTP/1.1 ({type(error).__name__}).",
            "If the port speaks TLS, check the URL with https://.",
        )
    return problem(
        "connection",
        f"The connection to {target.authority} failed ({type(error).__name__}: {hide(str(error))}).",
        "Look into the logs of the proxy and the server.",
    )


# --- Redirects --------------------------------------------------------------------------------------------------------


def check_redirect(target: Target, location: str) -> Generator[Finding, None, Target | None]:
    """Yield a finding about a redirect. Return the target if it can be followed with the same credentials."""
    try:
        new = target.join(location)
    except ValueError:
        yield problem("redirects", f"{target} redirects to an invalid URL.", "Correct the redirect in the proxy.")
        return None
    if new == target:
        yield problem(
            "redirects",
            f"{target} redirects to itself. Probably Django redirects to https, and does not know that it is https.",
            "In nginx, write `proxy_set_header X-Forwarded-Proto $scheme;` (`https` behind a load balancer that "
            "terminates TLS), and in the settings `SECURE_PROXY_SSL_HEADER = ('HTTP_X_FORWARDED_PROTO', 'https')`.",
        )
        return None
    if (target.scheme, new.scheme) == ("https", "http"):
        yield problem(
            "redirects",
            f"{target} redirects to plain http. The credentials were not sent there.",
            "In nginx, write `proxy_set_header Host $http_host;` and `proxy_set_header X-Forwarded-Proto $scheme;`.",
        )
        return None
    login = str(settings.LOGIN_URL).strip("/") or "login"
    if "next=" in new.path or new.path.partition("?")[0].strip("/") == login or "login" in new.path.lower():
        yield problem(
            "redirects",
            f"{target} redirects to a login page, {new}. An EventSource cannot log in, and gives up.",
            _misplaced(target)
            or "Exempt the streams from the middleware or the proxy that requires a login (Streams refuses by its "
            "policy, with 403). If it is right, give the doctor credentials: --token, or --header 'Cookie: "
            "sessionid=…'.",
        )
        return None
    if not target.is_same_site(new):
        yield problem(
            "redirects",
            f"{target} redirects to another site, {new}. The credentials were not sent there.",
            f"Use the URL {new} in your pages, and check that one.",
        )
        return None
    if (target.scheme, new.scheme) == ("http", "https"):
        yield warning("redirects", f"{target} redirects to https.", f"Use {new} in your pages.")
    else:
        reason = " because of the missing slash" if new.path.partition("?")[0].endswith("/") else ""
        yield warning(
            "redirects",
            f"{target} redirects to {new}{reason}. Each connection costs a round trip more.",
            _misplaced(target) or f"Use {new} in your pages: {{% stream_url %}} writes it.",
        )
    return new


def _misplaced(target: Target) -> str:
    """Return a remedy if the URL is not below the path of `streams.urls`; otherwise, or if that is unknown, ""."""
    mount = mount_path()
    path = target.path.partition("?")[0]
    if mount is None or f"{path}/".startswith(mount):
        return ""
    return f"Check the URL: the site's streams are at {mount}."


# --- Refusals ---------------------------------------------------------------------------------------------------------


def check_refusal(target: Target, response: Response) -> Finding:
    """Return the finding about an answer that is not a stream. Its body has been read."""
    status, code, html = response.status, error_code(response.body), response.content_type == "text/html"
    server = response.headers.get("Server", "")
    by = f" by {server}" if server else ""
    if status == 200:
        kind = "a page" if html else f"“{response.content_type or 'no Content-Type'}”"
        return problem(
            "answer",
            f"{target} is {kind}, not {STREAM}. An EventSource gives up.",
            "Check the URL. If it is a login page, exempt the streams from the middleware or the proxy that requires "
            "a login, or give the doctor --token or --header 'Cookie: sessionid=…'.",
        )
    text = f"{target} answers {status}{f' ({code})' if code else by}."
    if code == "asgi-required":
        return problem("answer", f"{text} The server runs WSGI.", START_ASGI.format(application_path()))
    if code:
        return _own_refusal(text, status, code)
    if status in (401, 403):
        return problem(
            "answer",
            f"{text} This answer is not from Streams, but from another view, a middleware, a proxy or a firewall.",
            "Exempt the streams from it, or give the doctor credentials: --token, or --header 'Cookie: sessionid=…'.",
        )
    if status == 404:
        mount = mount_path()
        return problem(
            "answer",
            f"{text} {GIVES_UP}",
            f"The site's streams are at {mount}: check the URL and the proxy's `location`."
            if mount
            else 'Write `path("events/", include("streams.urls"))` in the URLconf.',
        )
    if status == 429:
        return problem(
            "answer",
            f"{text} A proxy limits the connections. {GIVES_UP}",
            "In nginx, raise the number of `limit_conn streams 2000;`.",
        )
    if status in (502, 504):
        doing = "cannot reach the site's server" if status == 502 else "waited too long for the site's server"
        return problem("answer", f"{text} A proxy {doing}. {GIVES_UP}", FIND_SERVER + KEEP_CLIENTS)
    if status == 503:
        return problem("answer", f"{text} {GIVES_UP}", FIND_SERVER + KEEP_CLIENTS)
    if status == 204:
        return problem(
            "answer",
            f"{text} It tells clients not to reconnect.",
            "Check `final_events` of the view, or another channel.",
        )
    if status == 406:
        return problem(
            "answer", f"{text} A view of Django REST framework refuses {STREAM}.", "Use streams.views.EventStreamView."
        )
    return problem("answer", f"{text} {GIVES_UP}", "Look into the logs of the proxy and the site.")


def _own_refusal(text: str, status: int, code: str) -> Finding:
    """Return the finding about a refusal by Streams, whose JSON has a code. docs/reference/errors.md lists them."""
    if status in (401, 403):
        remedy = (
            "If these clients should read it, allow it in the policy or in STREAMS['PUBLIC_CHANNELS']. Otherwise give "
            "the doctor credentials: --token, or --header 'Cookie: sessionid=…'."
        )
        return problem("answer", f"{text} The policy or the token refuses. {GIVES_UP}", remedy)
    if code == "missing-channel":
        return problem(
            "answer",
            f"{text} The URL names no channel.",
            "Write it into the URL, as in …/events/news/ or ?channel=news.",
        )
    if status == 429:
        return problem(
            "answer",
            f"{text} Too many streams are open. {GIVES_UP}",
            "Raise MAX_STREAMS_PER_PROCESS, MAX_STREAMS, MAX_STREAMS_PER_USER or MAX_STREAMS_PER_ADDRESS in STREAMS. "
            "If all clients seem to have one address, name the proxy in TRUSTED_PROXIES.",
        )
    if status == 503:
        return problem(
            "answer", f"{text} The database does not answer. {GIVES_UP}", "See the findings about the database."
        )
    return problem("answer", f"{text} {GIVES_UP}", "The page “Error codes” of the documentation describes this code.")


# --- Headers of a stream ----------------------------------------------------------------------------------------------

CACHE_SIGNS = ("Age", "X-Cache", "CF-Cache-Status", "X-Cache-Status")


def check_headers(response: Response, origin: str | None) -> Findings:
    """Yield the findings about the headers of a stream."""
    yield from _check_caching(response)
    if cookies := response.headers.get_all("Set-Cookie"):
        names = ", ".join(sorted({cookie.partition("=")[0].strip() for cookie in cookies}))
        yield warning(
            "cookies",
            f"The stream sets cookies: {names}. A cache in between could give them to other users.",
            "In the settings, write `SESSION_SAVE_EVERY_REQUEST = False`. Or remove the middleware that sets them "
            "from the streams.",
        )
    else:
        yield ok("cookies", "The stream sets no cookie.")
    if origin is not None:
        yield _check_cors(response, origin)


def _check_caching(response: Response) -> Findings:
    directives = [part.strip().lower() for part in ",".join(response.headers.get_all("Cache-Control", [])).split(",")]
    names = {part.partition("=")[0] for part in directives}
    hit = next((name for name in CACHE_SIGNS if _is_hit(name, response.headers.get(name))), None)
    remedy = (
        "In nginx, write `proxy_cache off;` and no `expires` or `proxy_hide_header Cache-Control;` in the `location` "
        "of the streams. In a CDN, exclude this path from caching."
    )
    if hit:
        yield problem("caching", f"The stream came out of a cache ({hit}: {response.headers[hit]}).", remedy)
    elif names & {"public", "s-maxage", "max-age"} or not names & {"no-cache", "no-store", "private"}:
        shown = ", ".join(filter(None, directives)) or "none"
        yield problem("caching", f"A cache could store the stream: its Cache-Control is “{shown}”.", remedy)
    else:
        yield ok("caching", "Caches do not store the stream.")


def _is_hit(name: str, value: str | None) -> bool:
    return value is not None and (name == "Age" or "hit" in value.lower())


def _check_cors(response: Response, origin: str) -> Finding:
    allowed = response.headers.get("Access-Control-Allow-Origin")
    if allowed not in (origin, "*"):
        return problem(
            "CORS",
            f"Pages of {origin} cannot read the stream: Access-Control-Allow-Origin is {allowed or 'missing'}.",
            f"With django-cors-headers, write CORS_ALLOWED_ORIGINS = [{origin!r}].",
        )
    if response.headers.get("Access-Control-Allow-Credentials") != "true":
        return warning(
            "CORS",
            f"Pages of {origin} can read the stream, but not with cookies (withCredentials).",
            "If they need the user's session, write CORS_ALLOW_CREDENTIALS = True for django-cors-headers.",
        )
    return ok("CORS", f"Pages of {origin} can read the stream, also with cookies.")
